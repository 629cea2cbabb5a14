# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps a failure that repeats itself from filling the log; the counters count all of them."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.host import Host, Level

#: Lines of one kind in one window; further ones are left out, and the next window says how many.
BURST = 20
WINDOW_S = 10.0
#: Of these, so many may have a traceback behind them.
TRACES = 3


@dataclass(slots=True)
class _Window:
    """The lines of one kind since `started`."""

    started: float
    lines: int = 0


class Quiet:
    """Writes at most `BURST` lines of a kind in `WINDOW_S`.

    Args:
        host: has the log.
        clock: tells the time.
    """

    def __init__(self, host: Host, clock: Clock = SYSTEM) -> None:
        self._host = host
        self._clock = clock
        self._windows: dict[str, _Window] = {}

    def log(self, level: Level, kind: str, text: str, *, error: BaseException | None = None) -> None:
        """Write a line, unless many of this kind were written lately. Kinds are names in our code, never data.

        Args:
            level: of the line.
            kind: what it is about.
            text: the line.
            error: a bug of ours, whose traceback follows, a line each.
        """
        now = self._clock.monotonic()
        window = self._windows.setdefault(kind, _Window(now))
        left_out = 0
        if now - window.started >= WINDOW_S:
            left_out = max(0, window.lines - BURST)
            window.started, window.lines = now, 0
        window.lines += 1
        if window.lines <= BURST:
            self._host.log(level, f"{text} ({left_out} more like it before)" if left_out else text)
        if error is not None and window.lines <= TRACES:
            for line in "".join(traceback.format_exception(error)).splitlines():
                self._host.log(Level.ERROR, line)
