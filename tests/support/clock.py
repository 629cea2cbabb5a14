# SPDX-License-Identifier: GPL-2.0-or-later
"""A clock that the test sets."""

from __future__ import annotations

from kemi_nsq.clock import Clock


class SetClock:
    """Time as the test says, and no chance.

    Attributes:
        monotonic: seconds that never go back.
        wall: seconds since the epoch.
        clock: shows both.
    """

    def __init__(self, monotonic: float = 1000.0, wall: float = 1_700_000_000.0) -> None:
        self.monotonic = monotonic
        self.wall = wall
        self.clock = Clock(
            monotonic=lambda: self.monotonic,
            wall=lambda: self.wall,
            wall_ns=lambda: int(self.wall * 1e9),
            chance=lambda: 0.5,
            sleep=self.pass_time,
        )

    def pass_time(self, seconds: float) -> None:
        """Let time pass, by both."""
        self.monotonic += seconds
        self.wall += seconds
