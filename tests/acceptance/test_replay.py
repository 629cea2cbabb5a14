# SPDX-License-Identifier: GPL-2.0-or-later
"""Dead letters are replayed: what a watcher should have seen lights, and what is over by now does not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest

from kemi_nsq.consumer.origin import Origin, sealed
from kemi_nsq.tools.deadletters import CHANNEL as LETTERS
from tests.acceptance.conftest import custom_chain
from tests.support.chain import CHANNEL, TOPIC, Chain, Person, event
from tests.support.command import addresses, kemi_nsq
from tests.support.notify import Notify
from tests.support.until import until
from tests.support.watcher import Watcher

DEAD, REPLAYS = "dead", "replays"
EXPECTED_LINES = (
    "message [0-9a-f]{16} dropped: its route failed",
    "no event_route for nsq:consumer-event-event-category",
)
#: The category of a route of the tests that fails for all but replays.
MENDED = "test-mended"
#: The command line leaves its connection to nsqd to the end of its process.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@pytest.fixture(scope="module")
def chain(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with custom_chain(
        kind,
        tmp_path_factory.mktemp(kind),
        NSQ_DEAD_LETTER_TOPIC=DEAD,
        NSQ_REPLAY_TOPIC=REPLAYS,
        NSQ_MAX_ATTEMPTS=1,
        NSQ_BACKOFF_MAX=0,
    ) as chain:
        until(lambda: chain.nsqd.channel(REPLAYS, CHANNEL).clients == 1, what="a consumer of the replays")
        chain.nsqd.create_topic(DEAD)
        chain.nsqd.create_channel(DEAD, LETTERS)
        yield chain
        chain.drain()
    assert chain.complaints(EXPECTED_LINES) == []


def replay(chain: Chain) -> None:
    """Replay all dead letters, of which there is one, and wait until that was handled."""
    until(lambda: chain.nsqd.channel(DEAD, LETTERS).depth == 1, what="the dead letter")
    before = chain.counter("replayed")
    environment = {**addresses(chain.nsqd), "NSQ_DEAD_LETTER_TOPIC": DEAD, "NSQ_REPLAY_TOPIC": REPLAYS}
    done = kemi_nsq("dead-letters", "replay", "--all", environment=environment)
    assert done == (0, "1 letter of dead replayed to replays\n", "")
    until(lambda: chain.counter("replayed") == before + 1, what="the replay")
    chain.drain(topic=REPLAYS)


def shows(state: str) -> Callable[[Notify], bool]:
    """Return whether a NOTIFY shows one call in this state."""

    def look(notify: Notify) -> bool:
        return notify.dialog_info.states == (state,)

    return look


def test_an_event_that_is_still_true_lights_when_it_is_replayed(person: Person, watcher: Watcher) -> None:
    chain = person.chain
    lamp = watcher.subscribe(person.uri, "dialog")
    lamp.wait(shows("terminated"), what="no call")
    person.call("confirmed", Event_Category=MENDED)
    replay(chain)
    lamp.wait(shows("confirmed"), what="the call", after=1)
    assert chain.log_lines(f"test: replay 1 rc=1 of {TOPIC}$")
    person.call("terminated")  # what comes now is later, as always
    lamp.wait(shows("terminated"), what="its end", after=2)


def test_a_call_that_ended_meanwhile_is_not_lit_again(person: Person, watcher: Watcher) -> None:
    chain = person.chain
    lamp = watcher.subscribe(person.uri, "dialog")
    lamp.wait(shows("terminated"), what="no call")
    person.call("early")
    lamp.wait(shows("early"), what="a call", after=1)
    person.call("confirmed", Event_Category=MENDED)
    until(lambda: chain.nsqd.channel(DEAD, LETTERS).depth == 1, what="the dead letter")
    person.call("terminated")
    lamp.wait(shows("terminated"), what="its end", after=2)
    stale = chain.counter("pua_stale")
    replay(chain)
    assert chain.counter("pua_stale") == stale + 1
    assert chain.log_lines(f"test: replay 1 rc=2 of {TOPIC}$")
    told = len(lamp.notifies)
    lamp.refresh()
    lamp.wait(lambda _: True, what="the NOTIFY of the refresh", after=told)
    assert "confirmed" not in {state for notify in lamp.notifies for state in notify.dialog_info.states}


@pytest.mark.parametrize(("age_s", "lit"), [(1800, False), (60, True)])
def test_a_call_of_which_nothing_is_left_is_lit_only_while_its_end_would_be_remembered(
    person: Person, watcher: Watcher, age_s: int, lit: bool
) -> None:
    """That is for NSQ_PUA_TOMBSTONE seconds, 300: this call may have ended since."""
    chain = person.chain
    lamp = watcher.subscribe(person.uri, "dialog")
    lamp.wait(shows("terminated"), what="no call")
    letter = {
        "Reason": "written by hand",
        "Topic": TOPIC,
        "Channel": CHANNEL,
        "Message-ID": "a" * 16,
        "Timestamp": time.time_ns() - age_s * 10**9,
        "Payload": event("dialog", person.user, **person.call_fields("confirmed")).decode(),
    }
    chain.nsqd.publish(DEAD, json.dumps(letter).encode())
    counted = chain.counter("pua_stale"), chain.counter("pua_stored")
    replay(chain)
    assert (chain.counter("pua_stale") - counted[0], chain.counter("pua_stored") - counted[1]) == (not lit, lit)
    told = len(lamp.notifies)
    lamp.refresh()
    lamp.wait(lambda _: True, what="the NOTIFY of the refresh", after=told)
    assert lamp.notifies[-1].dialog_info.states == (("confirmed",) if lit else ("terminated",))


def test_who_writes_an_envelope_to_the_topic_of_events_dates_nothing_back(person: Person, watcher: Watcher) -> None:
    chain = person.chain
    lamp = watcher.subscribe(person.uri, "dialog")
    lamp.wait(shows("terminated"), what="no call")
    body = event("dialog", person.user, **person.call_fields("early"))
    unrouted = chain.counter("unrouted")
    chain.publish(sealed(Origin(TOPIC, CHANNEL, "f" * 16, 2**62, body, 1)))
    until(lambda: chain.counter("unrouted") == unrouted + 1, what="an event without a category")
    person.call("confirmed")
    lamp.wait(shows("confirmed"), what="the call, with its own time", after=1)
