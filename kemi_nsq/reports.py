# SPDX-License-Identifier: GPL-2.0-or-later
"""What a thread has to say to the main thread of its process."""

from __future__ import annotations

from dataclasses import dataclass

from kemi_nsq.counters import Counter
from kemi_nsq.host import Level


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Something for the log, if it has text, and the counters, which only the main thread may write."""

    level: Level = Level.DEBUG
    text: str = ""
    counter: Counter | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A thread ended by an error of ours; the main thread must start anew."""

    trace: str
