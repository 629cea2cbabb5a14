# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads the settings: from `#!define` in kamailio.cfg, which wins, or from the environment; and writes them as text.

Everything that is wrong is reported at once, one line a setting, and Kamailio does not start.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from kemi_nsq.databaseurl import without_secrets
from kemi_nsq.errors import SettingsError
from kemi_nsq.filename import readable
from kemi_nsq.settings import CONFIGURATION_ONLY, PREFIX, Settings, allowed, names, rows


def load(defines: Mapping[str, str], *, host_name: str = "localhost") -> Settings:
    """Read and check all settings.

    Args:
        defines: `#!define` names that start with NSQ_ and their values, quotes removed. They win over the environment.
        host_name: default of NSQ_NODE; characters that NSQ refuses become `-`.

    Raises:
        SettingsError: at least one name is unknown or one value is not allowed.
    """
    known = {*names(), *CONFIGURATION_ONLY}
    unknown = [
        f"{name} ({where}) is no setting of kemi-nsq; did you mean {nearest(name, names())}?"
        for where, given in (("#!define", defines), ("environment", os.environ))
        for name in sorted(given)
        if name.startswith(PREFIX) and name not in known
    ]
    values = {name[len(PREFIX) :].lower(): text for name, text in defines.items() if name in names()}
    if "node" not in values and "NSQ_NODE" not in os.environ:
        values["node"] = re.sub(r"[^.a-zA-Z0-9_-]", "-", host_name)[:32] or "localhost"
    try:
        settings = Settings(**values)  # type: ignore[arg-type]  # texts, which the validators turn into the types
    except ValidationError as error:
        raise SettingsError(unknown + [_problem(detail) for detail in error.errors()]) from None
    if unknown:
        raise SettingsError(unknown)
    return settings


def _problem(detail: ErrorDetails) -> str:
    field = str(detail["loc"][0])
    reason = detail["msg"].removeprefix("Value error, ")
    # A database URL may hold a password, wherever and however it is wrong.
    shown = repr(detail["input"]) in reason or field == "db_url"
    found = "" if shown else f" {detail['input']!r}"
    return f"{PREFIX}{field.upper()}{found}: {reason}; allowed: {allowed(field)}"


def nearest(name: str, known: Sequence[str]) -> str:
    """Return which of some known names a misspelled one looks like most."""
    from difflib import get_close_matches  # only needed to report a mistake

    return next(iter(get_close_matches(name, known, n=1, cutoff=0)))


def in_force(settings: Settings) -> dict[str, str]:
    """Return the text of each setting, by its name; without passwords."""
    return {
        name: without_secrets(value_text(getattr(settings, field)))
        if field == "db_url"
        else value_text(getattr(settings, field))
        for name, field, _ in rows()
    }


def value_text(value: object) -> str:
    """Write the value of a setting as one would type it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, Mapping):
        return ",".join(f"{word}={':'.join(filter(None, astuple(meaning)))}" for word, meaning in value.items())
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return readable(str(value))


def host_name() -> str:
    """Return the name of this machine, as the operating system has it."""
    return os.uname().nodename
