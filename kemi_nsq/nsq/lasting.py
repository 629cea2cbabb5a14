# SPDX-License-Identifier: GPL-2.0-or-later
"""When to say of something that it lasts."""

from __future__ import annotations

import math

from kemi_nsq.clock import local_time

#: How often it is said that something lasts.
SAY_AGAIN_S = 60.0


class Lasting:
    """When to say of something that it lasts: at its beginning, once a minute, and at its end.

    What ends and begins again and again is told no more often than that: only what lasts on when a minute is over.

    Attributes:
        since: monotonic second of its beginning; None if it is over.
    """

    def __init__(self) -> None:
        self.since: float | None = None
        self._say_at = -math.inf
        self._told = False

    def lasts(self, now: float) -> bool:
        """Take note that it lasts; return whether to say so."""
        if self.since is None:
            self.since = now
        if now < self._say_at:
            return False
        self._say_at, self._told = now + SAY_AGAIN_S, True
        return True

    def over(self) -> bool:
        """Take note that it is over; return whether to say so."""
        self.since, told, self._told = None, self._told, False
        return told

    def told(self, why: str, now: float, wall: float) -> str:
        """Say since when it lasts, and why; `wall` is `now` by the wall clock."""
        began = now if self.since is None else self.since
        return f"since {local_time(wall - (now - began))}: {why}"
