# SPDX-License-Identifier: GPL-2.0-or-later
"""CPU time by stage: functions that are wrapped, each with its own time, without that of wrapped ones that it calls.

A timer takes time itself, as much as a small function, and that is subtracted. A part of it counts as time of the
function that is measured, the other part as time of the one that called it; a trial tells how large the parts are.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

_CALLS = 20_000

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Clock = Callable[[], int]


@dataclass(slots=True)
class Stage:
    """What was counted of the functions of one stage.

    Attributes:
        calls: how many.
        own_ns: their time, without that of wrapped functions in it.
        inner: calls of wrapped functions by them.
    """

    calls: int = 0
    own_ns: int = 0
    inner: int = 0


class _Running(threading.local):
    """In each thread, the time of the wrapped functions inside the one that runs now, and how many."""

    def __init__(self) -> None:
        self.inside = [0, 0]


class Timers:
    """The timers of one process. All functions of a stage run in one thread, so nothing is counted by two at once.

    Args:
        clock: nanoseconds, of this thread's CPU.

    Attributes:
        stages: what was counted, by the stage's name, in the order in which they were named.
    """

    def __init__(self, clock: Clock = time.thread_time_ns) -> None:
        self.stages: dict[str, Stage] = {}
        self._clock = clock
        self._running = _Running()

    def timed(self, name: str, function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        """Return a function that does the same, and counts in a stage."""
        stage, clock, running = self.stages.setdefault(name, Stage()), self._clock, self._running

        @functools.wraps(function)
        def call(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
            above = running.inside
            mine = running.inside = [0, 0]
            began = clock()
            try:
                return function(*arguments, **named)
            finally:
                took = clock() - began
                stage.calls += 1
                stage.own_ns += took - mine[0]
                stage.inner += mine[1]
                above[0] += took
                above[1] += 1
                running.inside = above

        return call

    def reset(self) -> None:
        """Begin to count anew."""
        for stage in self.stages.values():
            stage.calls = stage.own_ns = stage.inner = 0

    def share_inside(self) -> float:
        """Try what part of a timer's cost, 0 to 1, counts as time of the function that it measures."""
        trial = Timers(self._clock)
        empty_ns = self._loop(_nothing)
        whole_ns = self._loop(trial.timed("trial", _nothing)) - empty_ns
        inside_ns = trial.stages["trial"].own_ns - empty_ns
        return min(1.0, max(0.0, inside_ns / whole_ns)) if whole_ns > 0 else 0.5

    def _loop(self, function: Callable[[], None]) -> int:
        began = self._clock()
        for _ in range(_CALLS):
            function()
        return self._clock() - began


def net_ns(stage: Stage, cost_ns: float, share_inside: float) -> float:
    """Return the time of a stage without what its timers, and those inside it, cost.

    Args:
        stage: what was counted.
        cost_ns: of each timer.
        share_inside: see `Timers.share_inside`.
    """
    return stage.own_ns - cost_ns * (stage.calls * share_inside + stage.inner * (1 - share_inside))


def _nothing() -> None:
    pass
