# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the clocks go right by which events are put in order: those of all nsqd. No socket or clock in here.

An event is put in order by the time at which its nsqd took it (`row`). If the clock of a nsqd is set back, what it
takes from then on is older than what is stored, and lamps do not follow. The messages do not tell: an old one may have
waited. What tells is

- the `Date` of an answer by HTTP. Held against our monotonic clock, which nobody sets, it shows each step; held against
  that of another nsqd, that one of the two is wrong;
- the table. If the latest of what is stored is later than any nsqd's clock shows, that clock was ahead, or is behind
  now. That holds after a restart of ours, too.

Our own clock puts nothing in order, so it is judged last, and blamed only if all nsqd differ from it alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from typing import NamedTuple

from kemi_nsq.clock import local_time
from kemi_nsq.counters import Counter
from kemi_nsq.host import Level, Report
from kemi_nsq.names import Address

#: Clocks that differ, or went back, by less than this for certain are not spoken of. A `Date` has whole seconds, so at
#: the first look up to 2 s less are certain than are true; after some looks there is little between the two.
WORTH_S = 1.0
#: What differs by a second, or nearly so, shall not come and go.
_STILL_WORTH_S = 0.5
#: The same where no nsqd says what time it is, and all that we have is our own clock.
ALONE_WORTH_S = 60.0
#: By how much a clock that nobody sets may run away from another one: what ntp_adjtime(2) may correct.
_DRIFT = 500e-6
_NS = 10**9
_SET_BACK = (
    "Lamps do not follow until then, and nsqd may keep publishers waiting. If it is wrong now, set it right; if it was "
    "wrong before, restart that nsqd and reset all"
)
_STORED = "Lamps do not follow until then. If nsqd's clock is right, reset all, and wait NSQ_PUA_TOMBSTONE seconds"
_APART = (
    "What comes through one soon after the other may be taken for older. Set their clocks alike, or use "
    "NSQ_PUA_ORDER_FIELD"
)
_OURS = "NSQ_MAX_EVENT_AGE and a reset by an operator go by it"


class Reading(NamedTuple):
    """What a clock showed.

    Attributes:
        time: seconds since the epoch.
        asked_at: the monotonic second before it was looked at.
        answered_at: and that after.
        cut_s: by up to how much it has shown more: a `Date` has whole seconds.
    """

    time: float
    asked_at: float
    answered_at: float
    cut_s: float = 1.0


class _Lead(NamedTuple):
    """By how many seconds a clock is ahead of our monotonic one, as found at a monotonic second: at least, and most."""

    least: float
    most: float
    at: float

    @classmethod
    def of(cls, reading: Reading) -> _Lead:
        time, asked_at, answered_at, cut_s = reading
        return cls(time - answered_at, time + cut_s - asked_at, answered_at)

    @property
    def about(self) -> float:
        return (self.least + self.most) / 2

    def later(self, now: float) -> _Lead:
        """Return what is certain of it later, unless somebody sets it."""
        drift = _DRIFT * max(0.0, now - self.at)
        return _Lead(self.least - drift, self.most + drift, now)

    def narrowed(self, other: _Lead) -> _Lead:
        """Return what is certain if both are true; this one if they cannot be."""
        both = _Lead(max(self.least, other.least), min(self.most, other.most), self.at)
        return both if both.least <= both.most else self


class _Wrong(NamedTuple):
    """What is wrong; what it means and what helps; what to say when it is over; and how bad it is."""

    text: str
    advice: str
    over: str
    level: Level = Level.ERROR


