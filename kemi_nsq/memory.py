# SPDX-License-Identifier: GPL-2.0-or-later
"""What is remembered of names from the network, never more than so many; and when Python looks for garbage."""

from __future__ import annotations

import gc
from collections import OrderedDict
from typing import TypeVar

Name = TypeVar("Name")
Value = TypeVar("Value")

#: Objects that may be made and not freed until Python looks for garbage among them (gc, `set_threshold`). All that a
#: batch of 400 events has made waits for its commit: some 6,000, which are freed by themselves then. Python looks
#: when there are 700, and would look at each of them, twice or thrice, for nothing: 7 % of the time of a consumer.
_OBJECTS = 10_000


def collect_seldom() -> None:
    """Let a process that is to run for ever look for garbage seldom, and never among what is there already."""
    gc.freeze()
    gc.set_threshold(_OBJECTS)


def remember(known: OrderedDict[Name, Value], name: Name, value: Value, *, most: int) -> None:
    """Set a value, and forget the name that was set longest ago if there are more than `most`."""
    known[name] = value
    known.move_to_end(name)
    if len(known) > most:
        known.popitem(last=False)
