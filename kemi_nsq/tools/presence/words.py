# SPDX-License-Identifier: GPL-2.0-or-later
"""A row of the presentity table in words: what it says, whether watchers see it, and where its order key puts it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from decimal import Decimal

from kemi_nsq.monitoring.status import clock_text
from kemi_nsq.presence.packages import PACKAGES, gist
from kemi_nsq.presence.packages.dialog import DIALOG_STATES
from kemi_nsq.presence.row import (
    ENDED_RANK,
    HIDING,
    OVER_RANKS,
    POSITION_SCALE,
    RANK_INDEX,
    RUID_LENGTH,
    TOMBSTONE_BODY,
    WAITING,
    Row,
    message_id_in,
    position_in,
    waiting_expires,
)

_NO_MESSAGE = "0" * 16
#: Positions that are nanoseconds since the epoch, of this century or so.
_NANOSECONDS = range(10**18, 4 * 10**18)
_RANKS = {rank: state for state, rank in DIALOG_STATES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order key of ours in words: of two rows the one with the greater key is the later one.

    Attributes:
        position: where its event stands among the others, and by whose count.
        rank: what decides between two events of one position.
        message_id: nsqd's, '' for a state that no message has set.
    """

    position: str
    rank: str
    message_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A row.

    Attributes:
        uri: of the presentity.
        package: event package.
        state: in a word or two.
        about: whose, with whom, or why.
        shown: whether watchers see it.
        hidden: why they do not, or ''.
        since: epoch second at which the row was written.
        until: epoch second until which it is kept.
        sender: who published it.
        etag: names it among the others of the presentity.
        ruid: its order key as it is stored.
        order: the same in words; None for a row of another writer.
    """

    uri: str
    package: str
    state: str
    about: str
    shown: bool
    hidden: str
    since: int
    until: int
    sender: str
    etag: str
    ruid: str
    order: Order | None

    def as_json(self) -> dict[str, object]:
        """Return it as JSON."""
        return asdict(self)


def moment(epoch: float, pattern: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Write an epoch second as the operator's clock shows it, `-` for none."""
    return clock_text(epoch, pattern)


def state_of(row: Row, now: float, order_field: str = "") -> State:
    """Put a row into words.

    Args:
        row: as it is stored.
        now: epoch seconds.
        order_field: NSQ_PUA_ORDER_FIELD.
    """
    head = row.ruid[: RANK_INDEX + 1].replace(".", "", 1)
    ours = len(row.ruid) == RUID_LENGTH and head.isascii() and head.isdecimal()
    hidden, until = _hidden(row, now, ours=ours)
    said = gist(row.event, row.body)
    state, about = ("over", "") if row.body == TOMBSTONE_BODY else said
    return State(
        uri=row.uri,
        package=row.event,
        state=state,
        about=about,
        shown=not hidden,
        hidden=hidden,
        since=row.received_time,
        until=until,
        sender=row.sender,
        etag=row.etag,
        ruid=row.ruid,
        order=order_of(row.ruid, row.event, order_field) if ours else None,
    )


def order_of(ruid: str, package: str, order_field: str = "") -> Order:
    """Put an order key of ours into words."""
    message_id = message_id_in(ruid)
    return Order(
        position=_position(position_in(ruid), order_field),
        rank=_rank(int(ruid[RANK_INDEX]), package),
        message_id="" if message_id == _NO_MESSAGE else message_id,
    )


def _hidden(row: Row, now: float, *, ours: bool) -> tuple[str, int]:
    """Return why nobody sees a row, or '', and until when it is kept."""
    if row.expires > now:
        return "", row.expires
    if row.expires > 0:
        return "its time is over, and Kamailio will delete it", row.expires
    if not ours or row.expires in (0, -1):
        return "none of ours, and with startup_mode 1 nobody sees it", row.expires
    if WAITING[0] <= row.expires <= WAITING[1]:
        return "waits until others end (NSQ_PUA_MAX_DIALOGS)", waiting_expires(row.expires)
    return "over: kept so that a late event does not revive it (NSQ_PUA_TOMBSTONE)", -row.expires


def _position(position: int, order_field: str) -> str:
    if not order_field and position in _NANOSECONDS:
        seconds, rest = divmod(position, 10**9)
        return f"{moment(seconds)}.{rest:09d} (nsqd's timestamp)"
    if not position:
        return "0 (before all others)"
    number = (Decimal(position) / POSITION_SCALE).normalize()
    return f"{number:f} ({order_field or 'by the count of its producer'})"


def _rank(rank: int, package: str) -> str:
    if rank == ENDED_RANK:
        return f"{rank} (ended here: expired, or reset)"
    if str(rank) in OVER_RANKS and package in HIDING:
        return f"{rank} (over)"
    if package == "dialog" and rank in _RANKS:
        return f"{rank} ({_RANKS[rank]})"
    return f"{rank} (alive)" if rank and package in PACKAGES else f"{rank}"
