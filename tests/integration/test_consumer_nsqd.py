# SPDX-License-Identifier: GPL-2.0-or-later
"""The consumer against real nsqd and nsqlookupd: it finds them, keeps to its limits, and loses nothing."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from kemi_nsq.consumer.supervisor import _identify
from kemi_nsq.counters import Counter
from kemi_nsq.event import Event
from kemi_nsq.nsq.protocol import Conversation
from tests.support.consuming import Consuming, numbered
from tests.support.nsqd import Nsqd, Nsqlookupd
from tests.support.ports import LOOPBACK
from tests.support.settings import settings
from tests.support.until import until

TOPIC, CHANNEL = "events", "kamailio"
PAIR = f"{TOPIC}:{CHANNEL}"
HANDLER_TIMEOUT_S = 20.0


@pytest.fixture
def nsqd(tmp_path: Path) -> Iterator[Nsqd]:
    with Nsqd(tmp_path / "nsqd") as server:
        yield server


@pytest.fixture
def old_nsqd(tmp_path: Path) -> Iterator[Nsqd]:
    """Return an nsqd that has the channel from its start: into new ones it looks for delays only every 5 seconds."""
    with Nsqd(tmp_path / "nsqd", msg_timeout="15m") as server:
        server.create_topic(TOPIC)
        server.create_channel(TOPIC, CHANNEL)
        server.stop()
        server.start()
        yield server


def ready_counts(server: Nsqd, topic: str = TOPIC, channel: str = CHANNEL) -> list[int]:
    """Return the RDY count of each client of a channel, as nsqd sees it."""
    found = json.loads(server.http("GET", "/stats", format="json", topic=topic, channel=channel))
    return [client["ready_count"] for each in found["topics"][0]["channels"] for client in each["clients"]]


def wait_drained(server: Nsqd, topic: str = TOPIC, channel: str = CHANNEL) -> None:
    """Wait until nsqd has a FIN for every message."""
    until(lambda: server.channel(topic, channel).drained, what=f"{topic}:{channel} to be drained")


# Plain consumption


def test_topic_and_channel_exist_as_soon_as_it_runs(nsqd: Nsqd) -> None:
    with Consuming(nsqd, topic_channel=PAIR) as consuming:
        until(lambda: nsqd.channel(TOPIC, CHANNEL).clients == 1, what="the subscription")
        assert consuming.events == []
    until(lambda: nsqd.channel(TOPIC, CHANNEL).clients == 0, what="the end of the subscription")


def test_each_message_is_handled_once_and_finished(nsqd: Nsqd) -> None:
    with Consuming(nsqd, topic_channel=PAIR) as consuming:
        nsqd.publish_many(TOPIC, map(numbered, range(1000)))
        consuming.wait_for(range(1000))
        wait_drained(nsqd)
        assert sorted(consuming.numbers) == list(range(1000))
        assert {(event.topic, event.channel, event.attempts) for event in consuming.events} == {(TOPIC, CHANNEL, 1)}
        assert consuming.host.counters[Counter.RECEIVED] == 1000
        state = nsqd.channel(TOPIC, CHANNEL)
        assert (state.messages, state.requeued, state.timed_out) == (1000, 0, 0)


def test_an_event_has_the_time_and_the_id_that_nsqd_gave_it(nsqd: Nsqd) -> None:
    before = time.time_ns()
    with Consuming(nsqd, topic_channel=PAIR) as consuming:
        nsqd.publish(TOPIC, numbered(1))
        consuming.wait_for([1])
    (event,) = consuming.events
    assert before <= event.timestamp_ns <= time.time_ns()
    assert len(event.message_id) == 16
    assert int(event.message_id, 16) > 0


def test_messages_that_were_there_before_come_too(nsqd: Nsqd) -> None:
    nsqd.create_topic(TOPIC)
    nsqd.create_channel(TOPIC, CHANNEL)
    nsqd.publish_many(TOPIC, map(numbered, range(5)))
    with Consuming(nsqd, topic_channel=PAIR) as consuming:
        consuming.wait_for(range(5))


def test_several_topics_and_channels(nsqd: Nsqd) -> None:
    with Consuming(nsqd, topic_channel="a:x,a:y,b:x,c#ephemeral:z#ephemeral") as consuming:
        pairs = (("a", "x"), ("a", "y"), ("b", "x"), ("c#ephemeral", "z#ephemeral"))
        until(lambda: [nsqd.channel(*pair).clients for pair in pairs] == [1, 1, 1, 1], what="all subscriptions")
        for number, topic in enumerate(("a", "b", "c#ephemeral")):
            nsqd.publish(topic, numbered(number))
        until(lambda: len(consuming.events) == 4, what="four events")
    assert sorted((event.topic, event.channel, event.payload) for event in consuming.events) == [
        ("a", "x", '{"n": 0}'),
        ("a", "y", '{"n": 0}'),
        ("b", "x", '{"n": 1}'),
        ("c#ephemeral", "z#ephemeral", '{"n": 2}'),
    ]


def test_a_body_that_cannot_be_used_is_finished_and_the_next_event_works(nsqd: Nsqd) -> None:
    bodies = [b" ", b"hello", b"[1]", b"\xff\xfe", b"{'n': 1}", b'{"n": "' + b"x" * 70_000 + b'"}', b"[" * 60_000]
    with Consuming(nsqd, topic_channel=PAIR) as consuming:
        nsqd.publish_many(TOPIC, [*bodies, numbered(1)])
        consuming.wait_for([1])
        wait_drained(nsqd)
        assert consuming.host.counters[Counter.INVALID] == len(bodies)
        assert nsqd.channel(TOPIC, CHANNEL).requeued == 0


def test_two_consumers_of_a_channel_share_its_messages(nsqd: Nsqd) -> None:
    with (
        Consuming(nsqd, topic_channel=PAIR, max_in_flight="1") as one,
        Consuming(nsqd, topic_channel=PAIR, max_in_flight="1") as other,
    ):
        until(lambda: ready_counts(nsqd) == [1, 1], what="both subscriptions")
        nsqd.publish_many(TOPIC, map(numbered, range(200)))
        until(lambda: len(one.events) + len(other.events) >= 200, what="all events")
        wait_drained(nsqd)
    assert sorted(one.numbers + other.numbers) == list(range(200))
    assert one.numbers
    assert other.numbers


# Flow


def test_max_in_flight_is_the_rdy_that_nsqd_sees(nsqd: Nsqd) -> None:
    with Consuming(nsqd, topic_channel=PAIR, max_in_flight="7"):
        until(lambda: ready_counts(nsqd) == [7], what="RDY 7")


def test_nsqd_lowers_what_is_above_its_limit(tmp_path: Path) -> None:
    with (
        Nsqd(tmp_path, max_rdy_count=3) as nsqd,
        Consuming(nsqd, topic_channel=PAIR, max_in_flight="7") as consuming,
    ):
        until(lambda: ready_counts(nsqd) == [3], what="RDY 3")
        assert Counter.REFUSED not in consuming.host.counters


def test_no_more_than_max_in_flight_are_handed_out(nsqd: Nsqd) -> None:
    release = threading.Event()

    def slow(_event: Event) -> None:
        assert release.wait(HANDLER_TIMEOUT_S)

    with Consuming(nsqd, slow, topic_channel=PAIR, max_in_flight="3") as consuming:
        nsqd.publish_many(TOPIC, map(numbered, range(10)))
        until(lambda: nsqd.channel(TOPIC, CHANNEL).in_flight == 3, what="three in flight")
        assert nsqd.channel(TOPIC, CHANNEL).depth == 7
        release.set()
        consuming.wait_for(range(10))
        wait_drained(nsqd)


def test_two_nsqd_share_max_in_flight_and_one_alone_has_all(tmp_path: Path) -> None:
    with Nsqd(tmp_path / "one") as one, Nsqd(tmp_path / "two") as two:
        addresses = f"{one.tcp_address},{two.tcp_address}"
        with Consuming(nsqd_tcp_address=addresses, topic_channel=PAIR, max_in_flight="5"):
            until(lambda: (ready_counts(one), ready_counts(two)) == ([2], [2]), what="two shares")
            two.stop()
            until(lambda: ready_counts(one) == [5], what="all for one")
            two.start()
            until(lambda: (ready_counts(one), ready_counts(two)) == ([2], [2]), what="two shares again")


def test_nsqd_is_told_to_hold_nothing_back(nsqd: Nsqd) -> None:
    with socket.create_connection((LOOPBACK, nsqd.tcp_port), timeout=5) as client, client.makefile("rb") as answers:
        client.sendall(Conversation(identify=_identify(settings(), "other")).data_to_send())
        size = int.from_bytes(answers.read(4), "big")
        agreed = json.loads(answers.read(size)[4:])
    # nsqd's words for an output_buffer_size of -1 (client_v2.go, SetOutputBuffer).
    assert (agreed["output_buffer_size"], agreed["output_buffer_timeout"]) == (1, 0)


def test_a_message_does_not_wait_for_the_buffer_to_fill(tmp_path: Path) -> None:
    # With a buffer, nsqd would keep this one message for 25 seconds.
    with (
        Nsqd(tmp_path, output_buffer_timeout="25s") as nsqd,
        Consuming(nsqd, topic_channel=PAIR, max_in_flight="100") as consuming,
    ):
        until(lambda: ready_counts(nsqd) == [100], what="the subscription")
        nsqd.publish(TOPIC, numbered(1))
        consuming.wait_for([1], timeout_s=10)


# Coming again


def test_what_a_route_requeues_comes_again_after_its_delay(old_nsqd: Nsqd) -> None:
    times: list[float] = []

    def second_time_lucky(event: Event) -> int:
        times.append(time.monotonic())
        return 1 if event.attempts == 2 else -1

    with Consuming(old_nsqd, second_time_lucky, topic_channel=PAIR) as consuming:
        old_nsqd.publish(TOPIC, numbered(1))
        until(lambda: len(times) == 2, what="the second delivery")
        wait_drained(old_nsqd)
    assert [event.attempts for event in consuming.events] == [1, 2]
    assert times[1] - times[0] >= 0.5
    assert consuming.host.counters == {Counter.CONNECTED: 2, Counter.RECEIVED: 2, Counter.REQUEUED: 1}


def test_what_is_requeued_does_not_hold_up_the_rest(nsqd: Nsqd) -> None:
    with Consuming(
        nsqd,
        lambda event: -1 if event.fields["n"] == 0 else 1,
        topic_channel=PAIR,
        max_in_flight="1",
    ) as consuming:
        nsqd.publish_many(TOPIC, map(numbered, range(20)))
        consuming.wait_for(range(20))
        until(lambda: nsqd.channel(TOPIC, CHANNEL).deferred == 1, what="the one that waits")


def test_a_message_is_given_up_after_max_attempts(old_nsqd: Nsqd) -> None:
    with Consuming(old_nsqd, lambda _: -1, topic_channel=PAIR, max_attempts="2") as consuming:
        old_nsqd.publish(TOPIC, numbered(1))
        until(lambda: consuming.host.counters[Counter.GAVE_UP], what="giving up")
        wait_drained(old_nsqd)
    assert [event.attempts for event in consuming.events] == [1, 2]


def test_with_ack_received_a_message_is_finished_before_its_route(nsqd: Nsqd) -> None:
    release = threading.Event()

    def slow(_event: Event) -> int:
        assert release.wait(HANDLER_TIMEOUT_S)
        return -1

    with Consuming(nsqd, slow, topic_channel=PAIR, ack="received") as consuming:
        nsqd.publish(TOPIC, numbered(1))
        consuming.wait_for([1])
        wait_drained(nsqd)
        assert not release.is_set()
        release.set()
    assert nsqd.channel(TOPIC, CHANNEL).requeued == 0


def test_a_message_that_takes_longer_than_nsqd_waits_is_touched_and_runs_once(tmp_path: Path) -> None:
    release = threading.Event()

    def slow(_event: Event) -> None:
        assert release.wait(HANDLER_TIMEOUT_S)

    with (
        Nsqd(tmp_path, msg_timeout="1s") as nsqd,
        Consuming(nsqd, slow, topic_channel=PAIR) as consuming,
    ):
        nsqd.publish_many(TOPIC, map(numbered, range(2)))  # the second waits behind the first
        consuming.wait_for([0])
        enough = time.monotonic() + 3.0
        until(lambda: time.monotonic() >= enough, what="three times nsqd's patience")
        release.set()
        consuming.wait_for([0, 1])
        wait_drained(nsqd)
        assert nsqd.channel(TOPIC, CHANNEL).timed_out == 0
        assert [event.attempts for event in consuming.events] == [1, 1]
        assert Counter.REFUSED not in consuming.host.counters


def test_the_consumer_starts_again_and_what_was_in_flight_comes_again_at_once(
    old_nsqd: Nsqd, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Consuming(old_nsqd, topic_channel=PAIR, max_in_flight="3") as consuming:
        handling = consuming.parts.supervisor._handling
        handle, interruptions = handling.handle, [KeyboardInterrupt()]

        def interrupted(*arguments: Any) -> None:
            if interruptions:
                raise interruptions.pop()
            handle(*arguments)

        monkeypatch.setattr(handling, "handle", interrupted)
        until(lambda: ready_counts(old_nsqd) == [3], what="the subscription")
        old_nsqd.publish_many(TOPIC, map(numbered, range(3)))
        # nsqd itself would wait for its msg_timeout, 15 minutes here.
        consuming.wait_for(range(3))
        wait_drained(old_nsqd)
        until(lambda: old_nsqd.channel(TOPIC, CHANNEL).clients == 1, what="one connection, not two")
        assert old_nsqd.channel(TOPIC, CHANNEL).timed_out == 0
    assert consuming.host.counters[Counter.RESTARTED] == 1
    assert any("KeyboardInterrupt" in line for line in consuming.lines)


# Outages


@pytest.mark.parametrize("crash", [False, True], ids=["stopped", "killed"])
def test_nsqd_goes_and_comes_back(tmp_path: Path, crash: bool) -> None:
    # Nothing stays in memory alone, so that a crash loses nothing either.
    with (
        Nsqd(tmp_path, mem_queue_size=0, sync_every=1) as old_nsqd,
        Consuming(old_nsqd, topic_channel=PAIR) as consuming,
    ):
        old_nsqd.publish_many(TOPIC, map(numbered, range(100)))
        consuming.wait_for(range(100))
        wait_drained(old_nsqd)
        if crash:
            old_nsqd.kill()
        else:
            old_nsqd.stop()
        until(lambda: consuming.host.counters[Counter.DISCONNECTED] == 2, what="the loss of both connections")
        old_nsqd.start()
        old_nsqd.publish_many(TOPIC, map(numbered, range(100, 200)))
        consuming.wait_for(range(200))
        wait_drained(old_nsqd)
        assert consuming.host.counters[Counter.CONNECTED] == 4
        assert Counter.RESTARTED not in consuming.host.counters
    assert any(
        line == f"lost {PAIR} at {old_nsqd.tcp_address}: the peer closed the connection" for line in consuming.lines
    )


def test_messages_in_flight_when_nsqd_stops_are_not_lost(nsqd: Nsqd) -> None:
    release = threading.Event()

    def slow(_event: Event) -> None:
        assert release.wait(HANDLER_TIMEOUT_S)

    with Consuming(nsqd, slow, topic_channel=PAIR, max_in_flight="3") as consuming:
        nsqd.publish_many(TOPIC, map(numbered, range(10)))
        until(lambda: nsqd.channel(TOPIC, CHANNEL).in_flight == 3, what="three in flight")
        nsqd.stop()
        nsqd.start()
        release.set()
        consuming.wait_for(range(10))
        wait_drained(nsqd)
        assert Counter.REFUSED not in consuming.host.counters, "a FIN never goes to another connection"


def test_a_frozen_nsqd_is_noticed_and_consumption_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kemi_nsq.consumer.supervisor.HEARTBEAT_S", 1.0)
    monkeypatch.setattr("kemi_nsq.consumer.intake.SILENCE_S", 2.5)
    with Nsqd(tmp_path, msg_timeout="2s") as nsqd, Consuming(nsqd, topic_channel=PAIR) as consuming:
        nsqd.publish(TOPIC, numbered(1))
        consuming.wait_for([1])
        nsqd.freeze()
        until(lambda: consuming.host.counters[Counter.DISCONNECTED] >= 2, timeout_s=15, what="the loss")
        assert any(line.startswith(f"lost {PAIR}") and "nsqd was silent for" in line for line in consuming.lines)
        nsqd.thaw()
        # It may hand this to the old connection, before it sees the end of that, and then waits for its msg_timeout.
        nsqd.publish(TOPIC, numbered(2))
        consuming.wait_for([2], timeout_s=15)


def test_an_nsqd_that_lives_is_not_taken_for_dead(nsqd: Nsqd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kemi_nsq.consumer.supervisor.HEARTBEAT_S", 1.0)
    monkeypatch.setattr("kemi_nsq.consumer.intake.SILENCE_S", 1.5)
    with Consuming(nsqd, topic_channel=PAIR) as consuming:
        until(lambda: nsqd.channel(TOPIC, CHANNEL).clients == 1, what="the subscription")
        enough = time.monotonic() + 4.0
        until(lambda: time.monotonic() >= enough, what="four heartbeats")
        assert Counter.DISCONNECTED not in consuming.host.counters
        assert nsqd.channel(TOPIC, CHANNEL).clients == 1, "nsqd got its answers"


def test_a_channel_that_is_full_of_consumers_is_tried_again(tmp_path: Path) -> None:
    with Nsqd(tmp_path, max_channel_consumers=1) as nsqd, ExitStack() as first:
        first.enter_context(Consuming(nsqd, topic_channel=PAIR))
        until(lambda: nsqd.channel(TOPIC, CHANNEL).clients == 1, what="the first subscription")
        with Consuming(nsqd, topic_channel=PAIR) as second:
            until(lambda: second.host.counters[Counter.REFUSED], what="the refusal")
            assert any("refused a command" in line and "E_SUB_FAILED" in line for line in second.lines)
            first.close()
            # What nsqd had handed to the first one would wait for its timeout.
            until(lambda: any(f"consuming {TOPIC}:" in line for line in second.lines), what="the second subscription")
            nsqd.publish(TOPIC, numbered(1))
            second.wait_for([1])


def test_a_deleted_channel_is_made_again(nsqd: Nsqd) -> None:
    with Consuming(nsqd, topic_channel=PAIR) as consuming:
        until(lambda: nsqd.channel(TOPIC, CHANNEL).clients == 1, what="the subscription")
        nsqd.http("POST", "/channel/delete", topic=TOPIC, channel=CHANNEL)
        until(lambda: consuming.host.counters[Counter.DISCONNECTED], what="the loss")
        until(lambda: nsqd.channel(TOPIC, CHANNEL).clients == 1, what="the new subscription")
        nsqd.publish(TOPIC, numbered(1))
        consuming.wait_for([1])


def test_one_nsqd_that_is_away_does_not_hold_up_the_other(tmp_path: Path) -> None:
    with Nsqd(tmp_path / "one") as one, Nsqd(tmp_path / "two") as two:
        two.stop()
        addresses = f"{two.tcp_address},{one.tcp_address}"
        with Consuming(nsqd_tcp_address=addresses, topic_channel=PAIR) as consuming:
            until(lambda: ready_counts(one) == [5], what="the subscription")
            one.publish(TOPIC, numbered(1))
            consuming.wait_for([1])
            two.start()
            two.publish(TOPIC, numbered(2))
            consuming.wait_for([2], timeout_s=20)


# nsqlookupd


def test_every_nsqd_that_nsqlookupd_knows_is_consumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kemi_nsq.consumer.lookups.LOOKUP_INTERVAL_S", 0.2)
    with (
        Nsqlookupd(tmp_path / "lookupd") as lookupd,
        Nsqd(tmp_path / "one", lookupd_tcp_address=lookupd.tcp_address) as one,
        Nsqd(tmp_path / "two", lookupd_tcp_address=lookupd.tcp_address) as two,
        Consuming(lookupd_address=lookupd.http_address, topic_channel=PAIR) as consuming,
    ):
        # Neither has the topic: it is not looked up by topic, so nothing waits for a first message.
        until(lambda: (ready_counts(one), ready_counts(two)) == ([2], [2]), what="both subscriptions")
        with Nsqd(tmp_path / "three", lookupd_tcp_address=lookupd.tcp_address) as three:
            until(lambda: ready_counts(three) == [1], what="the one that joined later")
            for number, server in enumerate((one, two, three)):
                server.publish(TOPIC, numbered(number))
            consuming.wait_for(range(3))


def test_an_outage_of_nsqlookupd_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kemi_nsq.consumer.lookups.LOOKUP_INTERVAL_S", 0.1)
    with (
        Nsqlookupd(tmp_path / "lookupd") as lookupd,
        Nsqd(tmp_path / "one", lookupd_tcp_address=lookupd.tcp_address) as one,
        Consuming(lookupd_address=lookupd.http_address, topic_channel=PAIR) as consuming,
    ):
        until(lambda: ready_counts(one) == [5], what="the subscription")
        lookupd.stop()
        until(lambda: consuming.host.counters[Counter.LOOKUP_FAILED], what="a failed look-up")
        one.publish(TOPIC, numbered(1))
        consuming.wait_for([1])
        one.stop()
        one.start()
        one.publish(TOPIC, numbered(2))
        consuming.wait_for([2])
        assert consuming.host.counters[Counter.LOOKUP_FAILED] == 1, "one outage, one line"
    assert any(line.startswith(f"nsqlookupd {lookupd.http_address}: ") for line in consuming.lines)


def test_of_two_nsqlookupd_one_is_enough(tmp_path: Path) -> None:
    with Nsqlookupd(tmp_path / "a") as one, Nsqlookupd(tmp_path / "b") as other:
        one.stop()
        with (
            Nsqd(tmp_path / "nsqd", lookupd_tcp_address=other.tcp_address) as nsqd,
        ):
            until(lambda: b"tcp_port" in other.http("GET", "/nodes"), what="nsqlookupd to know nsqd")
            addresses = f"{one.http_address},{other.http_address}"
            with Consuming(lookupd_address=addresses, topic_channel=PAIR) as consuming:
                nsqd.publish(TOPIC, numbered(1))
                consuming.wait_for([1])


def test_an_address_that_nsqlookupd_should_not_have_announced_is_explained(tmp_path: Path) -> None:
    with (
        Nsqlookupd(tmp_path / "lookupd") as lookupd,
        Nsqd(tmp_path / "nsqd", lookupd_tcp_address=lookupd.tcp_address, broadcast_address="nowhere.invalid"),
    ):
        until(lambda: b"tcp_port" in lookupd.http("GET", "/nodes"), what="nsqlookupd to know nsqd")
        with Consuming(lookupd_address=lookupd.http_address, topic_channel=PAIR) as consuming:
            until(lambda: consuming.host.counters[Counter.CONNECT_FAILED], timeout_s=10, what="a failed connect")
    assert consuming.lines[0].startswith("cannot connect to nsqd nowhere.invalid:")
    assert consuming.lines[0].endswith("(nsqlookupd announced this address: see nsqd's --broadcast-address)")
