# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting for a fact with a deadline: what tests do instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event
from typing import TypeVar

T = TypeVar("T")

#: Seconds between two looks at a fact that nobody announces.
POLL_INTERVAL_S = 0.01


def until(fact: Callable[[], T | None], *, timeout_s: float = 5.0, what: str = "a fact") -> T:
    """Look at a fact until it is true.

    Args:
        fact: returns something true when it holds. An exception counts as "not yet".
        timeout_s: seconds to wait at most; the fact is looked at once more when they have passed.
        what: the fact in words, for the message of the error.

    Returns:
        What `fact` returned, the first time that it was true.

    Raises:
        AssertionError: the fact did not come true in time; says what was waited for and what was seen last.
    """
    deadline = time.monotonic() + timeout_s
    nobody_sets_this = Event()
    while True:
        last_look = time.monotonic() >= deadline
        error: Exception | None = None
        try:
            value = fact()
            if value:
                return value
            seen = f"the last value was {value!r}"
        except Exception as caught:
            error, seen = caught, f"the last look raised {type(caught).__name__}: {caught}"
        if last_look:
            raise AssertionError(f"waited {timeout_s:g} s for {what}: {seen}") from error
        nobody_sets_this.wait(POLL_INTERVAL_S)
