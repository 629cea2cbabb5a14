# SPDX-License-Identifier: GPL-2.0-or-later
"""Presence through a real nsqd that delivers again and again: requeued by routes, timed out, left by dead consumers."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from kemi_nsq.counters import Counter
from kemi_nsq.errors import NsqError
from kemi_nsq.event import Event
from kemi_nsq.names import Subscription
from kemi_nsq.nsq.protocol import Conversation, Message, Subscribed
from kemi_nsq.presence.row import TOMBSTONE_BODY
from tests.support.consuming import Consuming
from tests.support.histories import DOMAIN, ORDER_FIELD, STATES, Said, expected, shown_by
from tests.support.nsqd import Nsqd
from tests.support.ports import LOOPBACK
from tests.support.presence_consumers import ViewingHost, Views
from tests.support.tables import Database, Values
from tests.support.until import until

TOPIC, CHANNEL = "events", "kamailio"
CALLS, STOLEN = 40, 30
STOP_TIMEOUT_S = 15.0


@pytest.fixture
def nsqd(tmp_path: Path) -> Iterator[Nsqd]:
    """Return an nsqd that has the channel from its start: into new ones it looks for delays only every 5 seconds."""
    with Nsqd(tmp_path / "nsqd", msg_timeout="400ms") as server:
        server.create_topic(TOPIC)
        server.create_channel(TOPIC, CHANNEL)
        server.stop()
        server.start()
        yield server


def calls() -> list[Said]:
    """Return calls of ten users, in the order in which they happen."""
    chance = random.Random(4)
    said: list[Said] = []
    going = {f"call-{number}": 0 for number in range(CALLS)}
    while going:
        call_id = chance.choice(list(going))
        rank = going[call_id]
        user = f"user{int(call_id.rpartition('-')[2]) % 10}"
        fields = {
            "Event-Package": "dialog",
            "From": f"sip:{user}@{DOMAIN}",
            "To": f"sip:bob@{DOMAIN}",
            "Call-ID": call_id,
            "State": STATES[rank],
            ORDER_FIELD: len(said),
        }
        key = (f"sip:{user}@{DOMAIN}", "dialog")
        shown = (call_id, STATES[rank])
        said.append(Said(thing=(call_id,), key=key, position=len(said), rank=rank, shown=shown, fields=fields))
        going[call_id] = rank + 1
        if rank + 1 == len(STATES):
            del going[call_id]
    return said


class PresenceConsuming(Consuming):
    """A consumer whose route publishes presence and then, or before, asks for the event again at times."""

    def __init__(self, nsqd: Nsqd, views: Views, seed: int, **values: str) -> None:
        self._chance, self._views = random.Random(seed), views
        super().__init__(
            nsqd,
            self._route,
            topic_channel=f"{TOPIC}:{CHANNEL}",
            max_in_flight="20",
            max_attempts="1000",
            db_url=f"sqlite:///{views.database.engine.url.database}",
            **values,
        )

    def new_host(self) -> ViewingHost:
        return ViewingHost(self._views)

    def _route(self, _event: Event) -> int:
        if not self._chance.randrange(6):
            return -1
        with suppress(NsqError):
            self.parts.pua.publish(None)
        return -1 if not self._chance.randrange(6) else 1


@contextmanager
def thief(nsqd: Nsqd) -> Iterator[list[bytes]]:
    """Take messages and answer none of them; yield their ids, which grow."""
    connection = Conversation(identify={"client_id": "thief"}, subscription=Subscription(TOPIC, CHANNEL))
    taken: list[bytes] = []

    def take() -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                connection.receive_data(data)
                while (event := connection.next_event()) is not None:
                    if isinstance(event, Subscribed):
                        connection.ready(STOLEN)
                    if isinstance(event, Message):
                        taken.append(event.message_id)
                        connection.ready(STOLEN - len(taken))
                client.sendall(connection.data_to_send())

    with closing(socket.create_connection((LOOPBACK, nsqd.tcp_port))) as client:
        client.sendall(connection.data_to_send())
        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        yield taken
        client.shutdown(socket.SHUT_RDWR)
        thread.join(STOP_TIMEOUT_S)


@pytest.mark.parametrize("order", ["published in order", "numbered by the producer"])
@pytest.mark.parametrize("count", [1, 2])
def test_requeues_and_timeouts_end_in_the_state_of_the_history(
    nsqd: Nsqd, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch, order: str, count: int
) -> None:
    monkeypatch.setattr("kemi_nsq.consumer.verdict.requeue_delay_ms", lambda attempts: 10)
    sqlite_database.clear()
    history, views = calls(), Views(sqlite_database)
    numbered = order == "numbered by the producer"
    values = {"pua_order_field": ORDER_FIELD} if numbered else {}
    with ExitStack() as stack:
        stolen = stack.enter_context(thief(nsqd))
        published = random.Random(3).sample(history, len(history)) if numbered else history
        nsqd.publish_many(TOPIC, [json.dumps(said.fields).encode() for said in published])
        until(lambda: len(stolen) >= STOLEN, what="messages that nobody will answer")
        consumers = [stack.enter_context(PresenceConsuming(nsqd, views, seed, **values)) for seed in range(count)]
        until(lambda: nsqd.channel(TOPIC, CHANNEL).drained, timeout_s=30, what="an answer for every message")
        state = nsqd.channel(TOPIC, CHANNEL)
        check(views, history)
        assert state.timed_out >= STOLEN
        assert state.requeued >= len(history) // 6
        assert sum(each.host.counters[Counter.RECEIVED] for each in consumers) > len(history)
        assert [line for each in consumers for _, line in each.host.lines if "report" in line] == []


def check(views: Views, history: Sequence[Said]) -> None:
    """Every call is over: no document has one that lives, and each has a row that says so, shown or hidden."""
    wanted = expected(history)
    assert all(state == "terminated" for shown in wanted.values() for _, state in shown)
    told = {key: shown_by([body for _, body in seen.values()]) for key, seen in views.latest.items()}
    assert told.keys() == wanted.keys()
    assert [call for shown in told.values() for call in shown if call[1] != "terminated"] == []
    rows = views.database.rows()
    assert len(rows) == sum(map(len, wanted.values()))
    assert [row["body"] for row in rows if not is_over(row)] == []
    assert views.went_back == []


def is_over(row: Values) -> bool:
    body = row["body"]
    return body == TOMBSTONE_BODY or (isinstance(body, bytes) and b"<state>terminated</state>" in body)
