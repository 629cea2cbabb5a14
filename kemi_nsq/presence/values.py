# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading values: choices, whole numbers, texts for documents.

Each error is one line that names the field, its value and what is wanted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from kemi_nsq.errors import PayloadError

Choice = TypeVar("Choice")

MAX_INT32 = 2**31 - 1
_SHOWN = 60  # characters of a wrong value that an error line repeats

_BREAK = re.compile("[\t\n\r\x0b\x0c\x85\u2028\u2029]+")
_SURROGATE = re.compile("[\ud800-\udfff]")
# What XML 1.0 does not allow (section 2.2), and the rest of the controls, which no display needs.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ufffe\uffff]")
_WHOLE = re.compile(r"([0-9]+)(?:\.0+)?")


def choice(name: str, value: str, table: Mapping[str, Choice], wanted: str) -> Choice:
    """Look a value up in a table with keys in lower case.

    Raises:
        PayloadError: the table does not hold the value.
    """
    found = table.get(value.lower())
    if found is None:
        raise wrong(name, value, wanted)
    return found


def whole(name: str, value: str, *, least: int, wanted: str) -> int:
    """Read a whole number in decimal digits (`60`, also `60.0`, as JSON knows one number type).

    Returns:
        The number; everything above 2^31-1 as 2^31, so that the caller can refuse or clamp it.

    Raises:
        PayloadError: no whole number, or below `least`.
    """
    found = _WHOLE.fullmatch(value)
    digits = found[1].lstrip("0") if found else ""
    # Ten digits hold every 32-bit number; longer ones are not converted at all.
    number = min(int(digits or "0"), MAX_INT32 + 1) if len(digits) <= len(str(MAX_INT32)) else MAX_INT32 + 1
    if found is None or number < least:
        raise wrong(name, value, wanted)
    return number


def clean(value: str) -> str:
    """Make text safe for a document: line breaks become a blank, controls go, lone surrogates turn U+FFFD."""
    if value.isprintable():  # has none of them, as nearly every text
        return value.strip()
    return _SURROGATE.sub("\ufffd", _CONTROL.sub("", _BREAK.sub(" ", value))).strip()


def wrong(name: str, value: str, wanted: str) -> PayloadError:
    """Make the error for a field with a bad value; the value is shown escaped and shortened."""
    shown = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}..."
    return PayloadError(f"{name} is {shown!r}; {wanted} is wanted")


def missing(name: str, wanted: str) -> PayloadError:
    """Make the error for a field that is not there."""
    return PayloadError(f"{name} is missing; {wanted} is wanted")
