# SPDX-License-Identifier: GPL-2.0-or-later
"""What is remembered of names that come from the network: never more than so many."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

Name = TypeVar("Name")
Value = TypeVar("Value")


def remember(known: OrderedDict[Name, Value], name: Name, value: Value, *, most: int) -> None:
    """Set a value, and forget the name that was set longest ago if there are more than `most`."""
    known[name] = value
    known.move_to_end(name)
    if len(known) > most:
        known.popitem(last=False)
