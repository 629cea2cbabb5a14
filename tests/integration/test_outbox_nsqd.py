# SPDX-License-Identifier: GPL-2.0-or-later
"""What the outbox sends to a real nsqd: all of it, in order, once; whoever is killed or cannot write."""

from __future__ import annotations

import os
import random
import resource
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from kemi_nsq.counters import Counter
from kemi_nsq.host import Broken, Report
from kemi_nsq.names import Subscription, address
from kemi_nsq.nsq.outbox import Depth, Outbox, OutboxSender, Sender
from kemi_nsq.nsq.publisher import Publisher
from kemi_nsq.runtime.page import Fact, Gauge, Page, read
from kemi_nsq.tools.reader import Reader
from tests.support.forks import Fork
from tests.support.nsqd import Nsqd
from tests.support.outboxes import message, opened
from tests.support.settings import settings
from tests.support.until import until

#: A publisher keeps its connections as long as its process lives, so it has no `close`.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

MAX_MSG_SIZE = 1000
#: nsqd hands out in order what it holds in memory.
MEMORY = 20_000


@pytest.fixture
def nsqd(tmp_path: Path) -> Iterator[Nsqd]:
    with Nsqd(tmp_path / "nsqd", max_msg_size=MAX_MSG_SIZE, mem_queue_size=MEMORY) as server:
        yield server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


@pytest.fixture
def outbox(path: Path) -> Iterator[Outbox]:
    with closing(opened(path)) as outbox:
        yield outbox


def publisher(nsqd: Nsqd) -> Publisher:
    return Publisher(settings(nsqd_tcp_address=nsqd.tcp_address, publish_timeout="2"))


def taken(nsqd: Nsqd, topic: str = "t") -> int:
    """Return how many messages of a topic nsqd has got."""
    return sum(each["message_count"] for each in nsqd.stats()["topics"] if each["topic_name"] == topic)


def bodies(nsqd: Nsqd, topic: str = "t") -> list[str]:
    """Take all messages of a topic, in order."""
    with closing(Reader(address(nsqd.tcp_address), Subscription(topic, "test"))) as reader:
        return [reader.next_message(10).body.decode() for _ in range(taken(nsqd, topic))]


class Sending:
    """The thread of one consumer process, and what it said and showed."""

    def __init__(self, path: Path, nsqd: Nsqd) -> None:
        self.items: list[Report | Broken] = []
        self.page = Page()
        self.outbox = opened(path)
        sender = Sender(self.outbox, publisher(nsqd), self.items.append)
        self.thread = OutboxSender(str(path), sender, self.items.append, self.page)

    @property
    def lines(self) -> list[str]:
        return [item.text for item in self.items if isinstance(item, Report) and item.text]

    def counted(self, counter: Counter) -> int:
        return sum(isinstance(item, Report) and item.counter is counter for item in self.items)

    def shows(self, gauge: Gauge) -> float:
        sheet = read(bytes(self.page.memory))
        assert sheet is not None
        return sheet.gauges[gauge]


@contextmanager
def sending(path: Path, nsqd: Nsqd) -> Iterator[Sending]:
    """Send from here while the context lasts."""
    stage = Sending(path, nsqd)
    stage.thread.start()
    yield stage
    stage.thread.stop()
    stage.thread.join(10)
    assert not stage.thread.is_alive()
    stage.outbox.close()
    assert not [item for item in stage.items if isinstance(item, Broken)]


def empty(outbox: Outbox) -> bool:
    return outbox.depth() == Depth()


def test_10000_messages_are_sent_in_order_of_each_topic(outbox: Outbox, path: Path, nsqd: Nsqd) -> None:
    topics = ("a", "b", "c")
    sent: dict[str, list[str]] = {topic: [] for topic in topics}
    chance = random.Random(7)
    for number in range(10_000):
        topic = chance.choice(topics)
        outbox.keep(message(str(number), topic))
        sent[topic].append(str(number))
    with sending(path, nsqd):
        until(lambda: empty(outbox), timeout_s=60, what="an empty outbox")
    assert {topic: bodies(nsqd, topic) for topic in topics} == sent


def test_what_is_put_in_while_nsqd_is_away_arrives_once_and_is_shown(outbox: Outbox, path: Path, nsqd: Nsqd) -> None:
    nsqd.stop()
    with sending(path, nsqd) as stage:
        for number in range(20):
            outbox.keep(message(str(number)))
        until(lambda: stage.shows(Gauge.OUTBOX_MESSAGES) == 20, what="the depth in the page")
        assert stage.shows(Gauge.OUTBOX_BYTES) == 30
        assert stage.shows(Gauge.OUTBOX_OLDEST) == outbox.depth().oldest
        assert "no nsqd took its oldest message" in stage.page.shown(Fact.OUTBOX)
        nsqd.start()
        until(lambda: empty(outbox), timeout_s=20, what="an empty outbox")
        until(lambda: "is empty again" in stage.lines[-1], what="the line at the end")
        until(lambda: not stage.shows(Gauge.OUTBOX_MESSAGES), what="nothing in the page")
        assert stage.page.shown(Fact.OUTBOX) == ""
        assert len(stage.lines) == 2
        assert stage.counted(Counter.OUTBOX_SENT) == 20
    assert bodies(nsqd) == [str(number) for number in range(20)]


