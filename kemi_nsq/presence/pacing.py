# SPDX-License-Identifier: GPL-2.0-or-later
"""What is done a moment later: NOTIFYs that come too often or did not leave, and hiding what is over; no clock inside.

What is over was told once. A moment later it is hidden, together with others, so that this costs a statement for many
of them. A NOTIFY that was refused, or may never have left, is tried again before that, and then until it leaves; one
that was too large, after it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable
from itertools import chain, islice

from kemi_nsq.presence.row import Key, thing_of

#: Seconds from the NOTIFY to the hiding. With what a batch takes, it stays below a second.
AFTER_S = 0.5
#: More than these are left to the next sweep.
_MOST = 20_000
#: Seconds between two tries of what nobody could be told, at most.
_AGAIN_MOST_S = 30.0
#: So many of each package are told again in one go, and so many rows are ended, or hidden by a sweep: each may have a
#: NOTIFY, which together take some tenths of a second. Events that came meanwhile go before the rest.
AT_ONCE = 50


class Hiding:
    """The rows that are to be hidden, by their order keys."""

    def __init__(self) -> None:
        self._ruids: list[str] = []
        self._large: set[Key] = set()
        self._due: float | None = None

    def add(self, ruids: Collection[str], large: Collection[Key], now: float) -> None:
        """Take rows that were told.

        Args:
            ruids: their order keys; perhaps none.
            large: those whose document was too large to be told.
            now: monotonic seconds.
        """
        if len(self._large) < _MOST:
            self._large.update(large)
        self._ruids += list(ruids)[: max(0, _MOST - len(self._ruids))]
        if (self._ruids or self._large) and self._due is None:
            self._due = now + AFTER_S

    def has(self, ruid: str) -> bool:
        """Whether a row of the same key is to be hidden, which was told then."""
        return thing_of(ruid) in map(thing_of, self._ruids)

    def next_due(self) -> float | None:
        """Return the monotonic second at which `take` has something to return."""
        return self._due

    def take(self) -> tuple[list[str], list[Key]]:
        """Forget and return what is to be hidden, and what is to be told after that."""
        taken = self._ruids, sorted(self._large)
        self._ruids, self._large, self._due = [], set(), None
        return taken


class Untold:
    """Presentities and packages whose NOTIFY was refused, or perhaps never left: told again until that succeeds.

    Some of them are tried soon, and less and less often while nothing of what is tried succeeds; the rest follows at
    once when something does.

    Args:
        soon_s: seconds to the first try.
    """

    def __init__(self, soon_s: float) -> None:
        self._keys: dict[Key, None] = {}
        self._due: float | None = None
        self._soon_s = self._wait_s = soon_s

    def add(self, keys: Iterable[Key], now: float) -> bool:
        """Take some at a monotonic second, those to be tried first at first; return whether there was room for all."""
        self._keys |= dict.fromkeys(islice(keys, _MOST))
        fits = len(self._keys) <= _MOST
        while len(self._keys) > _MOST:
            self._keys.popitem()
        if self._keys and self._due is None:
            self._due = now + self._wait_s
        return fits

    def next_due(self) -> float | None:
        """Return the monotonic second at which `take` has something to return."""
        return self._due

    def take(self, now: float) -> list[Key]:
        """Forget and return what may be tried now; what is refused again is to be given back by `add`."""
        if self._due is None or now < self._due:
            return []
        taken = self._some()
        for key in taken:
            del self._keys[key]
        self._wait_s = min(max(AFTER_S, 2 * self._wait_s), _AGAIN_MOST_S)
        self._due = now + self._wait_s if self._keys else None
        return taken

    def _some(self) -> list[Key]:
        """Return the first of each package: one that is always refused must not keep the others waiting."""
        some: dict[str, list[Key]] = {}
        for key in self._keys:
            of_package = some.setdefault(key[1], [])
            if len(of_package) < AT_ONCE:
                of_package.append(key)
        return list(chain.from_iterable(some.values()))

    def told(self, key: Key) -> None:
        """Note that a NOTIFY of one has left, for whatever reason."""
        self._keys.pop(key, None)

    def succeeded(self, now: float) -> None:
        """Note, at a monotonic second, that something of what was taken was told: what is left may go now."""
        self._wait_s = self._soon_s
        if self._keys:
            self._due = now


class Pacer:
    """Holds back what would come too often: at most once in an interval for each key, the first at once.

    Args:
        interval_s: seconds between two of one key; 0 holds nothing back.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._sent: OrderedDict[Key, float] = OrderedDict()
        self._held: dict[Key, float] = {}

    def admit(self, key: Key, now: float, *, urgent: bool) -> bool:
        """Return whether `key` may go now; if not, `due` returns it later, once."""
        last = self._sent.get(key)
        if urgent or last is None or now >= last + self._interval_s:
            self._send(key, now)
            return True
        self._held[key] = last + self._interval_s
        return False

    def due(self, now: float) -> list[Key]:
        """Return the keys that were held back and may go now."""
        ready = [key for key, due in self._held.items() if due <= now]
        for key in ready:
            self._send(key, now)
        return ready

    def next_due(self) -> float | None:
        """Return when `due` has something to return."""
        return min(self._held.values(), default=None)

    def _send(self, key: Key, now: float) -> None:
        self._held.pop(key, None)
        self._sent[key] = now
        self._sent.move_to_end(key)
        # What is older than the interval holds nothing back, and need not be remembered.
        while self._sent and now >= next(iter(self._sent.values())) + self._interval_s:
            self._sent.popitem(last=False)
