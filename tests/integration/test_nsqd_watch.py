# SPDX-License-Identifier: GPL-2.0-or-later
"""Who reads our replies at real nsqd, asked by the thread of a consumer; tests let it ask ten times a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from kemi_nsq.consumer import nsqdwatch
from kemi_nsq.counters import Counter
from kemi_nsq.host import Level
from kemi_nsq.names import Subscription, address
from kemi_nsq.queries import readers
from kemi_nsq.runtime.page import Fact
from kemi_nsq.tools.reader import Reader
from tests.support.consuming import Consuming
from tests.support.nsqd import Nsqd, Nsqlookupd
from tests.support.ports import LOOPBACK, free_tcp_port
from tests.support.until import until

CHANNEL = "replies#ephemeral"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nsqdwatch, "LOOK_INTERVAL_S", 0.1)
    monkeypatch.setattr(readers, "SETTLED_S", 0.3)


@pytest.fixture
def nsqd(tmp_path: Path) -> Iterator[Nsqd]:
    with Nsqd(tmp_path / "nsqd") as nsqd:
        yield nsqd


def consuming(nsqd: Nsqd, nsqd_address: str = "") -> Consuming:
    return Consuming(nsqd, nsqd_address=nsqd_address or nsqd.http_address)


def reply_topic(nsqd: Nsqd) -> str:
    (topic,) = until(nsqd.reply_topics, what="the reply topic")
    return topic


def lines(consumer: Consuming) -> list[str]:
    return [line for line in consumer.lines if "read" in line]


def shown(consumer: Consuming) -> str:
    return consumer.host.page.shown(Fact.STRANGERS)


def looked_for(seconds: float) -> Callable[[], bool]:
    """Let some looks pass."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def test_a_stranger_is_told_once_counted_shown_and_told_again_when_gone(nsqd: Nsqd) -> None:
    with consuming(nsqd) as consumer:
        topic = reply_topic(nsqd)
        until(looked_for(0.5), what="some looks")
        assert (lines(consumer), shown(consumer)) == ([], "")
        with closing(Reader(address(nsqd.tcp_address), Subscription(topic, CHANNEL))):
            until(lambda: consumer.host.counters[Counter.REPLY_STRANGERS], what="the stranger")
            until(looked_for(0.5), what="some looks")
            assert shown(consumer).startswith(f"{topic} is read by kemi-nsq of host ")
        until(lambda: not shown(consumer), what="nobody else")
        until(lambda: len(lines(consumer)) == 2, what="both lines")
    told, gone = lines(consumer)
    assert told.endswith(nsqdwatch._ADVICE)
    assert gone == f"nobody else reads {topic} any more"
    assert consumer.host.counters[Counter.REPLY_STRANGERS] == 1


def test_another_channel_that_copies_our_replies_is_told(nsqd: Nsqd) -> None:
    with consuming(nsqd) as consumer:
        nsqd.create_channel(reply_topic(nsqd), "spy")
        until(lambda: shown(consumer), what="the channel")
    assert lines(consumer)[0].partition(": ")[0].endswith(f"has the channel spy at nsqd {nsqd.http_address}")


def test_nsqlookupd_says_where_to_look(tmp_path: Path) -> None:
    with ExitStack() as stack:
        lookupd = stack.enter_context(Nsqlookupd(tmp_path / "lookupd"))
        there = [
            stack.enter_context(Nsqd(tmp_path / name, lookupd_tcp_address=lookupd.tcp_address)) for name in ("a", "b")
        ]
        for each in there:
            each.create_topic("kamailio")
        until(lambda: len(lookupd.producers("kamailio")) == 2, what="both nsqd to be known")
        consumer = stack.enter_context(Consuming(lookupd_address=lookupd.http_address))
        second = there[1]
        stack.enter_context(closing(Reader(address(second.tcp_address), Subscription(reply_topic(second), CHANNEL))))
        until(lambda: f"at nsqd {second.http_address}" in shown(consumer), what="the stranger")
        lookupd.kill()
        until(lambda: len(lines(consumer)) == 2, what="the line that nsqlookupd does not answer")
        until(looked_for(0.5), what="some looks")
        assert f"at nsqd {second.http_address}" in shown(consumer)
        lookupd.start()


def test_where_nobody_says_who_reads_that_is_told_once(nsqd: Nsqd) -> None:
    nowhere = f"{LOOPBACK}:{free_tcp_port()}"
    with consuming(nsqd, nsqd_address=nowhere) as consumer:
        reply_topic(nsqd)
        until(lambda: lines(consumer), what="the line")
        until(looked_for(0.5), what="some looks")
        assert consumer.host.counters[Counter.RESTARTED] == 0
    assert lines(consumer) == [f"nobody looks who else reads replies: nsqd {nowhere}: Connection refused"]
    assert (Level.INFO, lines(consumer)[0]) in consumer.host.lines
