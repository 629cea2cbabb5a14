# SPDX-License-Identifier: GPL-2.0-or-later
"""What is bounded and shown by the I/O thread, and where a stack goes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest

from kemi_nsq.consumer.connection import Connection
from kemi_nsq.consumer.message import Delivery, Item, Notice
from kemi_nsq.consumer.overseer import Overseer, bounds
from kemi_nsq.consumer.stacks import Stacks
from kemi_nsq.consumer.targets import Target
from kemi_nsq.counters import Counter
from kemi_nsq.errors import ProtocolError
from kemi_nsq.host import Level
from kemi_nsq.jsontext import JsonObject
from kemi_nsq.names import Address, Subscription
from kemi_nsq.nsq import protocol as nsq
from kemi_nsq.runtime.page import Doing, Fact, Page
from kemi_nsq.testing import FakeHost
from tests.support.clock import SetClock
from tests.support.deliveries import delivery
from tests.support.settings import settings
from tests.support.until import until

PAIR = Subscription("t", "c")
MIB = 1024 * 1024


class FileHost(FakeHost):
    """A server with a file for stacks."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def stack_file(self) -> int:
        return os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)


def connection(ready: int) -> Connection:
    """Return a connection that nsqd was told this RDY for; nothing is sent."""
    made = Connection(
        connection_id=1,
        target=Target(Address("h", 1), PAIR),
        conversation=nsq.Conversation(identify={}, subscription=PAIR),
        heard_at=0.0,
    )
    made.tell_ready(ready)
    return made


def overseer(**values: str) -> Overseer:
    host = FakeHost()
    items: SimpleQueue[list[Item]] = SimpleQueue()
    return Overseer(settings(**values), host.page, Stacks(host, 30.0), items.put)


@pytest.mark.parametrize(
    ("values", "messages", "size"),
    [
        ({}, 1020, 64 * MIB),
        ({"max_in_flight": "2500"}, 11_000, 10_000 * 65536),
        ({"max_in_flight": "100", "topic_channel": "a:b,c:d"}, 1800, 64 * MIB),
    ],
)
def test_the_queue_is_bounded_by_what_rdy_allows(values: dict[str, str], messages: int, size: int) -> None:
    found = bounds(settings(**values))
    assert (found.messages, found.size) == (messages, size)


def arrives(watching: Overseer, arrived: Delivery, by: Connection) -> None:
    """Do with a message what the intake does."""
    watching.admit(len(arrived.message.body), by)
    watching.custody.arrived(arrived)


def test_a_nsqd_that_keeps_to_its_rdy_may_fill_the_queue_with_others() -> None:
    """The queue may be full because of another one: whoever sends no more than it may keeps its connection."""
    watching = overseer()
    other, good = connection(5), connection(5)
    for number in range(1020):
        other.take(b"%d" % number)
        arrives(watching, delivery(bytes(10), number=number), other)
    for number in range(5):  # these go beyond the bound
        good.take(b"%d" % number)
        arrives(watching, delivery(bytes(10), number=2000 + number), good)
    other.take(b"next")
    with pytest.raises(ProtocolError, match="1025 messages with 10250 bytes wait here, and RDY was at most 5"):
        arrives(watching, delivery(bytes(10), number=3000), other)


def test_what_comes_in_spite_of_rdy_0_is_unasked_even_if_it_is_given_back() -> None:
    stuck = connection(5)
    stuck.tell_ready(0)
    for number in range(5):
        stuck.take(b"%d" % number)  # these may have been on their way
        stuck.touch_at.clear()
    assert not stuck.ignores_ready
    stuck.take(b"one more")
    stuck.touch_at.clear()
    assert stuck.ignores_ready
    stuck.tell_ready(5)
    assert not stuck.ignores_ready


def test_an_abandoned_message_is_touched_no_more_and_late_if_its_timeout_is_over() -> None:
    one = connection(5)
    one.touch_every_s = 5.0
    one.heard_at = 100.0
    one.take(b"a")
    one.take(b"b")
    one.abandon()
    one.abandon()
    one.touch(1000.0)
    assert one.touch_at == {b"a": float("inf"), b"b": float("inf")}
    one.finish(b"a", 109.0)
    one.finish(b"b", 111.0)
    assert (list(one.late), one.touch_at, one.abandoned) == ([b"b"], {}, {})


