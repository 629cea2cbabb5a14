# SPDX-License-Identifier: GPL-2.0-or-later
"""The row of Kamailio's table `presentity` (version 5, `pr_presentity.xml`): its order key, tombstones, hidden rows.

The column limits are enforced here: a database refuses what is too long or, worse, cuts it and so breaks the
unique key.

**Hidden rows.** With `startup_mode` 1 Kamailio makes a NOTIFY of the rows with `expires > now` (presence/notify.c,
`ps_db_get_p_notify_body`), and its cleaner deletes those with `0 < expires < now` (presence/publish.c,
`ps_presentity_db_timer_clean`). A row with a negative `expires` is seen by neither. So the table itself remembers

- a **tombstone**: a dialog, or a contact, that is over. Only its order key counts, so that a late event does not revive
  it;
- a **reset**: a sender has said that all its states are over. What it said before and comes later shows nothing;
- a **waiting** dialog: a live one for which its presentity's document has no room (NSQ_PUA_MAX_DIALOGS).

The first two lie in a range of their own, and so does the last, so that an index on `expires` finds either without the
other. -1, which Kamailio's hard-state PUBLISH stores, and 0 belong to neither.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
from operator import attrgetter
from typing import NamedTuple, TypeAlias

from kemi_nsq.errors import PayloadError
from kemi_nsq.presence.packages import PACKAGES
from kemi_nsq.presence.packages.dialog import NAMESPACE, DialogState
from kemi_nsq.presence.packages.state import OVER_RANK, State, digest
from kemi_nsq.presence.values import MAX_INT32

#: MySQL's BLOB, less the few bytes that the document of the end may be longer (`ended`): that one must fit as well.
MAX_BODY = 65535 - 35
#: A row outlives its state by so many seconds. Thus we end the state, with a document that says so, and not Kamailio's
#: cleaner (`clean_period`), which would do it with an empty NOTIFY.
GRACE_S = 30

# Characters that each column holds, and the name under which a producer knows the value.
_LIMITS = {
    "username": (64, "the presentity's user"),
    "domain": (64, "the presentity's domain"),
    "etag": (128, "ETag"),
    "sender": (255, "the sender (Sender-URI, Switch-URI or From)"),
    "ruid": (64, "the order key"),
}
#: Rank in the order key of a row that is over because nobody spoke for it any more; its producer may have said so, too.
ENDED_RANK = 9
#: How the order key of a state that is over has its rank.
OVER_RANKS = (str(OVER_RANK), str(ENDED_RANK))
#: Length of our order keys, and where the digit of the rank stands in them, from 0.
RUID_LENGTH, RANK_INDEX = 64, 25
_KEY_DIGITS = 20
_POSITION_DIGITS = 24
MOST_POSITION = 10**_POSITION_DIGITS - 1
#: Decimals of a producer's position that count: seconds with fractions are in order, and nanoseconds still fit.
POSITION_SCALE = 10**5
#: What is over of these leaves the document.
HIDING = frozenset(name for name, package in PACKAGES.items() if package.hides)
#: Only the live ones of this package are counted, and wait for room: of no other has a presentity very many.
SEATED = DialogState.package
#: What a tombstone holds. Kamailio looks through all dialog documents, hidden ones too, for the dialog of a phone's own
#: PUBLISH, and deletes the row (`ps_db_delete_presentity_if_dialog_id_exists`); in this one it finds none.
TOMBSTONE_BODY = f'<dialog-info xmlns="{NAMESPACE}" version="0" state="full" entity="sip:over@invalid"/>'.encode()
#: What is left of it when the `expires` of the row as it is shown is taken away is that of a waiting row.
WAITING_OFFSET = 10**9
#: The `expires` of waiting rows, whose states all end after 2023; those of tombstones are below.
WAITING = WAITING_OFFSET - MAX_INT32, WAITING_OFFSET - 1_700_000_000


#: Stands for the event package in rows that remember resets.
RESET = "reset"
_RESETS_REMEMBERED = 1000

#: What somebody watches: a presentity's URI and an event package.
Key: TypeAlias = tuple[str, str]


class Order(NamedTuple):
    """What orders the events of one row: a position, then nsqd's message id (16 hex digits).

    The position is nsqd's nanosecond timestamp, or what the producer says (`position_of`); 0 to 10^24 - 1.

    The rest orders nothing. The topic, and when nsqd took the event (epoch seconds), tell later where it came from; and
    whether it came before, so that it may be stored already.
    """

    position: int
    message_id: str
    topic: str = ""
    sent_at: float = 0.0
    redelivered: bool = False


class Row(NamedTuple):
    """One row; (username, domain, event, etag) is its key.

    Attributes:
        username: user part of the presentity URI, case-sensitive.
        domain: host of the presentity URI, without a port.
        event: event package.
        etag: names one publication of the presentity.
        expires: epoch second, `GRACE_S` after the one at which its state ends; always later than `received_time`.
        received_time: epoch second; the presence module orders documents by it.
        body: the document.
        sender: who published it.
        priority: used by the presence module only with `retrieve_order` 1.
        is_over: its state is over (no column: it says how urgent a NOTIFY is).
        redelivered: its event came before, or its commit had no answer (no column). Whoever did that may have stored
            it and told nobody.
        unsure: a later state of the same may be forgotten already (no column): so it is stored over an earlier one
            only.
        topic: of its event, '' for one that is not from NSQ (no column: `history` keeps it).
        sent_at: epoch seconds at which nsqd took the event, 0 likewise (no column).
        ruid: order key: a row is changed only by one whose ruid is greater as a string. Unique in the table.
    """

    username: str
    domain: str
    event: str
    etag: str
    expires: int
    received_time: int
    body: bytes
    sender: str
    ruid: str
    priority: int = 0
    is_over: bool = False
    redelivered: bool = False
    unsure: bool = False
    topic: str = ""
    sent_at: float = 0.0

    @property
    def position(self) -> int:
        """Where the event of this row stands among the others (see `Order`)."""
        return position_in(self.ruid)

    @property
    def uri(self) -> str:
        """The URI to which watchers subscribe."""
        return f"sip:{self.username}@{self.domain}"


def position_of(name: str, value: str) -> int:
    """Read a producer's sequence number or timestamp, a number from 0, as a position.

    Raises:
        PayloadError: the field is missing, no number, negative, or has more than 19 digits before the point.
    """
    try:
        position = Decimal(value) * POSITION_SCALE
        # Before it becomes an int: of 1e999990, that would take many seconds.
        if 0 <= position < 10**_POSITION_DIGITS:
            return int(position)
    except ArithmeticError:
        pass
    raise PayloadError(f"{name} {value[:40]!r} orders nothing; a number from 0, of at most 19 digits, is wanted")


def tombstone_until(now: int, tombstone_s: int) -> int:
    """Return the epoch second until which the row of a state is kept that is over since `now`."""
    return min(now + tombstone_s + GRACE_S, MAX_INT32)


def ended_row(row: Row, body: bytes, *, now: int, position: int, tombstone_s: int) -> Row:
    """Make the row that replaces `row` when its state is over without its producer having said so.

    It counts as later than the row, and than what was published up to `position`; whatever comes after wins again.
    """
    position = max(position, row.position)
    thing = thing_of(row.ruid)
    return row._replace(
        body=body,
        expires=tombstone_until(now, tombstone_s),
        received_time=now,
        ruid=f"{position:0{_POSITION_DIGITS}d}.{ENDED_RANK}.{'0' * 16}.{thing}",
        is_over=True,
    )


def row_of(  # noqa: PLR0913  # the clock and the settings come in as arguments
    state: State,
    body: bytes,
    *,
    order: Order,
    now: int,
    tombstone_s: int,
    default_expires_s: int,
) -> Row:
    """Make the row that stores a state.

    Args:
        state: what is published.
        body: its document.
        order: where its event stands among the others.
        now: epoch seconds.
        tombstone_s: seconds that a state stays that is over, so that a late event does not bring it back.
        default_expires_s: seconds for a state whose event has no Expires.

    Raises:
        PayloadError: a value does not fit its column.
    """
    key, rank = (*state.presentity, state.package, state.row_etag()), state.rank
    lifetime_s = tombstone_s if rank == OVER_RANK else state.expires_s or default_expires_s
    return _checked(
        Row(
            *key,
            expires=min(now + lifetime_s + GRACE_S, MAX_INT32),  # the column is a signed 32-bit number
            received_time=now,
            body=body,
            sender=state.sender,
            is_over=rank == OVER_RANK,
            redelivered=order.redelivered,
            topic=order.topic,
            sent_at=order.sent_at,
            ruid=_ruid(order, rank, "\0".join(key)),
        )
    )


def _ruid(order: Order, rank: int, key: str) -> str:
    # All parts have a fixed width, so that comparing strings compares the parts in turn. The key's hash keeps
    # the column unique where one message writes several rows.
    thing = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=_KEY_DIGITS // 2).hexdigest()
    return f"{order.position:0{_POSITION_DIGITS}d}.{rank}.{order.message_id}.{thing}"


def position_in(ruid: str) -> int:
    """Return the position that an order key of ours begins with."""
    return int(ruid[:_POSITION_DIGITS])


def message_id_in(ruid: str) -> str:
    """Return nsqd's message id in an order key of ours; 16 zeros for what is not from NSQ."""
    return ruid[RANK_INDEX + 2 : RANK_INDEX + 18]


