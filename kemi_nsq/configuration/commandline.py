# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line of Kamailio (main.c), as far as it defines names and says which configuration is read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

#: Options with a value, written together with it or as the next argument.
_WITH_VALUE = "abfgGlLmMnNOPQruwtTWxXYA"


def values(arguments: Sequence[str], option: str) -> Iterator[str]:
    """Find the values of an option, such as `f`; the first argument is the program."""
    waiting = iter(arguments[1:])
    for argument in waiting:
        if re.match(rf"-[{_WITH_VALUE}]", argument):
            value = argument[2:] or next(waiting, "")
            if argument[1] == option:
                yield value


def given(arguments: Sequence[str]) -> dict[str, str]:
    """Return the defines of a command line, `-A NAME` and `-A NAME=value`."""
    return {name: text for name, _, text in (value.partition("=") for value in values(arguments, "A"))}
