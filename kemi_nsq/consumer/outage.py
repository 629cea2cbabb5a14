# SPDX-License-Identifier: GPL-2.0-or-later
"""An outage: something of the world fails, and that is no message's fault.

While it lasts the topics that met it take nothing, and a trial tells when it is over: a statement of our own, never a
message. What is said of it in the log: a line at its start, one a minute, one at its end.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

from kemi_nsq.names import Subscription

#: The first trial comes so long after the failure; then twice as long after each that fails, up to the limit.
TRIAL_FIRST_S = 0.1
#: What waits is consumed within 5 seconds of the end, so the trial that notices it must come in time.
TRIAL_MAX_S = 1.0
#: A trial that waited long held up what needs no trial: then the next one comes as long after it, up to this.
TRIAL_REST_S = 3.0
#: A failure so soon after a trial that succeeded belongs to the same outage: a full disk may still take a small row.
RELAPSE_S = 10.0
SAY_AGAIN_S = 60.0


class Kind(enum.Enum):
    """What can fail. The value says that it does; `over` says that it does no longer."""

    over: str

    def __new__(cls, fails: str, over: str) -> Kind:
        """Make a member from its two sentences."""
        member = object.__new__(cls)
        member._value_ = fails
        member.over = over
        return member

    DATABASE = "the database fails", "the database works again"
    DEAD_LETTERS = "no nsqd takes dead letters", "nsqd takes dead letters again"


class Outage:
    """The outages of one kind, one after the other. What its methods return is a line for the log, or ''.

    Args:
        kind: what fails.

    Attributes:
        kind: as given.
        since: second at which the outage began; None while there is none.
        cause: why it failed last.
        held: the topics that met it, which take nothing until a trial succeeds.
        trial_due: second of the next trial; None when none is wanted.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.since: float | None = None
        self.cause = ""
        self.held: tuple[Subscription, ...] = ()
        self.trial_due: float | None = None
        self._delay_s = TRIAL_FIRST_S
        self._relapses = 0
        self._settled_at = self._say_at = 0.0

    @property
    def lasts(self) -> bool:
        """Whether it fails, as far as is known."""
        return self.trial_due is not None

    @property
    def doubtful(self) -> bool:
        """Whether a trial has just succeeded: what fails now may be something that no trial can tell."""
        return self.since is not None and not self.lasts

    @property
    def shown(self) -> bool:
        """Whether it is to be shown as going on: also between a relapse and the time without one."""
        return self.lasts or (self.doubtful and self._relapses > 0)

    def failed(self, cause: str, met: Iterable[Subscription], now: float) -> str:
        """Take note of a failure, and of the topics that met it."""
        begins, relapses = self.since is None, self.doubtful
        joined = [each for each in dict.fromkeys(met) if each not in self.held]
        self.held += tuple(joined)
        self.cause = cause
        if begins:
            self.since, self._delay_s, self._relapses = now, TRIAL_FIRST_S, 0
        if begins or relapses:
            self._relapses += relapses
            self._trial_later(now)
        if begins or (relapses and self._relapses == 1):
            self._say_at = now + SAY_AGAIN_S
            after = "" if begins else ", after it seemed to be over"
            return f"{self.kind.value}{after}: {cause}; {self._who_waits()}"
        if joined and not self._relapses:
            return f"{self.kind.value}: nothing is taken from {_listed(joined)} either"
        return ""

    def tried(self, cause: str, now: float, *, took_s: float = 0.0) -> str:
        """Take note of a trial: why it failed, or '' for a success, after which the topics go on."""
        if cause:
            self.cause = cause
            self._trial_later(now, took_s)
            return self.tick(now)
        went_on, self.held, self.trial_due = self.held, (), None
        self._settled_at = now + RELAPSE_S
        return "" if self._relapses else self._over(went_on, now)

    def tick(self, now: float) -> str:
        """Say again that it lasts when a minute is over, and that it is over when it has not come back."""
        if self.since is None:
            return ""
        if self.doubtful and now >= self._settled_at:
            line = self._over((), now) if self._relapses else ""
            self.since = None
            return line
        if self.shown and now >= self._say_at:
            self._say_at = now + SAY_AGAIN_S
            return f"{self.kind.value}, for {now - self.since:.0f} s now: {self.cause}; {self._who_waits()}"
        return ""

    def next_due(self) -> float | None:
        """Return the second at which there is a trial to make, or something to say."""
        if self.since is None:
            return None
        ends = self.trial_due if self.trial_due is not None else self._settled_at
        return min(ends, self._say_at) if self.shown else ends

    def _trial_later(self, now: float, took_s: float = 0.0) -> None:
        self.trial_due = now + max(self._delay_s, min(took_s, TRIAL_REST_S))
        self._delay_s = min(2 * self._delay_s, TRIAL_MAX_S)

    def _who_waits(self) -> str:
        return (
            f"nothing is taken from {_listed(self.held)} until that is over" if self.held else "expiry and hiding wait"
        )

    def _over(self, went_on: Iterable[Subscription], now: float) -> str:
        assert self.since is not None
        goes_on = f"; consuming {_listed(went_on)} again" if went_on else ""
        return f"{self.kind.over}, after {now - self.since:.1f} s{goes_on}"


def _listed(subscriptions: Iterable[Subscription]) -> str:
    return ", ".join(map(str, subscriptions))
