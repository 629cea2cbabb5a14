# SPDX-License-Identifier: GPL-2.0-or-later
"""How long work is ended by Ctrl-C, and how it says how long it takes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

#: The exit code of a program that Ctrl-C has ended, as shells have it.
INTERRUPTED = 128 + signal.SIGINT


def interrupt_once() -> None:
    """Have the first Ctrl-C raise KeyboardInterrupt, and no other: what it ends must not be left half ended."""
    signal.signal(signal.SIGINT, _interrupt)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back while the context lasts. Processes that are made in it never hear of it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def times(taken_s: float, left_s: float | None) -> str:
    """Write the seconds so far, and those that are left where somebody knows."""
    return f"{taken_s:.0f} s" + ("" if left_s is None else f", about {max(0.0, left_s):.0f} s left")


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGINT, lambda _signal, _frame: None)
    raise KeyboardInterrupt
