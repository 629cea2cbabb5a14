# SPDX-License-Identifier: GPL-2.0-or-later
"""What is done a moment later: NOTIFYs that would come too often, and the hiding of what is over; no clock inside.

What is over was told once. A moment later it is hidden, together with others, so that this costs a statement for many
of them. A NOTIFY that was refused, or may never have left, is tried once more before that, whatever it told; and one
that was too large, after it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

from kemi_nsq.presence.row import Key, thing_of

#: Seconds from the NOTIFY to the hiding. With what a batch takes, it stays below a second.
AFTER_S = 0.5
#: More than these are left to the next sweep.
_MOST = 20_000


class Hiding:
    """The rows that are to be hidden, by their order keys."""

    def __init__(self) -> None:
        self._ruids: list[str] = []
        self._untold: set[Key] = set()
        self._large: set[Key] = set()
        self._due: float | None = None

    def add(self, ruids: Collection[str], untold: Collection[Key], large: Collection[Key], now: float) -> None:
        """Take rows that were told.

        Args:
            ruids: their order keys; perhaps none.
            untold: presentities and packages whose NOTIFY was refused, or perhaps never left.
            large: those whose document was too large to be told.
            now: monotonic seconds.
        """
        if len(self._large) < _MOST:
            self._large.update(large)
        self._ruids += list(ruids)[: max(0, _MOST - len(self._ruids))]
        if len(self._untold) < _MOST:
            self._untold.update(untold)
        if (self._ruids or self._untold or self._large) and self._due is None:
            self._due = now + AFTER_S

    def has(self, ruid: str) -> bool:
        """Whether a row of the same key is to be hidden, which was told then."""
        return thing_of(ruid) in map(thing_of, self._ruids)

    def next_due(self) -> float | None:
        """Return the monotonic second at which `take` has something to return."""
        return self._due

    def take(self) -> tuple[list[str], list[Key], list[Key]]:
        """Forget and return what is to be hidden, what is to be told before, and what after that."""
        taken = self._ruids, sorted(self._untold), sorted(self._large)
        self._ruids, self._untold, self._large, self._due = [], set(), set(), None
        return taken


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
