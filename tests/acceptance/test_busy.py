# SPDX-License-Identifier: GPL-2.0-or-later
"""A number with many calls: documents hold what lives and what has just ended, and are never too large to be told."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kemi_nsq.presence.expiry import SWEEP_INTERVAL_S
from kemi_nsq.presence.watchers import UDP_LIMIT
from tests.support.chain import TOPIC, Chain, Person, event
from tests.support.database import rows
from tests.support.notify import Notify
from tests.support.until import until

CALLS = 1000
#: So many calls in this time, more densely than a busy queue has them.
SECONDS = 20.0
#: An end is told, and leaves the document a second later. The rest is the machine's, which runs other tests as well.
SHOWN_S = 1.0 + 6.0
LIVE = ("lives-1", "lives-2")


@pytest.fixture(scope="module")
def unlimited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Run a chain whose documents may grow without bound."""
    with Chain("native", tmp_path_factory.mktemp("unlimited"), defines={"NSQ_PUA_MAX_DIALOGS": 0}) as chain:
        yield chain


def states(notify: Notify) -> dict[str, str]:
    return {dialog.call_id or "": dialog.state for dialog in notify.dialog_info.dialogs}


def live(notify: Notify) -> list[str]:
    return [call for call, state in states(notify).items() if state != "terminated"]


def test_a_thousand_short_calls_leave_no_trace_in_the_documents(chain: Chain, person: Person) -> None:
    ended: dict[str, float] = {}
    with chain.watcher() as watcher:
        lamps = [watcher.subscribe(person.uri, "dialog") for _ in range(3)]
        for call in LIVE:
            person.call("confirmed", Call_ID=call)
        start = time.monotonic()
        for number in range(CALLS):
            due = start + number * SECONDS / CALLS
            until(lambda due=due: time.monotonic() >= due, what="the time of the next call")  # type: ignore[misc]
            call = f"short-{number}"
            for state in ("early", "confirmed", "terminated"):
                person.call(state, Call_ID=call)
            ended[call] = time.monotonic()
        chain.drain()
        for lamp in lamps:
            lamp.wait(lambda notify: f"short-{CALLS - 1}" in states(notify), what="the last end", after=1)
        for lamp in lamps:
            for notify in lamp.notifies[1:]:
                late = {call for call in states(notify) if call in ended and notify.received_at - ended[call] > SHOWN_S}
                assert late == set(), "a call that ended longer ago is still in the document"
                assert len(notify.body) < UDP_LIMIT
            assert sorted(live(lamp.notifies[-1])) == sorted(LIVE)
        until(lambda: shown(person) == 2, what="the last ends to be hidden")
        newcomer = watcher.subscribe(person.uri, "dialog").wait(lambda notify: True, what="the initial NOTIFY")
        assert sorted(states(newcomer)) == sorted(LIVE)
    assert len(stored(person)) == CALLS + len(LIVE), "each end is remembered as a tombstone"
    assert chain.counter("document_too_large") == chain.counter("notify_unanswered") == 0


def test_three_hundred_live_calls_are_told_as_far_as_there_is_room(chain: Chain, person: Person) -> None:
    calls = [f"many-{number}" for number in range(300)]

    def say(state: str, some: list[str]) -> None:
        fields = [person.call_fields(state, Call_ID=call) for call in some]
        chain.nsqd.publish_many(TOPIC, [event("dialog", person.user, **each) for each in fields])
        chain.drain(timeout_s=30)

    with chain.watcher() as watcher:
        lamp = watcher.subscribe(person.uri, "dialog")
        say("confirmed", calls)
        full = lamp.wait(lambda notify: len(live(notify)) == 50, what="as many as there is room for")
        assert len(full.body) < UDP_LIMIT
        assert len(stored(person)) == 300
        assert shown(person) == 50
        newcomer = watcher.subscribe(person.uri, "dialog").wait(lambda notify: True, what="the initial NOTIFY")
        assert len(live(newcomer)) == 50
        before = len(lamp.notifies)
        say("terminated", sorted(live(full)))
        ended = set(live(full))
        lamp.wait(
            lambda notify: len(live(notify)) == 50 and not ended & set(live(notify)),
            what="others, now that these are over",
            after=before,
        )
        rest = sorted(set(calls) - set(live(full)))
        say("terminated", rest[:220])
        lamp.wait(lambda notify: len(live(notify)) == 30, what="all that live", timeout_s=10)
        say("terminated", rest[220:])
        lamp.wait(lambda notify: live(notify) == [], what="the lamp to go out", after=before)
        until(lambda: shown(person) == 0, what="all ends to be hidden", timeout_s=10)
    assert chain.counter("pua_hidden") >= 250
    assert chain.counter("document_too_large") == 0


def test_a_document_that_no_datagram_holds_is_said_and_counted(unlimited: Chain) -> None:
    person = Person(chain=unlimited)
    with unlimited.watcher() as watcher:
        lamp = watcher.subscribe(person.uri, "dialog")
        lamp.wait(lambda notify: True, what="the initial NOTIFY")
        fields = [person.call_fields("confirmed", Call_ID=f"large-{number}") for number in range(200)]
        unlimited.nsqd.publish_many(TOPIC, [event("dialog", person.user, **each) for each in fields])
        unlimited.drain(timeout_s=30)
        until(lambda: unlimited.counter("notify_unanswered") > 0, what="a NOTIFY that cannot be sent to be counted")
    assert unlimited.counter("document_too_large") > 0
    (line, *_) = unlimited.log_lines("too many for a NOTIFY over UDP")
    assert person.uri in line
    assert "NSQ_PUA_MAX_DIALOGS" in line
    expected = ("too many for a NOTIFY over UDP", "Message too long", "udp_send|msg_send|retransmission|t_uac|send_pr")
    assert unlimited.complaints(expected) == []


def test_what_a_crash_left_in_the_document_leaves_with_the_next_sweep(tmp_path: Path) -> None:
    with Chain("native", tmp_path) as chain:
        person = Person(chain=chain)
        with chain.watcher() as watcher:
            lamp = watcher.subscribe(person.uri, "dialog")
            for state in ("confirmed", "terminated"):
                person.call(state)
            lamp.wait(lambda notify: states(notify) == {f"{person.user}-call": "terminated"}, what="the end")
            chain.kamailio.process.kill()
        assert shown(person) == 1, "Kamailio died before it was hidden"
        chain.kamailio.start()
        until(lambda: shown(person) == 0, what="the end to be hidden", timeout_s=2 * SWEEP_INTERVAL_S)
        assert len(stored(person)) == 1


def stored(person: Person) -> list[dict[str, str | int | bytes | None]]:
    return [row for row in rows(person.chain.database, "dialog") if row["username"] == person.user]


def shown(person: Person) -> int:
    return sum(int(str(row["expires"])) > 0 for row in stored(person))