def thing_of(ruid: str) -> str:
    """Return the part of an order key of ours that is the same for all rows of one key."""
    return ruid[-_KEY_DIGITS:]


_limited: Callable[[Row], tuple[str, ...]] = attrgetter(*_LIMITS)


def _checked(made: Row) -> Row:
    for (column, (limit, name)), value in zip(_LIMITS.items(), _limited(made), strict=True):
        if len(value) > limit:
            raise PayloadError(f"{name} has {len(value)} characters; at most {limit} fit the column {column}")
    if len(made.body) > MAX_BODY:
        raise PayloadError(
            f"the {made.event} document has {len(made.body)} bytes; at most {MAX_BODY} fit the column body"
        )
    # Kamailio reads the column up to the first NUL, and one empty body hides all documents of the presentity.
    if not made.body or b"\0" in made.body:
        raise PayloadError(f"the {made.event} document is empty or holds NUL; a document is wanted")
    return made


@lru_cache(maxsize=_RESETS_REMEMBERED)
def reset_key(sender: str) -> tuple[str, str, str, str]:
    """Return the key of the row that remembers the last reset of a sender. No presentity has an empty user."""
    return "", "", RESET, f"{RESET}.{digest(sender)}"


def reset_row(sender: str, *, position: int, now: int, tombstone_s: int) -> Row:
    """Make the row that remembers that a sender was reset at a position: a tombstone without a document."""
    user, domain, event, etag = reset_key(sender)
    return Row(
        username=user,
        domain=domain,
        event=event,
        etag=etag,
        expires=tombstone_expires(tombstone_until(now, tombstone_s)),
        received_time=now,
        body=TOMBSTONE_BODY,
        sender=sender,
        ruid=_ruid(Order(position, "0" * 16), ENDED_RANK, etag),
        is_over=True,
    )


def was_reset(row: Row, reset_ruid: str) -> bool:
    """Whether a row is of an event that stands before a reset of its sender, or at it, and ends nothing itself."""
    return row.ruid[:_POSITION_DIGITS] <= reset_ruid[:_POSITION_DIGITS] and row.ruid[RANK_INDEX] != str(ENDED_RANK)


def leaves(row: Row) -> bool:
    """Whether a row says that it is over, so that it leaves the document once its watchers have been told."""
    return row.is_over and row.event in HIDING


def tombstone_expires(until: int) -> int:
    """Return the `expires` of a tombstone that is kept until an epoch second."""
    return -until


def waiting_expires(until: int) -> int:
    """Return the `expires` of a waiting row whose state ends at an epoch second; the way back is the same."""
    return WAITING_OFFSET - until


def tombstone(row: Row) -> Row:
    """Return a row that is over as a tombstone."""
    return row._replace(expires=tombstone_expires(row.expires), body=TOMBSTONE_BODY)


def waiting(row: Row) -> Row:
    """Return the row of a live dialog as one that waits for room."""
    return row._replace(expires=waiting_expires(row.expires))
