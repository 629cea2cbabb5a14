# SPDX-License-Identifier: GPL-2.0-or-later
"""`--config FILE`: the settings that a kamailio.cfg defines, for every verb that loads settings; and `--run-dir`.

They win over the environment, as in Kamailio. Where it is not given, no kamailio.cfg is read.
"""

from __future__ import annotations

from contextvars import ContextVar
from pathlib import Path
from typing import Annotated

import typer

from kemi_nsq import loading
from kemi_nsq.configuration.reader import read
from kemi_nsq.errors import UsageError
from kemi_nsq.loading import host_name
from kemi_nsq.settings import PREFIX, Settings
from kemi_nsq.tools.doctor import kamailio

#: The option of a verb that is about one Kamailio.
RunDir = Annotated[Path | None, typer.Option(help="Runtime folder of the Kamailio; NSQ_RUN_DIR where left out.")]
_CHOSEN: ContextVar[Path | None] = ContextVar("configuration", default=None)
#: Where Debian's unit starts Kamailio, and names of files without a folder are looked for first.
_FOLDER = Path("/")


def choose(file: Path | None) -> None:
    """Take the settings from a kamailio.cfg from now on.

    Raises:
        UsageError: it cannot be read.
    """
    if file is not None:
        try:
            with file.open("rb"):
                pass
        except OSError as error:
            raise UsageError(f"--config {file}: {error.strerror}") from None
    _CHOSEN.set(file and file.absolute())


def chosen() -> Path | None:
    """Return the kamailio.cfg that was chosen."""
    return _CHOSEN.get()


def settings(defines: dict[str, str] | None = None) -> Settings:
    """Load the settings: those that are given, then those of the chosen kamailio.cfg, then the environment.

    Raises:
        SettingsError: one is wrong.
    """
    file = chosen()
    theirs = (
        {} if file is None else read(file, kamailio.own_defines(kamailio.release()), folder=_FOLDER).settings(PREFIX)
    )
    return loading.load({**theirs, **(defines or {})}, host_name=host_name())


def run_dir(given: Path | None) -> Path:
    """Return the runtime folder that was given, or else the one of the settings.

    Raises:
        SettingsError: a setting is wrong.
    """
    return given or Path(settings().run_dir)