# Stacks


# A main thread that kept Python's lock: this thread runs when that is over, or nearly


class Deaf:
    """An overseer that did not run while its main thread did something."""

    def __init__(self) -> None:
        self.clock = SetClock()
        self.host = FakeHost()
        self.host.page = Page(clock=self.clock.clock)
        self.items: list[Item] = []
        stacks = Stacks(self.host, 30.0)
        self.overseer = Overseer(settings(route_timeout="30"), self.host.page, stacks, self.items.extend)

    def lasts(self, what: str, seconds: float) -> None:
        self.host.page.begin(what)
        self.clock.pass_time(seconds)

    def turn(self, held_up_s: float) -> list[JsonObject]:
        """Let it run again; return what event routes are told of it."""
        now = self.clock.monotonic
        self.items.append(self.overseer.held_up(held_up_s, now))
        for _ in range(3):
            self.overseer.act(self.overseer.look(now, []), now, 0.0, {})
        self.host.page.wait()
        self.overseer.act(self.overseer.look(now, []), now, 0.0, {})
        told = [each.fields for each in self.items if isinstance(each, Notice)]
        self.items.clear()
        return told


def test_what_kept_the_lock_is_told_once_if_it_is_over_in_this_moment() -> None:
    deaf = Deaf()
    deaf.lasts("nsq:slow", 40)
    assert deaf.turn(40) == [{"What": "nsq:slow", "Seconds": 40}]
    assert deaf.host.page.shown(Fact.STUCK) == ""


def test_what_kept_the_lock_is_told_once_if_the_main_thread_has_gone_on() -> None:
    deaf = Deaf()
    deaf.lasts("nsq:slow", 40)
    deaf.lasts("expiry and other chores", 0)
    assert deaf.turn(40) == [{"What": "nsq:slow", "Seconds": 40}]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "stack"


@pytest.fixture
def stacks(file: Path) -> Iterator[Callable[[float], Stacks]]:
    made: list[Stacks] = []

    def make(timeout_s: float) -> Stacks:
        made.append(Stacks(FileHost(file), timeout_s))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_timer_that_nobody_sets_anew_writes_where_the_threads_are(
    stacks: Callable[[float], Stacks], file: Path
) -> None:
    stacks(0.2).arm(1000.0)
    until(lambda: "test_overseer.py" in file.read_text(), what="the stack")


def test_a_timer_that_is_set_anew_or_stopped_writes_nothing(stacks: Callable[[float], Stacks], file: Path) -> None:
    tested = stacks(0.4)
    turns = iter(range(1000, 1010))

    def turn() -> bool:
        tested.arm(float(now := next(turns)))
        threading.Event().wait(0.1)
        return now == 1009

    until(turn, what="a second of turns")
    tested.disarm(2000.0)
    threading.Event().wait(0.5)
    assert file.read_text() == ""


def test_a_large_file_of_stacks_begins_anew(stacks: Callable[[float], Stacks], file: Path) -> None:
    tested = stacks(30.0)
    file.write_bytes(b"x" * 70_000)
    tested.arm(1000.0)
    assert file.read_bytes() == b""


def test_a_stuck_thread_is_shown_and_logged_with_its_stack(file: Path) -> None:
    host = FileHost(file)
    tested = Stacks(host, 30.0)
    tested.began(Doing(0.0, "nsq:x, message 1 of t"))
    (line,) = host.lines
    assert line[0] is Level.ERROR
    assert line[1].startswith("stuck for 30 s in nsq:x, message 1 of t; the stack of its thread:\n")
    assert "test_a_stuck_thread_is_shown_and_logged_with_its_stack" in line[1]
    assert file.read_text() == line[1]
    assert host.page.shown(Fact.STUCK).endswith(": nsq:x, message 1 of t")
    tested.ended()
    assert host.page.shown(Fact.STUCK) == ""
    assert Counter.ROUTE_TIMEOUT not in host.counters
    tested.close()
