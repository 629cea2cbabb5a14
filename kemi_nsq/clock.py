# SPDX-License-Identifier: GPL-2.0-or-later
"""Time and chance, which come to the core as an argument: so a test, or a simulation, decides on them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """Where a part of ours looks for the time, and throws dice.

    Attributes:
        monotonic: returns seconds that never go back; all processes of a machine share them.
        wall_ns: returns nanoseconds since the epoch, by a clock that an operator may set back.
        chance: returns a random number, at least 0 and below 1.
    """

    monotonic: Callable[[], float] = time.monotonic
    wall_ns: Callable[[], int] = time.time_ns
    chance: Callable[[], float] = random.random

    def wall(self) -> float:
        """Return seconds since the epoch."""
        return self.wall_ns() / 1e9


#: That of the machine.
SYSTEM = Clock()
