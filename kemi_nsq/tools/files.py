# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the files are that Kamailio loads and includes, and those for who watches it: nsq.cfg, alerts, examples."""

from __future__ import annotations

from pathlib import Path

import kemi_nsq
from kemi_nsq.errors import UsageError

_PACKAGE = Path(kemi_nsq.__file__).parent
#: Where a wheel has them (hatch_build.py; in the Debian package a link to /usr/share/kemi-nsq), and where a checkout.
_FOLDERS = (_PACKAGE / "share", _PACKAGE.parent / "kamailio")
_KINDS = (".cfg", ".json", ".py", ".sql", ".yml")


def folder() -> Path:
    """Return the folder with the files, links resolved.

    Raises:
        UsageError: this installation has none.
    """
    for each in _FOLDERS:
        if (each / "nsq.py").is_file():
            return each.resolve()
    raise UsageError(f"this installation has no nsq.py, neither in {_FOLDERS[0]} nor in {_FOLDERS[1]}: install it anew")


def path_of(name: str) -> Path:
    """Return the path of one file, named as in the folder.

    Raises:
        UsageError: there is none of this name; the message has those that there are.
    """
    there = sorted(str(each.relative_to(folder())) for each in folder().rglob("*") if each.suffix in _KINDS)
    if name not in there:
        raise UsageError(f"no file is called {name!r}; there are {', '.join(there)}")
    return folder() / name
