# SPDX-License-Identifier: GPL-2.0-or-later
"""Backoff of one topic: when its route fails for every event, a backend of its own is down, not one event wrong."""

from __future__ import annotations

from kemi_nsq.names import Subscription

#: So many different messages in a row must fail.
FAILURES = 5
FIRST_S = 1.0
SAY_AGAIN_S = 60.0


class Backoff:
    """Holds a topic for a growing time, then lets one message try. What its methods return is a line, or ''.

    Args:
        subscription: the topic, and the channel of it.
        most_s: NSQ_BACKOFF_MAX.

    Attributes:
        subscription: as given.
        until: second until which nothing is taken; None while messages, or one on trial, may come.
    """

    def __init__(self, subscription: Subscription, most_s: float) -> None:
        self.subscription = subscription
        self.until: float | None = None
        self._most_s = most_s
        self._failed: set[str] = set()
        self._since: float | None = None
        self._delay_s = min(FIRST_S, most_s)
        self._say_at = 0.0

    @property
    def limit(self) -> int | None:
        """How many messages the topic may take: none, one on trial, or as many as usual (None)."""
        if self.until is not None:
            return 0
        return None if self._since is None else 1

    def failed(self, message_id: str, now: float) -> str:
        """Take note of a message whose route failed."""
        if self._since is not None:
            self._delay_s = min(2 * self._delay_s, self._most_s)
            self.until = now + self._delay_s
            return ""
        self._failed.add(message_id)
        if len(self._failed) < FAILURES:
            return ""
        self._since, self.until, self._say_at = now, now + self._delay_s, now + SAY_AGAIN_S
        return (
            f"{FAILURES} events of {self.subscription} failed in a row: nothing is taken from it for "
            f"{self._delay_s:g} s, then one on trial, and so on, later each time"
        )

    def succeeded(self, now: float) -> str:
        """Say that it is over, if it had begun. A success ends it, so this object is of no more use."""
        return (
            ""
            if self._since is None
            else f"events of {self.subscription} succeed again, after {now - self._since:.0f} s"
        )

    def tick(self, now: float) -> str:
        """Let one message try when the time is up; say again that it lasts when a minute is over."""
        if self._since is None:
            return ""
        if self.until is not None and now >= self.until:
            self.until = None
        if now < self._say_at:
            return ""
        self._say_at = now + SAY_AGAIN_S
        for_s = now - self._since
        return f"events of {self.subscription} have failed for {for_s:.0f} s; {self._delay_s:g} s between trials"

    def next_due(self) -> float | None:
        """Return the second at which `tick` has something to do."""
        if self._since is None:
            return None
        return self._say_at if self.until is None else min(self.until, self._say_at)