class Clocks:
    """Judges them.

    Two threads use it: the one that has the table calls `look_at_table`, another one the rest.

    Args:
        newest: returns the position of the latest order key in the table, in nanoseconds; 0 for an empty one.
    """

    def __init__(self, newest: Callable[[], int]) -> None:
        self._newest = newest
        self._stored_s = 0.0
        self._leads: dict[Address, _Lead] = {}
        #: nsqd that were set back, what their clocks show when they have caught up, and by how much it was.
        self._back: dict[Address, tuple[float, float]] = {}
        self._told: dict[str, _Wrong] = {}

    def look_at_table(self) -> None:
        """See what the latest is that is stored.

        Raises:
            DatabaseError: the table could not be read.
        """
        self._stored_s = self._newest() / _NS

    def look(self, asked: Set[Address], found: Mapping[Address, Reading], ours: Reading) -> tuple[list[Report], str]:
        """Judge what was found.

        Args:
            asked: all nsqd; what is known of one that did not answer stays.
            found: what the clocks of those that answered show.
            ours: what our clock shows.

        Returns:
            What has to be said now, and what is wrong, in words; '' for nothing.
        """
        self._follow(asked, {nsqd: _Lead.of(reading) for nsqd, reading in found.items()})
        wrong = dict(self._wrong(_Lead.of(ours)))
        over = [each.over for kind, each in self._told.items() if kind not in wrong]
        begun = [each for kind, each in wrong.items() if kind not in self._told]
        self._told = wrong
        news = [Report(level=Level.WARNING, text=text) for text in over]
        news += [
            Report(level=each.level, text=f"{each.text}. {each.advice}", counter=Counter.CLOCKS_WRONG) for each in begun
        ]
        return news, "; ".join(each.text for each in wrong.values())

    def _follow(self, asked: Set[Address], found: Mapping[Address, _Lead]) -> None:
        """Note which clocks were set back, and which of those have caught up."""
        self._leads = {nsqd: lead for nsqd, lead in self._leads.items() if nsqd in asked}
        self._back = {nsqd: back for nsqd, back in self._back.items() if nsqd in asked}
        for nsqd, lead in found.items():
            last = self._leads.get(nsqd, lead).later(lead.at)
            until, _ = self._back.get(nsqd, (0.0, 0.0))
            if last.least - lead.most >= WORTH_S:
                self._back[nsqd] = max(until, last.most + lead.at), last.about - lead.about
            elif lead.least + lead.at >= until:
                self._back.pop(nsqd, None)
            self._leads[nsqd] = lead.narrowed(last)

    def _wrong(self, ours: _Lead) -> Iterator[tuple[str, _Wrong]]:
        """Yield what is wrong, by a name for each."""
        now = ours.at
        for nsqd, (until, by_s) in sorted(self._back.items()):
            yield f"back {nsqd}", _set_back(nsqd, until, by_s)
        others = {nsqd: lead.later(now) for nsqd, lead in self._leads.items() if nsqd not in self._back}
        apart = _apart(others, ours, self._worth("apart"))
        if apart:
            yield "apart", apart
        if self._back:
            return  # which explains all else
        latest = max((lead.most for lead in others.values()), default=ours.most)
        if self._stored_s - now - latest >= (self._worth("stored") if others else ALONE_WORTH_S):
            yield "stored", _stored_ahead(self._stored_s - now - latest)
        elif not apart and (differs := _ours(others, ours, self._worth("ours"))):
            yield "ours", differs

    def _worth(self, kind: str) -> float:
        return _STILL_WORTH_S if kind in self._told else WORTH_S


def _set_back(nsqd: Address, until: float, by_s: float) -> _Wrong:
    return _Wrong(
        f"the clock of nsqd {nsqd} went back by about {by_s:.0f} s: until it shows {local_time(until)}, what "
        "it takes is older than what it took before",
        _SET_BACK,
        f"the clock of nsqd {nsqd} has caught up",
    )


def _stored_ahead(by_s: float) -> _Wrong:
    return _Wrong(
        f"presence is stored that is about {by_s:.0f} s ahead of the clocks of all nsqd: until these have caught up, "
        "events about the same are taken for older",
        _STORED,
        "the clocks of nsqd have caught up with what is stored",
    )


def _apart(leads: Mapping[Address, _Lead], ours: _Lead, worth_s: float) -> _Wrong | None:
    """Say that the clocks of two nsqd differ."""
    if not leads:
        return None
    slow, fast = min(leads, key=lambda nsqd: leads[nsqd].most), max(leads, key=lambda nsqd: leads[nsqd].least)
    if leads[fast].least - leads[slow].most < worth_s:
        return None
    slow_s, fast_s = leads[slow].about - ours.about, leads[fast].about - ours.about
    return _Wrong(
        f"the clocks of nsqd {slow} and {fast} are about {fast_s - slow_s:.0f} s apart: from ours they differ by "
        f"{round(slow_s):+d} and {round(fast_s):+d} s",
        _APART,
        "the clocks of all nsqd agree again",
    )


def _ours(leads: Mapping[Address, _Lead], ours: _Lead, worth_s: float) -> _Wrong | None:
    """Say that our clock differs from those of all nsqd, which agree."""
    if not leads:
        return None
    behind_s = min(lead.least for lead in leads.values()) - ours.most
    ahead_s = ours.least - max(lead.most for lead in leads.values())
    if max(behind_s, ahead_s) < worth_s:
        return None
    by_s = sum(lead.about for lead in leads.values()) / len(leads) - ours.about
    which = f"those of all {len(leads)} nsqd" if len(leads) > 1 else f"that of nsqd {min(leads)}"
    blame = "it is probably ours that is wrong" if len(leads) > 1 else "one of them is wrong"
    return _Wrong(
        f"our clock is about {abs(by_s):.0f} s {'behind' if behind_s > ahead_s else 'ahead of'} {which}: {blame}",
        _OURS,
        "our clock and those of nsqd agree again",
        Level.WARNING,
    )
