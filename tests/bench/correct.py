# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether it is right under load: 20,000 events of 500 watched presentities, shuffled, some of them twice.

Two consumers; what came last is the producer's to say (NSQ_PUA_ORDER_FIELD). Then every row and the last NOTIFY of
every watcher must say what the sorted history says.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.bench.calls import PRESENTITIES, STATES, URIS, call
from tests.bench.figures import Aim, Figure
from tests.bench.phones import Phones
from tests.bench.served import Served, database, served
from tests.support.documents import parse_dialog_info
from tests.support.until import until

_CONSUMERS = 2
_CALLS_EACH = 8
#: Of each call, in order: it is held and taken up again.
_HISTORY = ("trying", "early", "confirmed", "confirmed")
#: So many calls of each presentity have ended.
_ENDED = 5
_SETTLE_S = 20

_HIDDEN = "SELECT id FROM presentity WHERE event = 'dialog' AND expires < 0"

History = dict[str, dict[str, str]]


def measure(folder: Path, *, name: str, quick: bool) -> list[Figure]:
    """Publish the history in a wrong order, and count what is wrong at the end."""
    events, wanted = _history(random.Random(1), 2_000 if quick else 20_000)
    with (
        database(name, folder / f"{name}-correct") as stored,
        served(stored, folder / f"{name}-correct-run", consumers=_CONSUMERS, NSQ_PUA_ORDER_FIELD="Sequence") as server,
        Phones(server.kamailio.sip_target, URIS) as phones,
    ):
        server.empty()
        rate = server.consume(events).rate
        server.check_counters(received=len(events))
        wrong_lamps = _wrong_lamps(phones, wanted)
        wrong_rows = _wrong_rows(server, wanted)
    none = Aim(of="value", relation="<=", limit=0)
    return [
        Figure(measure=f"wrong rows of {len(events)} events, {name}", value=wrong_rows, unit="", aim=none),
        Figure(measure=f"wrong last NOTIFYs of {PRESENTITIES}, {name}", value=wrong_lamps, unit="", aim=none),
        Figure(measure=f"shuffled events, watched, {name}", value=rate, unit="events/s"),
    ]


def _history(chance: random.Random, count: int) -> tuple[list[bytes], History]:
    """Return `count` events, shuffled, a fifth of them doubles; and the last state of each call of each presentity."""
    wanted: History = {uri: {} for uri in URIS}
    events: list[bytes] = []
    different = count * 4 // 5
    for turn in range(_CALLS_EACH * PRESENTITIES):
        ended = turn // PRESENTITIES < _ENDED
        states = (*_HISTORY[: -1 if ended else None], *(STATES[-1:] if ended else ()))
        if len(events) + len(states) > different:
            break
        for place, state in enumerate(states):
            events.append(call(turn, state, Sequence=turn * len(states) + place))
        wanted[URIS[turn % PRESENTITIES]][f"call{turn}"] = states[-1]
    events += chance.choices(events, k=count - len(events))
    chance.shuffle(events)
    return events, wanted


def _wrong_lamps(phones: Phones, wanted: History) -> int:
    def wrong() -> int:
        return sum(_live(phones.states(uri)) != _live(states) for uri, states in wanted.items() if states)

    try:
        until(lambda: wrong() == 0, timeout_s=_SETTLE_S, what="the last NOTIFYs")
    except AssertionError:
        return wrong()
    return 0


def _live(states: Mapping[str, str]) -> dict[str, str]:
    """Leave out what is over: it is shown once, and leaves the document."""
    return {call: state for call, state in states.items() if state != STATES[-1]}


def _wrong_rows(server: Served, wanted: History) -> int:
    """Count the rows that are missing, too many, or say something else; those that are over are hidden."""
    right = {(uri, call_id): state for uri, calls in wanted.items() for call_id, state in _live(calls).items()}
    ended = sum(len(calls) for calls in wanted.values()) - len(right)
    with suppress(AssertionError):  # it is counted below
        until(lambda: len(server.database.execute(_HIDDEN)) == ended, what="calls that are over to be hidden")
    found: dict[tuple[str, str], str] = {}
    rows = server.database.execute("SELECT username, body FROM presentity WHERE event = 'dialog' AND expires > 0")
    for user, body in rows:
        document = parse_dialog_info(body.encode() if isinstance(body, str) else bytes(body))  # type: ignore[call-overload]
        found |= {(f"sip:{user}@example.com", dialog.call_id): dialog.state for dialog in document.dialogs}
    different = sum(found.get(key) != right.get(key) for key in found.keys() | right.keys())
    return different + abs(len(rows) - len(found)) + abs(len(server.database.execute(_HIDDEN)) - ended)