def test_what_nsqd_refuses_is_dropped_and_holds_up_nothing(outbox: Outbox, path: Path, nsqd: Nsqd) -> None:
    for text in ("1", "x" * (MAX_MSG_SIZE + 1), "3"):
        outbox.keep(message(text))
    with sending(path, nsqd) as stage:
        until(lambda: empty(outbox), what="an empty outbox")
        assert stage.counted(Counter.OUTBOX_DROPPED) == 1
        assert [line for line in stage.lines if "dropped" in line]
    assert bodies(nsqd) == ["1", "3"]


def test_a_sender_that_is_killed_repeats_no_more_than_the_message_in_flight(
    outbox: Outbox, path: Path, nsqd: Nsqd
) -> None:
    deaths, each, chance = 12, 50, random.Random(3)

    def send() -> None:
        OutboxSender(str(path), Sender(opened(path), publisher(nsqd), drop), drop, Page()).run()

    def drop(_item: object) -> None:
        """Nobody hears it."""

    for death in range(deaths):
        for number in range(each):
            outbox.keep(message(str(death * each + number)))
        outbox.close()  # before the fork
        wanted = taken(nsqd) + chance.randint(1, each)
        with Fork(send) as sender:
            until(lambda wanted=wanted: taken(nsqd) >= wanted, timeout_s=20, what="some more")  # type: ignore[misc]
            sender.kill()
    with sending(path, nsqd):
        until(lambda: empty(outbox), what="an empty outbox")
    found = bodies(nsqd)
    assert list(dict.fromkeys(found)) == [str(number) for number in range(deaths * each)], "none lost, and in order"
    assert len(found) - deaths * each <= deaths


def test_a_second_process_goes_on_when_the_first_one_is_killed(outbox: Outbox, path: Path, nsqd: Nsqd) -> None:
    def send() -> None:
        OutboxSender(str(path), Sender(opened(path), publisher(nsqd), print), print, Page()).run()

    with Fork(send) as one:
        outbox.keep(message("1"))
        until(lambda: empty(outbox), what="the first process to send")
        with sending(path, nsqd) as stage:
            outbox.keep(message("2"))
            until(lambda: empty(outbox), what="the first process to send")
            assert stage.counted(Counter.OUTBOX_SENT) == 0, "one is at work"
            one.kill()
            outbox.keep(message("3"))
            until(lambda: empty(outbox), what="the second process to send")
            assert stage.counted(Counter.OUTBOX_SENT) == 1
    assert bodies(nsqd) == ["1", "2", "3"]


def test_while_the_file_cannot_be_written_nothing_is_sent_twice(outbox: Outbox, path: Path, nsqd: Nsqd) -> None:
    """Before, nsqd got 29 copies in 20 seconds."""
    for number in range(3):
        outbox.keep(message(str(number)))
    heard, tell = os.pipe()

    def send() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))  # what it writes to a file fails
        sender = Sender(opened(path), publisher(nsqd), lambda report: None)
        nobody_sets_this = threading.Event()
        while True:
            more = sender.step()
            os.write(tell, b"!" if "disk I/O error" in sender.trouble else b".")
            if not more:
                nobody_sets_this.wait(0.01)

    with Fork(send) as sender:
        failures = 0
        while failures < 30:
            failures += os.read(heard, 100).count(b"!")
        assert taken(nsqd) == 1
        resource.prlimit(sender.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        until(lambda: empty(outbox), what="an empty outbox")
    os.close(heard)
    os.close(tell)
    assert bodies(nsqd) == ["0", "1", "2"]


@pytest.mark.parametrize("become", ["deleted", "replaced"])
def test_a_file_that_has_gone_is_left_by_all_and_what_comes_then_is_sent(
    outbox: Outbox, path: Path, nsqd: Nsqd, become: str
) -> None:
    outbox.keep(message("1"))
    with sending(path, nsqd) as stage:
        until(lambda: empty(outbox), what="an empty outbox")
        path.unlink()
        if become == "replaced":
            with closing(opened(path)) as other:
                other.keep(message("2"))
        outbox.keep(message("3"))
        until(lambda: taken(nsqd) == (3 if become == "replaced" else 2), what="what came then")
    assert bodies(nsqd)[-1] == "3"
    assert stage.counted(Counter.OUTBOX_SENT) == taken(nsqd)


def test_after_the_loop_of_a_consumer_was_started_again_it_is_sent_on(outbox: Outbox, path: Path, nsqd: Nsqd) -> None:
    """The thread is another one then; SQLite's connections are given from one to the next."""
    items: list[Report | Broken] = []
    sender = Sender(opened(path), publisher(nsqd), items.append)
    for number in range(3):
        thread = OutboxSender(str(path), sender, items.append, Page())
        thread.start()
        outbox.keep(message(str(number)))
        until(lambda: empty(outbox), what="an empty outbox")
        thread.stop()
        thread.join(10)
    assert bodies(nsqd) == ["0", "1", "2"]
    assert not [item for item in items if isinstance(item, Broken)]
    sender._outbox.close()
