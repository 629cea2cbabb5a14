# SPDX-License-Identifier: GPL-2.0-or-later
"""Histories of calls, presence and mailboxes for property tests, and what must be stored at their end.

What is expected is computed from the events in their order, by nothing of the package.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from kemi_nsq.consumer.message import Delivery
from tests.support.deliveries import TAKEN_NS, delivery

DOMAIN = "example.com"
STATES = ("trying", "proceeding", "early", "confirmed", "terminated")
NOTES = {"online": "Available", "busy": "Busy", "away": "Away", "dnd": "Do not disturb", "offline": "Offline"}
#: How producers write a position; each keeps the order.
FORMS: Mapping[str, Callable[[int], object]] = {
    "int": lambda position: position,
    "float": lambda position: position / 8,
    "text": str,
    "decimal": lambda position: f"{position}.0625",
    "large": lambda position: 10**18 + position,
}
#: Field of the events that `FORMS` fill.
ORDER_FIELD = "Seq"
_STATE = re.compile(rb'call-id="([^"]*)".*<state>([a-z]*)</state>', re.DOTALL)
_NOTE = re.compile(rb"<note>([^<]*)</note>")
_VOICE = re.compile(rb"Voice-Message: (\S+) ")

Key = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One event.

    Attributes:
        thing: the call of a presentity, the presence or the mailbox that it is about.
        key: URI and package of the presentity.
        position: where it stands among the others; equal ones are possible.
        rank: decides between events of equal position; then the message id does.
        shown: what a document shows of it.
        fields: the event's.
        message_id: the number of its message.
    """

    thing: tuple[str, ...]
    key: Key
    position: int
    rank: int
    shown: tuple[str, ...]
    fields: Mapping[str, object]
    message_id: int = 0


def expected(history: Sequence[Said]) -> dict[Key, list[tuple[str, ...]]]:
    """Return what each presentity shows when everything that was said has been heard in order."""
    last: dict[tuple[Key, tuple[str, ...]], Said] = {}
    for said in sorted(history, key=lambda each: (each.position, each.rank, each.message_id)):
        last[said.key, said.thing] = said
    shown: dict[Key, list[tuple[str, ...]]] = {}
    for (key, _), said in last.items():
        shown.setdefault(key, []).append(said.shown)
    return {key: sorted(each) for key, each in shown.items()}


def shown_by(bodies: Sequence[bytes]) -> list[tuple[str, ...]]:
    """Return what the documents of a presentity show."""
    return sorted(shown_in(body) for body in bodies)


def shown_in(body: bytes) -> tuple[str, ...]:
    """Return what one document shows: a call and its state, the counts of a mailbox, or a note."""
    found = _STATE.search(body) or _VOICE.search(body) or _NOTE.search(body)
    assert found is not None, body
    return tuple(group.decode() for group in found.groups())


def deliveries(history: Sequence[Said], form: str | None) -> list[Delivery]:
    """Make a message of each event.

    Args:
        history: the events.
        form: how the position is written into the event; None for nsqd's timestamp, which else says nothing.
    """
    return [_delivery(said, form) for said in history]


def _delivery(said: Said, form: str | None) -> Delivery:
    fields = dict(said.fields)
    timestamp_ns = TAKEN_NS + said.position
    if form is not None:
        fields[ORDER_FIELD] = FORMS[form](said.position)
        timestamp_ns = TAKEN_NS + said.message_id * 7919 % 101
    return delivery(json.dumps(fields).encode(), number=said.message_id, timestamp_ns=timestamp_ns)


_POSITIONS = st.lists(st.integers(0, 15), min_size=1, max_size=6).map(sorted)
_USERS = st.sampled_from(["alice", "bob", "o'neill"])


@st.composite
def _calls(draw: st.DrawFn, number: int) -> list[Said]:
    """A call between two users, as one of them or both are told of it; most end."""
    caller, callee = draw(_USERS), draw(_USERS)
    # A pair of calls whose ids differ in case only is no rare thing where ids are base64.
    call_id = draw(st.sampled_from(["c{}", "C{}", "ü{}", "x" * 90 + "{}"])).format(number // 2)
    said = []
    for side in draw(st.sampled_from([("from",), ("to",), ("from", "to")])):
        user = caller if side == "from" else callee
        positions = draw(_POSITIONS)
        ranks = sorted(draw(st.lists(st.integers(0, 4), min_size=len(positions), max_size=len(positions))))
        if draw(st.integers(0, 3)):
            ranks[-1] = 4
        named = {
            "Event-Package": "dialog",
            "From": f"sip:{caller}@{DOMAIN}",
            "To": f"sip:{callee}@{DOMAIN}",
            "Call-ID": call_id,
            "Direction": "initiator" if side == "from" else "recipient",
            "Presentity": f"sip:{user}@{DOMAIN}",
            "Presentity-User": user,
            "Presentity-Realm": DOMAIN,
        }
        said += [
            Said(
                thing=("call", side, call_id),
                key=(f"sip:{user}@{DOMAIN}", "dialog"),
                position=position,
                rank=rank,
                shown=(call_id, STATES[rank]),
                fields=named | {"State": STATES[rank]},
            )
            for position, rank in zip(positions, ranks, strict=True)
        ]
    return said


@st.composite
def _presences(draw: st.DrawFn, number: int) -> list[Said]:
    user = f"p{number}"
    named = {"Event-Package": "presence", "From": f"sip:{user}@{DOMAIN}"}
    states = ((position, draw(st.sampled_from(list(NOTES)))) for position in draw(_POSITIONS))
    return [
        Said(
            thing=("presence",),
            key=(f"sip:{user}@{DOMAIN}", "presence"),
            position=position,
            rank=0,
            shown=(NOTES[state],),
            fields=named | {"State": state},
        )
        for position, state in states
    ]


@st.composite
def _mailboxes(draw: st.DrawFn, number: int) -> list[Said]:
    user, box = f"m{number % 2}", f"sip:{draw(st.sampled_from(['100', 'vm-A', 'vm-a']))}@{DOMAIN}"
    named = {"Event-Package": "message-summary", "From": f"sip:{user}@{DOMAIN}", "Message-Account": box}
    counts = ((position, draw(st.integers(0, 3)), draw(st.integers(0, 3))) for position in draw(_POSITIONS))
    return [
        Said(
            thing=("box", box),
            key=(f"sip:{user}@{DOMAIN}", "message-summary"),
            position=position,
            rank=0,
            shown=(f"{new}/{saved}",),
            fields=named | {"Messages-New": new, "Messages-Saved": saved},
        )
        for position, new, saved in counts
    ]


@st.composite
def histories(draw: st.DrawFn) -> list[Said]:
    """Several calls, presences and mailboxes; message ids in an order of their own."""
    kinds = draw(st.lists(st.sampled_from([_calls, _calls, _presences, _mailboxes]), min_size=1, max_size=6))
    said = [each for number, kind in enumerate(kinds) for each in draw(kind(number))]
    ids = draw(st.permutations(range(len(said))))
    return [replace(each, message_id=number) for each, number in zip(said, ids, strict=True)]
