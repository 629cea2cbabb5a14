# SPDX-License-Identifier: GPL-2.0-or-later
"""Presence without a route does to a message exactly what a native route does that calls the same function."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import pytest

from kemi_nsq import Event, KemiNsq, NativeNsq, event_route
from kemi_nsq.counters import Counter
from kemi_nsq.host import Level
from kemi_nsq.plugin.face import Face
from kemi_nsq.testing import FakeHost
from tests.support.chain import event as presence_event
from tests.support.database import rows
from tests.support.deliveries import delivery
from tests.support.doubles import FakeAnswers
from tests.support.presentity_table import create_presentity_table

# Nobody closes what Kamailio's processes keep until they end.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

MESSAGE = object()
UPDATE, RESET = "nsq:consumer-event-presence-update", "nsq:consumer-event-presence-reset"
SENDER = "sip:switch1@example.com"


def call(user: str, state: str | None, **fields: str) -> bytes:
    return presence_event(
        "dialog", user, To="sip:bob@example.com", Call_ID="c1", State=state, Sender_URI=SENDER, **fields
    )


def reset(**fields: str) -> bytes:
    return json.dumps({"Event-Category": "presence", "Event-Name": "reset"} | fields).encode()


#: Messages that come together.
BATCHES: dict[str, tuple[bytes, ...]] = {
    "stored": (call("alice", "early"),),
    "several": (
        call("alice", "early"),
        call("carol", "early"),
        call("alice", "confirmed"),
        call("alice", "terminated"),
    ),
    "a duplicate": (call("alice", "early"), call("alice", "early")),
    "no state": (call("alice", None), call("carol", "early")),
    "no package": (b'{"Event-Category": "presence", "Event-Name": "update"}',),
    "no JSON": (b"hello", call("alice", "early")),
    "a reset": (call("alice", "early"), call("carol", "early"), reset(**{"Sender-URI": SENDER})),
    "a reset of nobody": (reset(**{"Sender-URI": "sip:other@example.com"}),),
    "a reset by nobody": (reset(),),
    "a row that the table refuses": (call("refused", "early"), call("alice", "early")),
}


def dropped(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE presentity")


def picky(path: Path) -> None:
    """Refuse the rows of one user."""
    with closing(sqlite3.connect(path)) as database:
        database.execute(
            "CREATE TRIGGER picky BEFORE INSERT ON presentity WHEN NEW.username = 'refused' "
            "BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )


def native_routes(plugin: NativeNsq) -> dict[str, Callable[[FakeHost, str], None]]:
    """Return what these event routes do in kamailio.cfg: they call the function, and do not look at its code."""

    def update(_host: FakeHost, _payload: str) -> None:
        plugin.nsq_pua_publish(MESSAGE)

    def reset(_host: FakeHost, _payload: str) -> None:
        plugin.nsq_pua_reset(MESSAGE)

    return {UPDATE: update, RESET: reset}


def outcome(
    folder: Path, bodies: tuple[bytes, ...], damage: Callable[[Path], None], *, builtin: int, ack: str
) -> object:
    """Handle messages that come together, by native routes or without; return all that can be seen of it."""
    path = create_presentity_table(folder / f"{builtin}.db")
    host = FakeHost(defines={"NSQ_DB_URL": f"sqlite:///{path}", "NSQ_PUA_BUILTIN": str(builtin), "NSQ_ACK": ack})
    plugin = NativeNsq(host)
    if not builtin:
        host.event_routes = native_routes(plugin)
    damage(path)
    answers = FakeAnswers()
    plugin._parts.work.handling.handle([delivery(body, number=n) for n, body in enumerate(bodies)], answers)
    with closing(sqlite3.connect(path)) as database:
        intact = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'presentity'").fetchone()
    stored = [(row["username"], row["etag"], int(str(row["expires"])) > 0) for row in rows(path)] if intact else None
    return answers.given, host.counters, host.lines, host.refreshed, stored


@pytest.mark.parametrize("ack", ["processed", "received"])
@pytest.mark.parametrize("damage", [lambda _: None, dropped, picky], ids=["sound", "dropped", "picky"])
@pytest.mark.parametrize("bodies", BATCHES.values(), ids=BATCHES)
def test_a_message_fares_as_with_a_native_route(
    tmp_path: Path, bodies: tuple[bytes, ...], damage: Callable[[Path], None], ack: str
) -> None:
    built_in, native = (outcome(tmp_path, bodies, damage, builtin=builtin, ack=ack) for builtin in (1, 0))
    assert built_in == native


class Own(KemiNsq):
    """A script with a handler of its own for updates."""

    seen: ClassVar[list[Event]] = []

    @event_route(UPDATE)
    def update(self, arrived: Event) -> None:
        self.seen.append(arrived)


def handle(plugin: Face, *bodies: bytes) -> None:
    plugin._parts.work.handling.handle([delivery(body) for body in bodies], FakeAnswers())


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    path = create_presentity_table(tmp_path / "kamailio.db")
    return FakeHost(defines={"NSQ_DB_URL": f"sqlite:///{path}", "NSQ_PUA_BUILTIN": "1"})


def test_in_a_script_too_and_a_handler_goes_before(host: FakeHost) -> None:
    handle(KemiNsq(host), call("alice", "early"))
    assert host.counters[Counter.PUA_STORED] == 1
    Own.seen.clear()
    handle(Own(host), call("alice", "confirmed"), reset(**{"Sender-URI": SENDER}))
    assert [arrived.fields["State"] for arrived in Own.seen] == ["confirmed"]
    assert host.counters[Counter.PUA_ENDED] == 1, "of the two only the update has a handler"


def test_a_native_route_that_never_runs_is_told_at_the_start(host: FakeHost) -> None:
    host.event_routes[RESET] = lambda *_: None
    NativeNsq(host)
    assert host.lines == [
        (Level.WARNING, f"event_route[{RESET}] never runs: NSQ_PUA_BUILTIN is 1; remove one of the two")
    ]
