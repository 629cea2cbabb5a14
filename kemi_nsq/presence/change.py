# SPDX-License-Identifier: GPL-2.0-or-later
"""What a row does to the table: to the row that has its key, and to the document, which may have no seat for it.

A document of dialogs has room for NSQ_PUA_MAX_DIALOGS live ones, and for as many that are over and not yet hidden: one
that is too large for UDP would reach nobody. A live dialog that finds no room waits, hidden, until another ends.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kemi_nsq.presence.packages import PACKAGES
from kemi_nsq.presence.row import (
    OVER_RANKS,
    RANK_INDEX,
    RUID_LENGTH,
    SEATED,
    Row,
    leaves,
    reset_key,
    tombstone,
    waiting,
    was_reset,
)

#: A row's user, domain, event package and etag.
RowKey = tuple[str, str, str, str]
#: A presentity's user and domain.
Who = tuple[str, str]
#: Bytes of a body that a document made of many does not have: declaration and root element, less the indentation that
#: Kamailio adds (measured: 469 bytes of body make 363 in the document).
_WRAPPING = 100
#: So many writers at once may change the seats of a presentity without seeing each other, and it is noticed: at once
#: where they change as many as this round does, and by the next sweep whatever they do.
_WRITERS = 8


class Change(enum.Enum):
    """What a row did to the table."""

    STORED = enum.auto()  #: a new document; watchers must hear of it
    UNCHANGED = enum.auto()  #: the same document, kept longer
    HIDDEN = enum.auto()  #: stored, but in no document: there was no room, or there had been none
    STALE = enum.auto()  #: the table has this state or a later one


class There(NamedTuple):
    """What the table has of a row's key: its order key (None from another writer), body and `expires`."""

    ruid: str | None
    body: bytes
    expires: int

    @property
    def is_ours(self) -> bool:
        """Whether we have written it."""
        return self.ruid is not None and len(self.ruid) == RUID_LENGTH

    @property
    def is_over(self) -> bool:
        """Whether it is a row of ours that says that its state is over."""
        return self.ruid is not None and self.is_ours and self.ruid[RANK_INDEX] in OVER_RANKS


class Crowd(NamedTuple):
    """The dialogs of one presentity in the table.

    Attributes:
        shown: how many of ours its document has. Those of others, such as a phone's PUBLISH, take no room.
        over: how many of these are over.
        waiting: how many live ones wait for room.
        size: bytes of all bodies that are shown.
    """

    shown: int = 0
    over: int = 0
    waiting: int = 0
    size: int = 0


def judge(row: Row, there: There | None) -> Change:
    """Tell what a row does to the one that has its key, as if every document had room."""
    if there is None:
        return Change.STALE if row.unsure else Change.STORED
    # A row without ruid is another writer's, from before us: ours is newer.
    if there.ruid is not None and there.ruid >= row.ruid:
        return Change.STALE
    if there.expires < 0 and leaves(row):
        return Change.UNCHANGED if there.is_over else Change.HIDDEN
    # Whoever subscribed after the old row had expired was not shown it.
    if there.expires > row.received_time and PACKAGES[row.event].same(there.body, row.body):
        return Change.UNCHANGED
    return Change.STORED


def wants_room(row: Row, there: There | None) -> bool:
    """Whether a row that is `STORED` changes how many dialogs its document has, or how many of them live."""
    if row.event != SEATED:
        return False
    return there is None or there.expires < 0 or not there.is_ours or there.is_over != leaves(row)


@dataclass(slots=True)
class Plan:
    """What a round writes. First each row is judged by itself, then those that want room get a seat, or are hidden.

    Attributes:
        rows: what is to be stored, then what is written for it unless it is stale.
        found: what the table has of these keys, and of the resets of their senders.
        changes: what each row does.
        wanting: the rows of each presentity that want room.
        promotions: presentities of which waiting dialogs find room.
        sizes: the bytes that each presentity's document will have, about.
        near: presentities that have so many live dialogs that others, who give seats at the same time, may give too
            many, or too few.
        unsettled: those of them of which this is likely: a few writers that change as many seats as this round are
            enough.
        full: presentities that have too many, because some that were over live again.
        repeated: order keys of rows that say once more that something is over which is still shown.
    """

    rows: dict[RowKey, Row]
    found: Mapping[RowKey, There]
    changes: dict[RowKey, Change] = field(default_factory=dict)
    wanting: dict[Who, list[RowKey]] = field(default_factory=dict)
    promotions: set[Who] = field(default_factory=set)
    sizes: dict[Who, int] = field(default_factory=dict)
    near: set[Who] = field(default_factory=set)
    unsettled: set[Who] = field(default_factory=set)
    full: set[Who] = field(default_factory=set)
    repeated: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Judge each row by itself."""
        for key, row in self.rows.items():
            there = self.found.get(key)
            reset = self.found.get(reset_key(row.sender))
            gone = reset is not None and reset.ruid is not None and was_reset(row, reset.ruid)
            change = self.changes[key] = Change.STALE if gone else judge(row, there)
            if there is not None and change is not Change.STALE:
                self._follow(key, row, there, change)
            if change is Change.STORED and wants_room(row, there):
                self.wanting.setdefault((row.username, row.domain), []).append(key)
            elif there is not None and there.expires < 0 and leaves(row):
                self.rows[key] = tombstone(row)

    def _follow(self, key: RowKey, row: Row, there: There, change: Change) -> None:
        """Let the document of a row follow that of the one before, and note an end that is said once more."""
        body = PACKAGES[row.event].follows(there.body, row.body)
        if body is not row.body:
            self.rows[key] = row._replace(body=body)
        if change is Change.UNCHANGED and leaves(row) and there.is_over and there.expires > 0:
            self.repeated.add(row.ruid)

    def seat(self, crowds: Mapping[Who, Crowd], most: int) -> None:
        """Give those that want room a seat, or hide them.

        Args:
            crowds: the dialogs that the table has of each of these presentities.
            most: NSQ_PUA_MAX_DIALOGS; 0 for no limit.
        """
        for presentity, keys in self.wanting.items():
            self._seat(presentity, keys, crowds[presentity], most or math.inf)

    def _seat(self, presentity: Who, keys: Sequence[RowKey], crowd: Crowd, most: float) -> None:
        # Live dialogs and those that are over have seats of their own. Those that are over go first: they make room.
        before = crowd.shown - crowd.over
        taken, size = {False: before, True: crowd.over}, crowd.size
        for key in sorted(keys, key=lambda key: not leaves(self.rows[key])):
            row, there = self.rows[key], self.found.get(key)
            is_over = leaves(row)
            was_shown = there is not None and there.is_ours and there.expires > row.received_time
            if there is not None and was_shown:
                taken[there.is_over] -= 1
            if taken[is_over] < most or (was_shown and not is_over):
                taken[is_over] += 1
                size += 0 if was_shown else len(row.body)
            elif is_over:  # gone from the document, where it was shown: that is news as well
                self.rows[key] = tombstone(row)
                self.changes[key] = Change.STORED if was_shown else Change.HIDDEN
            else:
                self.rows[key] = waiting(row)
                self.changes[key] = Change.HIDDEN
        self.sizes[presentity] = max(0, size - _WRAPPING * (taken[False] + taken[True]))
        if crowd.waiting and taken[False] < most:
            self.promotions.add(presentity)
        live = max(before, taken[False])
        if live * _WRITERS > most:
            self.near.add(presentity)
        if live + _WRITERS * len(keys) > most:
            self.unsettled.add(presentity)
        if taken[False] > most:
            self.full.add(presentity)
