# SPDX-License-Identifier: GPL-2.0-or-later
"""The way of each event in the log (`presence log-events`): each step with the id, and none while it is off."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from kemi_nsq.consumer.message import Delivery
from kemi_nsq.consumer.origin import Origin, sealed
from kemi_nsq.consumer.routes import Handler
from kemi_nsq.counters import Counter
from kemi_nsq.event import Event
from kemi_nsq.host import Level
from kemi_nsq.names import Subscription
from kemi_nsq.nsq.ways import Batch, Outgoing, Ways
from kemi_nsq.plugin.wiring import wire
from kemi_nsq.settings import Settings
from kemi_nsq.testing import FakeHost
from tests.support.chain import event as presence_event
from tests.support.deliveries import delivery
from tests.support.doubles import FIN, REQ, FakeAnswers
from tests.support.presentity_table import create_presentity_table
from tests.support.script import GivenHandlers
from tests.support.settings import settings

# Nobody closes what Kamailio's processes keep until they end.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

NAME = "nsq:consumer-event-presence-update"
EVENT = b'{"Event-Category": "presence", "Event-Name": "update"}'
SENT_NS = 1_700_000_000_000_000_000
CALL = {"State": "early", "Call_ID": "c", "To": "sip:bob@example.com"}
Line = dict[str, Any]
Native = Mapping[str, Callable[[FakeHost, str], None]]


class TakingNsqd:
    """A way to an nsqd that takes all."""

    def publish(self, message: Outgoing | Batch, deadline: float) -> None:
        pass

    def trial(self, deadline: float) -> None:
        pass


def taking(chosen: Settings) -> Ways:
    return [(chosen.nsqd_tcp_address[0], TakingNsqd())]


class Stage:
    """What a consumer process has, as it is wired, with fakes outside."""

    def __init__(self, handlers: dict[str, Handler] | None = None, native: Native | None = None, **values: str):
        self.host = FakeHost(event_routes=native)
        self.host.log_policy.events = self.host.log_policy.as_json = True
        self.answers = FakeAnswers()
        self.parts = wire(self.host, settings(**values), GivenHandlers(handlers), native=True, ways=taking)

    def handle(self, *deliveries: Delivery) -> list[Line]:
        """Handle messages that come together; return the lines."""
        before = len(self.host.lines)
        self.parts.work.handling.handle(deliveries, self.answers)
        return [json.loads(text) for _, text in self.host.lines[before:]]


def steps(lines: list[Line]) -> list[tuple[str, str]]:
    return [(line["step"], line["message_id"]) for line in lines]


@pytest.fixture
def url(tmp_path: Path) -> str:
    create_presentity_table(tmp_path / "kamailio.db")
    return f"sqlite:///{tmp_path}/kamailio.db"


def test_an_event_of_a_native_route_is_followed_to_its_watchers_and_its_answer(url: str) -> None:
    stage = Stage(db_url=url)

    def route(_host: FakeHost, _payload: str) -> None:
        stage.parts.calls.call("nsq_pua_publish", stage.parts.pua.publish, None)

    stage.host.event_routes[NAME] = route
    message = delivery(presence_event("dialog", "alice", **CALL), number=7, attempts=2)
    lines = stage.handle(message)
    assert steps(lines) == [(step, f"{7:016x}") for step in ("received", "stored", "told", "route", "finished")], (
        "alone, it is stored at once"
    )
    assert {line["pid"] for line in lines} == {os.getpid()}
    assert [line.get("route") for line in lines] == [None, NAME, NAME, NAME, NAME]
    assert (lines[0]["topic"], lines[0]["channel"], lines[0]["attempts"]) == ("events", "kamailio", 2)
    assert lines[0]["kemi-nsq"] == f"received: message {7:016x} of events: channel kamailio, attempt 2"
    assert (lines[1]["presentity"], lines[1]["package"], lines[1]["state"]) == (
        "sip:alice@example.com",
        "dialog",
        "early",
    )
    assert steps(stage.handle(message))[1:3] == [("stale", f"{7:016x}"), ("told", f"{7:016x}")], "told in any case"
    assert stage.host.variables["nqMessageId"] == f"{7:016x}"


def test_of_messages_that_are_written_together_each_line_has_the_right_id(url: str) -> None:
    stage = Stage(db_url=url, pua_builtin="1")
    bodies = [presence_event("dialog", f"u{number}", **CALL) for number in range(3)]
    lines = stage.handle(*(delivery(body, number=number) for number, body in enumerate(bodies)))
    for number in range(3):
        own = [line["step"] for line in lines if line["message_id"] == f"{number:016x}"]
        assert own == ["received", "route", "stored", "told", "finished"]
    assert all(f"{line['message_id']}" in line["kemi-nsq"] for line in lines)


def test_a_route_that_fails_is_followed_to_the_dead_letters() -> None:
    def raising(event: Event) -> int:
        raise ValueError(event.message_id)

    stage = Stage({NAME: raising}, max_attempts="2", dead_letter_topic="dead")
    lines = stage.handle(delivery(EVENT, number=1))
    assert [line.get("step") for line in lines] == ["received", None, None, "route", "requeued"]
    assert (lines[-2]["outcome"], lines[-1]["delay_ms"]) == ("requeue", 500)
    lines += stage.handle(delivery(EVENT, number=1, attempts=2))
    assert [line.get("step") for line in lines[-4:]] == ["refused", "dead letter", None, "finished"]
    assert {line["message_id"] for line in lines} == {f"{1:016x}"}, "that of the route's error and traceback too"
    assert all(f"{1:016x}" in line["kemi-nsq"] for line in lines)


def test_what_is_no_event_and_what_has_no_route_is_followed_too() -> None:
    stage = Stage()
    lines = stage.handle(delivery(b"hello", number=1))
    assert [line.get("step") for line in lines] == ["received", "refused", None, "finished"]
    lines = stage.handle(delivery(EVENT, number=2))
    assert [line.get("step") for line in lines] == ["received", "route", None, "finished"]
    assert lines[1]["outcome"] == "missing"
    assert {line["message_id"] for line in lines} == {f"{2:016x}"}


def test_what_is_given_back_is_followed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage({NAME: lambda _: None})
    (subscription,) = {delivery().subscription}
    stage.parts.work.gate.pause([subscription])
    lines = stage.handle(delivery(EVENT, number=1))
    assert (lines[-1]["step"], lines[-1]["delay_ms"], lines[-1]["message_id"]) == ("given back", 0, f"{1:016x}")
    stage.parts.work.gate.unpause([subscription])
    monkeypatch.setattr(stage.answers, "begin", lambda _: False)
    (line,) = stage.handle(delivery(EVENT, number=2))
    assert (line["step"], line["message_id"]) == ("given back", f"{2:016x}")
    assert stage.answers.given == [(f"{1:016x}", REQ, 0)]
    assert stage.host.counters[Counter.RECEIVED] == 0


def test_a_message_that_is_finished_on_receipt_is_followed_too() -> None:
    stage = Stage({NAME: lambda _: -1}, ack="received")
    lines = stage.handle(delivery(EVENT, number=1))
    assert [line["step"] for line in lines] == ["finished", "received", "route", "failed"]
    assert stage.answers.given == [(f"{1:016x}", FIN, 0)]


def test_a_replay_is_followed_by_its_first_id_and_by_that_of_the_replay() -> None:
    stage = Stage({NAME: lambda _: None}, replay_topic="replays")
    origin = Origin("events", "kamailio", "ab" * 8, SENT_NS, EVENT, replays=2)
    lines = stage.handle(delivery(sealed(origin), number=9, subscription=Subscription("replays", "kamailio")))
    assert steps(lines) == [
        ("received", f"{9:016x}"),
        ("replay", "ab" * 8),
        ("route", "ab" * 8),
        ("finished", "ab" * 8),
    ]
    assert [line.get("replayed_as") for line in lines] == [None, *[f"{9:016x}"] * 3]
    assert lines[1]["kemi-nsq"] == (
        f"replay: message {'ab' * 8} of events (replayed as {9:016x}): replay 2 from the dead letters"
    )


def test_a_row_that_is_refused_is_followed_too(url: str) -> None:
    stage = Stage(db_url=url, pua_builtin="1")
    bodies = [presence_event("dialog", user, **CALL) for user in ("a", "b")]
    stage.handle(delivery(bodies[0], number=0))
    stage.parts.work.handling._committing._writer._table.save_all = _refuse  # type: ignore[union-attr, method-assign]
    lines = stage.handle(*(delivery(body, number=number) for number, body in enumerate(bodies, 1)))
    for number in (1, 2):
        own = [line for line in lines if line["message_id"] == f"{number:016x}"]
        assert [line.get("step") for line in own] == ["received", "route", "refused", None, "refused", "finished"]
        assert "dropped: " in own[3]["kemi-nsq"]


def _refuse(_rows: object) -> None:
    from kemi_nsq.errors import RowRefused

    raise RowRefused("too long")


def test_nothing_is_written_and_no_line_is_about_anything_while_it_is_off(url: str) -> None:
    stage = Stage(db_url=url, pua_builtin="1")
    stage.host.log_policy.events = False
    assert stage.handle(delivery(presence_event("dialog", "alice", **CALL))) == []
    stage.host.log(Level.INFO, "of nobody")
    assert "message_id" not in json.loads(stage.host.lines[-1][1])
