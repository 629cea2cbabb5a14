# SPDX-License-Identifier: GPL-2.0-or-later
"""Time and chance, which come to the core as an argument: so a test, or a simulation, decides on them."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """Where a part of ours looks for the time, and throws dice.

    Attributes:
        monotonic: returns seconds that never go back; all processes of a machine share them.
        wall: returns seconds since the epoch, by a clock that an operator may set back.
        wall_ns: returns the same in nanoseconds, for what is put in order.
        chance: returns a random number, at least 0 and below 1.
        entropy: returns so many bytes that nobody can guess.
        sleep: waits so many seconds, while other threads of the process run.
    """

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    wall_ns: Callable[[], int] = time.time_ns
    chance: Callable[[], float] = random.random
    entropy: Callable[[int], bytes] = os.urandom
    sleep: Callable[[float], None] = time.sleep


def local_time(epoch: float, pattern: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Write a second since the epoch as the operator's clock shows it.

    Raises:
        ValueError, OverflowError, OSError: it is no second that a calendar has.
    """
    return time.strftime(pattern, time.localtime(epoch))


#: That of the machine.
SYSTEM = Clock()
