# SPDX-License-Identifier: GPL-2.0-or-later
"""A handler that waits for ever: what waits behind it goes to others, it is seen at once, and then all goes on."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter as Multiset
from collections.abc import Iterator
from pathlib import Path

import pytest

from kemi_nsq.counters import Counter
from kemi_nsq.event import Event
from kemi_nsq.runtime.page import Fact, Gauge, Sheet, read
from tests.support.consuming import Consuming, numbered
from tests.support.nsqd import Nsqd
from tests.support.until import until

TOPIC, CHANNEL = "events", "kamailio"
PAIR = f"{TOPIC}:{CHANNEL}"
EVENTS = 1000
TIMEOUT_S = 1.0
#: NSQ_ROUTE_TIMEOUT, a turn of the I/O thread, the delay of REQ, nsqd's look at what is delayed, and a busy machine.
PATIENCE_S = TIMEOUT_S + 3.0
RELEASE_TIMEOUT_S = 60.0
VALUES = {"topic_channel": PAIR, "max_in_flight": "100", "route_timeout": str(TIMEOUT_S)}


class Sticky:
    """A handler that is stuck in one event until it is released, and notes when each event came to its end."""

    def __init__(self, *, stuck_in: int = -1) -> None:
        self.stuck_in = stuck_in
        self.release = threading.Event()
        self.entered = threading.Event()
        self.ended: list[tuple[int, float]] = []

    def __call__(self, event: Event) -> None:
        number = json.loads(event.payload)["n"]
        if number == self.stuck_in:
            self.entered.set()
            assert self.release.wait(RELEASE_TIMEOUT_S)
        self.ended.append((number, time.monotonic()))

    @property
    def numbers(self) -> set[int]:
        return {number for number, _ in list(self.ended)}


@pytest.fixture
def nsqd(tmp_path: Path) -> Iterator[Nsqd]:
    """Return an nsqd that knows the channel from its start: into new ones it looks for delays only every 5 seconds."""
    with Nsqd(tmp_path / "nsqd", msg_timeout="2s") as server:
        server.create_topic(TOPIC)
        server.create_channel(TOPIC, CHANNEL)
        server.stop()
        server.start()
        yield server


def sheet(consumer: Consuming) -> Sheet:
    """Return what a reader would see of its page."""
    found = read(bytes(consumer.host.page.memory))
    assert found is not None
    return found


def drained(nsqd: Nsqd) -> bool:
    return nsqd.channel(TOPIC, CHANNEL).drained


def test_no_innocent_event_waits_for_longer_than_the_timeout(nsqd: Nsqd) -> None:
    one, other = Sticky(stuck_in=0), Sticky()
    with Consuming(nsqd, one, **VALUES) as stuck, Consuming(nsqd, other, **VALUES):
        until(lambda: nsqd.channel(TOPIC, CHANNEL).clients == 2, what="both consumers")
        while not one.entered.is_set():  # until it is the one that gets it
            nsqd.publish(TOPIC, numbered(0))
            until(lambda: one.entered.is_set() or 0 in other.numbers, what="somebody to have it")
            other.ended.clear()
        published = time.monotonic()
        nsqd.publish_many(TOPIC, map(numbered, range(1, EVENTS)))
        innocent = set(range(1, EVENTS))
        until(lambda: innocent <= other.numbers, timeout_s=20, what="all innocent events to be handled by the other")
        assert max(when for _, when in other.ended) - published < PATIENCE_S
        assert not one.ended, "it is stuck all the time"
        page = stuck.host.page
        assert page.shown(Fact.STUCK).endswith(f": nsq:consumer-event of {TOPIC}, message {page.shown(Fact.HANDLING)}")
        # Its own message is left to nsqd after twice the time.
        until(lambda: 0 in other.numbers, timeout_s=4 * TIMEOUT_S + 5, what="the other to get that of the stuck route")
        one.release.set()
        until(lambda: page.shown(Fact.STUCK) == "", what="it to be stuck no more")
        until(lambda: drained(nsqd), what="all to be answered")
        assert one.numbers == {0}, "what was given back is not handled here any more"
        nsqd.publish_many(TOPIC, map(numbered, range(EVENTS, EVENTS + 200)))
        until(lambda: one.numbers >= {0} and len(one.numbers | other.numbers) == EVENTS + 200, what="the next events")
        until(lambda: len(one.numbers) > 1, what="it to take part again")
    handled = Multiset(number for number, _ in one.ended + other.ended)
    assert {number for number, times in handled.items() if times > 1} <= {0}


def test_what_ran_before_in_the_same_batch_is_not_held_either(nsqd: Nsqd) -> None:
    """Its rows are not written before the batch ends: so it is given back too, and written by the other."""
    nsqd.publish_many(TOPIC, map(numbered, range(100)))
    one, other, all_there = Sticky(stuck_in=50), Sticky(), threading.Event()

    def handler(event: Event) -> None:
        assert all_there.wait(10)  # so that what comes after the first events is one batch
        one(event)

    with Consuming(nsqd, handler, **VALUES) as stuck:
        until(lambda: sheet(stuck).gauges[Gauge.QUEUED] == 99, what="all to be in the queue")
        all_there.set()
        assert one.entered.wait(10)
        ran = one.numbers
        with Consuming(nsqd, other, **VALUES):
            until(
                lambda: set(range(100)) - {50} <= one.numbers | other.numbers, timeout_s=PATIENCE_S, what="the others"
            )
            until(lambda: nsqd.channel(TOPIC, CHANNEL).in_flight <= 1, timeout_s=PATIENCE_S, what="nothing to be held")
            assert ran & other.numbers
            one.release.set()
            until(lambda: drained(nsqd), timeout_s=10, what="all to be answered")
        assert one.numbers == {*ran, 50}


def test_it_is_shown_counted_and_logged_while_it_lasts(nsqd: Nsqd) -> None:
    handler = Sticky(stuck_in=0)
    nsqd.publish_many(TOPIC, map(numbered, range(3)))
    with Consuming(nsqd, handler, **VALUES) as stuck:
        until(lambda: stuck.host.page.shown(Fact.STUCK), what="it to be shown")
        begin = f"stuck for 1 s in nsq:consumer-event of {TOPIC}, message "
        told = until(lambda: next(text for text in stuck.lines if text.startswith(begin)), what="the line after it")
        assert "in __call__\n    assert self.release.wait(RELEASE_TIMEOUT_S)" in told
        until(lambda: sheet(stuck).gauges[Gauge.IN_FLIGHT] == 1, what="only its own message to be in flight")
        assert sheet(stuck).counters[Counter.ROUTE_TIMEOUT] == 1
        until(lambda: sheet(stuck).counters.get(Counter.GIVEN_BACK, 0) == 2, what="two to be given back")
        assert stuck.host.counters[Counter.GIVEN_BACK] == 0, "the main thread cannot write the other counters now"
        handler.release.set()
        until(lambda: {0, 1, 2} <= handler.numbers, timeout_s=15, what="all events")
        until(lambda: stuck.host.counters[Counter.GIVEN_BACK] == 2, what="the same counter of the server")
        assert stuck.host.counters[Counter.ROUTE_TIMEOUT] == sheet(stuck).counters[Counter.ROUTE_TIMEOUT] == 1
        (line,) = [
            text for text in stuck.lines if text.startswith(f"stuck no more: nsq:consumer-event of {TOPIC} took ")
        ]
        assert float(line.split()[-2]) >= TIMEOUT_S
    assert stuck.host.counters[Counter.RESTARTED] == 0


def test_alone_it_gets_back_what_it_gave_back_once_it_is_over(nsqd: Nsqd) -> None:
    handler = Sticky(stuck_in=0)
    nsqd.publish_many(TOPIC, map(numbered, range(20)))
    with Consuming(nsqd, handler, **VALUES) as stuck:
        until(lambda: sheet(stuck).counters.get(Counter.GIVEN_BACK, 0) >= 19, what="the others to be given back")
        until(lambda: nsqd.channel(TOPIC, CHANNEL).timed_out == 1, timeout_s=10, what="its own message to time out")
        handler.release.set()
        until(lambda: drained(nsqd), timeout_s=15, what="all to be answered")
    handled = Multiset(number for number, _ in handler.ended)
    assert handled == Multiset(range(20)), "each once: that whose FIN came too late is not handled again"


def test_with_ack_received_only_what_has_not_been_taken_is_given_back(nsqd: Nsqd) -> None:
    handler = Sticky(stuck_in=0)
    nsqd.publish_many(TOPIC, map(numbered, range(20)))
    with Consuming(nsqd, handler, **VALUES, ack="received", batch="5") as stuck:
        until(lambda: stuck.host.page.shown(Fact.STUCK), what="it to be shown")
        until(lambda: nsqd.channel(TOPIC, CHANNEL).in_flight == 0, what="nothing to be in flight")
        handler.release.set()
        until(lambda: set(range(20)) <= handler.numbers, timeout_s=15, what="all events")
    assert Multiset(number for number, _ in handler.ended) == Multiset(range(20))
