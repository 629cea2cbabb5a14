# SPDX-License-Identifier: GPL-2.0-or-later
"""Which Kamailio of all that use one NSQ this is: an id that is the same after each restart, and no other's."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path

#: Where a machine's own id is (machine-id(5)), and where D-Bus has kept it before. A container may have neither.
MACHINE_ID_FILES = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
#: Bytes of the hash; as text 8 characters of a-z and 2-7, which NSQ allows in a topic.
_SIZE = 5


def instance_id(path: str, *, machine: str, host_name: str) -> str:
    """Return the id of the Kamailio that has this runtime folder on this machine.

    The machine's id is hashed, because nobody else shall read it (machine-id(5)).

    Args:
        path: the runtime folder, without symbolic links in it: one Kamailio holds it at a time.
        machine: the machine's id, '' where there is none.
        host_name: tells apart containers, which often have the same id, or none.
    """
    # None of the three has a NUL in it.
    whole = "\0".join((path, machine, host_name)).encode("utf-8", "surrogateescape")
    digest = hashlib.blake2s(whole, digest_size=_SIZE, person=b"kemi-nsq").digest()
    return base64.b32encode(digest).decode("ascii").lower()


def machine_id(files: Iterable[Path] = MACHINE_ID_FILES) -> str:
    """Return the machine's id, or '' where there is none that can be read."""
    for file in files:
        try:
            if text := file.read_text(encoding="ascii", errors="replace").strip():
                return text
        except OSError:
            continue
    return ""
