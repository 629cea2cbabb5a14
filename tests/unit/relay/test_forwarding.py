# SPDX-License-Identifier: GPL-2.0-or-later
"""What becomes of the messages that the relay holds; no socket, no file."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field

import pytest

from kemi_nsq.counters import Counter
from kemi_nsq.errors import ConnectionLost, OutboxError
from kemi_nsq.host import Level
from kemi_nsq.nsq.lasting import SAY_AGAIN_S
from kemi_nsq.nsq.ways import Outgoing
from kemi_nsq.relay.backlog import Backlog
from kemi_nsq.relay.forwarding import Forwarding
from kemi_nsq.relay.frames import Piece
from kemi_nsq.runtime.page import Fact
from kemi_nsq.testing import FakeHost
from tests.support.clock import SetClock
from tests.support.doubles import FakeOutbox, FakePublisher

AWAY = ConnectionLost("nsqd is away")
FULL = OutboxError("the outbox is full")


@dataclass
class Stage:
    """A relay without sockets, and all around it."""

    outbox: FakeOutbox | None = None
    host: FakeHost = field(default_factory=FakeHost)
    publisher: FakePublisher = field(default_factory=FakePublisher)
    clock: SetClock = field(default_factory=SetClock)
    backlog: Backlog = field(default_factory=Backlog)

    def __post_init__(self) -> None:
        self.forwarding = Forwarding(self.backlog, self.host, self.publisher, self.outbox, self.clock.clock)

    def add(self, *bodies: bytes, topic: str = "t") -> None:
        self.backlog.add([Piece(topic, len(body).to_bytes(4) + body) for body in bodies])

    def run(self) -> None:
        while self.forwarding.step():
            pass

    def sent(self) -> list[bytes]:
        return [message.body for message in self.publisher.sent]

    def kept(self) -> list[bytes]:
        assert self.outbox is not None
        return [message.body for message in self.outbox.kept]

    def shown(self) -> str:
        return self.host.page.shown(Fact.RELAY)


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def with_outbox() -> Stage:
    return Stage(FakeOutbox())


def test_what_has_gathered_leaves_at_once_in_order(stage: Stage) -> None:
    stage.add(b"1", b"2", b"3")
    assert stage.forwarding.step()
    assert not stage.forwarding.step()
    assert (stage.sent(), stage.publisher.batches) == ([b"1", b"2", b"3"], [3])
    assert stage.host.counters == {Counter.PUBLISHED: 3}


def test_a_message_that_nsqd_refuses_costs_no_other_anything(stage: Stage) -> None:
    stage.publisher.wrong = {b"2"}
    stage.add(b"1", b"2", b"3")
    stage.run()
    assert (stage.sent(), stage.publisher.batches) == ([b"1", b"3"], [1, 1])
    assert stage.host.counters == {Counter.PUBLISHED: 2, Counter.PUBLISH_FAILED: 1}
    ((level, line),) = stage.host.lines
    assert level is Level.ERROR
    assert "for t that nsq_publish_async took is dropped: nsqd said E_BAD_MESSAGE wrong" in line


def test_without_an_outbox_it_waits_and_says_so_once_a_minute(stage: Stage) -> None:
    stage.publisher.failure = AWAY
    stage.add(b"1", b"2")
    for _ in range(int(2 * SAY_AGAIN_S)):
        assert not stage.forwarding.step()
        stage.clock.pass_time(1)
    assert [line for _, line in stage.host.lines] == [
        "nobody takes what the relay holds: nsqd is away; it holds 2 messages"
    ] * 2
    assert stage.shown().endswith(": nobody takes what the relay holds: nsqd is away")
    stage.publisher.failure = None
    stage.run()
    assert stage.sent() == [b"1", b"2"]
    assert stage.host.lines[2:] == [(Level.WARNING, "what the relay holds is taken again")]
    assert stage.shown() == ""


def test_once_the_outbox_has_one_all_that_follow_go_there_until_it_is_empty(with_outbox: Stage) -> None:
    stage, outbox = with_outbox, with_outbox.outbox
    assert outbox is not None
    stage.publisher.failure = AWAY
    stage.add(b"1")
    stage.run()
    stage.publisher.failure = None
    stage.add(b"2")
    stage.run()
    assert (stage.kept(), stage.sent()) == ([b"1", b"2"], [])
    outbox.kept.clear()  # a consumer has sent it
    stage.add(b"3")
    stage.run()
    assert (stage.kept(), stage.sent()) == ([], [b"3"])
    assert stage.host.counters == {Counter.OUTBOX_KEPT: 2, Counter.PUBLISHED: 1}
    assert stage.host.lines == []


def test_what_the_outbox_does_not_take_waits(with_outbox: Stage) -> None:
    stage, outbox = with_outbox, with_outbox.outbox
    assert outbox is not None
    stage.publisher.failure, outbox.failure = AWAY, FULL
    stage.add(b"1", b"2")
    assert not stage.forwarding.step()
    assert stage.shown().endswith(": nsqd is away; the outbox is full")
    assert stage.backlog.messages == 2
    outbox.failure = None
    stage.run()
    assert stage.kept() == [b"1", b"2"]
    assert stage.shown() == ""


def test_an_outbox_that_cannot_be_read_holds_nothing_up(with_outbox: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, outbox = with_outbox, with_outbox.outbox
    assert outbox is not None
    stage.publisher.failure = AWAY
    stage.add(b"1")
    stage.run()
    stage.publisher.failure = None

    def broken() -> None:
        raise OutboxError("the outbox is no database")

    monkeypatch.setattr(outbox, "oldest", broken)
    stage.add(b"2")
    stage.run()
    assert stage.sent() == [b"2"]
    assert stage.host.lines == [(Level.ERROR, "the outbox is no database; what comes is sent before what it holds")]


def test_what_nobody_has_taken_at_the_end_is_counted_and_told(stage: Stage) -> None:
    stage.publisher.failure = AWAY
    stage.add(b"1", b"2")
    stage.add(b"3", topic="u")
    stage.forwarding.step()
    stage.forwarding.lose(1)
    assert stage.host.counters[Counter.PUBLISH_FAILED] == 4
    assert [line for _, line in stage.host.lines][-1:] == [
        "4 messages of the relay are lost: it ends, and nobody took them"
    ]
    assert not [line for _, line in stage.host.lines if "again" in line]


def test_a_slow_outbox_is_given_no_more_time_than_there_is(with_outbox: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, outbox = with_outbox, with_outbox.outbox
    assert outbox is not None
    stage.publisher.failure, keep = AWAY, outbox.keep

    def slowly(message: Outgoing) -> None:
        stage.clock.pass_time(0.1)
        keep(message)

    monkeypatch.setattr(outbox, "keep", slowly)
    stage.add(*(b"%d" % number for number in range(100)))
    assert not stage.forwarding.step(until=stage.clock.monotonic + 1)
    assert stage.kept() == [b"%d" % number for number in range(10)]
    assert stage.host.counters == {Counter.OUTBOX_KEPT: 10}
    assert stage.backlog.messages == 90


@pytest.mark.parametrize("seed", range(50))
def test_whatever_fails_no_message_is_lost_doubled_or_out_of_order(seed: int) -> None:
    """Nsqd, the outbox and who sends it fail and recover at random."""
    chance, outbox = random.Random(seed), FakeOutbox()
    stage = Stage(outbox)
    arrived: list[Outgoing] = []

    def drain(most: int) -> None:
        if stage.publisher.failure is None:
            arrived.extend(outbox.kept[:most])
            del outbox.kept[:most]

    given: dict[str, list[bytes]] = defaultdict(list)
    for number in range(300):
        stage.publisher.failure = chance.choice([None, None, AWAY])
        outbox.failure = chance.choice([None, None, FULL])
        topic = chance.choice(["a", "b"])
        given[topic].append(b"%d" % number)
        stage.add(b"%d" % number, topic=topic)
        for _ in range(chance.randrange(3)):
            stage.forwarding.step()
            arrived += stage.publisher.sent
            stage.publisher.sent.clear()
            drain(chance.randrange(4))
    stage.publisher.failure = outbox.failure = None
    while stage.backlog.messages or outbox.kept:
        stage.run()
        arrived += stage.publisher.sent
        stage.publisher.sent.clear()
        drain(10)
    came: dict[str, list[bytes]] = defaultdict(list)
    for message in arrived:
        came[message.topic].append(message.body)
    assert came == given
