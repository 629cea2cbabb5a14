# SPDX-License-Identifier: GPL-2.0-or-later
"""How long work is ended by Ctrl-C, and how it says how long it takes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: The exit code of a program that Ctrl-C has ended, as shells have it.
INTERRUPTED = 128 + signal.SIGINT


class _State:
    """How Ctrl-C stands in this process. Only the main thread looks at it: there Python runs handlers of signals.

    Attributes:
        held: contexts of `uninterrupted` that have not ended.
        came: Ctrl-C came meanwhile.
    """

    held = 0
    came = False


def interrupt_once() -> None:
    """Have the first Ctrl-C raise KeyboardInterrupt, and no other: what it ends must not be left half ended."""
    signal.signal(signal.SIGINT, _interrupt)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back while the context lasts. Processes that are made in it never hear of it.

    These inherit the mask of signals. For this process a mask is not enough: the signal would go to another thread,
    such as one that shows the progress, and Python would run its handler in this one all the same.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    _State.held += 1
    try:
        yield
    finally:
        _State.held -= 1
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if _State.came and not _State.held:
            _State.came = False
            raise KeyboardInterrupt


def times(taken_s: float, left_s: float | None) -> str:
    """Write the seconds so far, and those that are left where somebody knows."""
    return f"{taken_s:.0f} s" + ("" if left_s is None else f", about {max(0.0, left_s):.0f} s left")


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGINT, lambda _signal, _frame: None)
    if _State.held:
        _State.came = True
    else:
        raise KeyboardInterrupt
