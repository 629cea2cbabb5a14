# SPDX-License-Identifier: GPL-2.0-or-later
"""A database server that is frozen under a running Kamailio: nobody waits for longer than he must."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.calls import CONFIGS, Caller
from tests.support.chain import Person
from tests.support.kamailio import quoted
from tests.support.notify import Notify
from tests.support.stored import SERVERS, StoredChain, stored_chain
from tests.support.until import until

QUERY_S = 0.5
#: A query's transaction ends so much later at the latest; and the machine may be busy.
RESUME_S, LATE_S = 1.0, 0.3
#: nsqd gives a connection up that leaves two heartbeats unanswered, of which there is one in 10 s.
LONGER_THAN_TWO_HEARTBEATS_S = 22.0
#: After so many seconds all is right again.
RECOVERY_S = 5.0
#: For so long at most Kamailio's own driver is stuck in one statement, as `nsq-presence.cfg` sets it.
DRIVER_S = 8.0


@pytest.fixture(params=SERVERS)
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoredChain]:
    with stored_chain(
        request.param, tmp_path, config=CONFIGS / "frozen.cfg", NSQ_QUERY_TIMEOUT=str(QUERY_S), NSQ_NODE=quoted("node")
    ) as stored:
        until(lambda: stored.chain.counter("connected") >= 2, what="the consumer's topic and its reply topic")
        yield stored
        assert stored.chain.kamailio.alive()


@pytest.fixture
def caller(stored: StoredChain) -> Iterator[Caller]:
    with Caller(stored.chain.kamailio.sip_target) as caller:
        yield caller


def asked(caller: Caller) -> str:
    """Ask a question that nobody answers; return why there is no reply, which must be known in time."""
    started = time.monotonic()
    answer = caller.send("MESSAGE").wait()
    assert time.monotonic() - started < QUERY_S + RESUME_S + LATE_S
    return answer.get("X-Reason") or str(answer.status)


def shows(state: str) -> Callable[[Notify], bool]:
    """Return what says whether a NOTIFY shows one dialog, in this state."""
    return lambda notify: notify.dialog_info.states == (state,)


def test_queries_end_and_heartbeats_are_answered_while_events_wait(stored: StoredChain, caller: Caller) -> None:
    person = Person(chain=stored.chain)
    with person.chain.watcher() as watcher:
        lamp = watcher.subscribe(person.uri, "dialog")
        person.call("early")
        lamp.wait(shows("early"), what="a lit lamp", after=1)
        with stored.silence():
            person.call("confirmed")
            thaw_at = time.monotonic() + LONGER_THAN_TWO_HEARTBEATS_S
            reasons = set()
            while time.monotonic() < thaw_at:
                reasons.add(asked(caller))
        thawed = time.monotonic()
        assert reasons <= {"timeout", "408"}, "408 where the consumer's main thread waits for the database just then"
        person.call("terminated")
        lamp.wait(shows("terminated"), what="the end of the call")
        assert time.monotonic() - thawed < RECOVERY_S
    assert stored.chain.counter("disconnected") == 0
    assert stored.chain.counter("pua_database_error") > 0
    stored.chain.drain(timeout_s=30)


def test_a_route_that_is_stuck_in_the_driver_comes_back_by_itself(stored: StoredChain, caller: Caller) -> None:
    refresh = b'{"Event-Category": "test", "Event-Name": "refresh"}'
    with stored.silence():
        stored.chain.publish(refresh)
        until(lambda: stored.chain.log_lines("test: refreshing"), timeout_s=10, what="the route")
        started = time.monotonic()
        assert asked(caller) == "408"
        until(lambda: stored.chain.log_lines("test: refreshed"), timeout_s=60, what="the route to go on")
        assert time.monotonic() - started < DRIVER_S
    until(lambda: asked(caller) == "timeout", timeout_s=RECOVERY_S, what="the consumer to be as before")
    stored.chain.drain(timeout_s=RECOVERY_S)
