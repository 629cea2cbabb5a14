# SPDX-License-Identifier: GPL-2.0-or-later
"""`kemi-nsq dead-letters replay`: what a consumer of a real nsqd could not use is handled again, as what it was."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kemi_nsq.consumer.origin import Origin, sealed
from kemi_nsq.counters import Counter
from kemi_nsq.event import Event
from kemi_nsq.tools.deadletters import CHANNEL as LETTERS
from tests.support.command import Done, addresses, kemi_nsq
from tests.support.consuming import Consuming
from tests.support.nsqd import Nsqd, Nsqlookupd
from tests.support.until import until

# Nobody closes what Kamailio's processes, and the command line, keep until they end.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

TOPIC, DEAD, REPLAYS = "events", "dead", "replays"


@pytest.fixture
def nsqd(tmp_path: Path) -> Iterator[Nsqd]:
    with Nsqd(tmp_path / "nsqd") as server:
        server.create_topic(DEAD)
        server.create_channel(DEAD, LETTERS)
        yield server


class Failing:
    """A route that fails while it is told to."""

    def __init__(self) -> None:
        self.fails = True
        self.seen: list[Event] = []

    def __call__(self, event: Event) -> int:
        self.seen.append(event)
        return -1 if self.fails else 1


def consuming(nsqd: Nsqd, route: Failing, *, channel: str = "kamailio") -> Consuming:
    """Return a consumer that gives a message up at its first failure."""
    return Consuming(
        nsqd,
        route,
        topic_channel=f"{TOPIC}:{channel}",
        dead_letter_topic=DEAD,
        replay_topic=REPLAYS,
        max_attempts="1",
        backoff_max="0",
    )


def run(*words: str, nsqd: Nsqd, **more: str) -> Done:
    names = {"NSQ_DEAD_LETTER_TOPIC": DEAD, "NSQ_REPLAY_TOPIC": REPLAYS}
    return kemi_nsq("dead-letters", *words, environment=addresses(nsqd) | names | more)


def letters(nsqd: Nsqd, count: int) -> None:
    """Wait until so many letters wait."""
    until(lambda: nsqd.channel(DEAD, LETTERS).depth == count, what=f"{count} dead letters")


def test_a_replay_is_the_event_that_it_was_and_says_so(nsqd: Nsqd) -> None:
    route = Failing()
    with consuming(nsqd, route):
        until(lambda: nsqd.topic(REPLAYS)["channels"], what="a consumer of replays")
        nsqd.publish(TOPIC, b'{"a": 1}')
        letters(nsqd, 1)
        for times in (1, 2):
            assert run("replay", "--all", nsqd=nsqd).out == "1 letter of dead replayed to replays\n"
            letters(nsqd, 1)  # the route fails again
            (letter,) = run("list", "--json", nsqd=nsqd).json["letters"]
            assert (letter["topic"], letter["channel"], letter["replays"]) == (TOPIC, "kamailio", str(times))
        route.fails = False
        assert run("replay", letter["message_id"], nsqd=nsqd).code == 0
        until(lambda: len(route.seen) == 4, what="the last replay")
        until(lambda: nsqd.channel(REPLAYS, "kamailio").drained, what="its answer")
    first = route.seen[0]
    assert [event.replays for event in route.seen] == [0, 1, 2, 3]
    assert all(event._replace(replays=0) == first for event in route.seen)
    assert letter["timestamp"] == str(first.timestamp_ns)
    until(lambda: nsqd.channel(DEAD, LETTERS).drained, what="the letter to be gone")


def test_of_many_those_that_match_are_replayed(nsqd: Nsqd) -> None:
    route = Failing()
    with consuming(nsqd, route):
        until(lambda: nsqd.topic(REPLAYS)["channels"], what="a consumer of replays")
        nsqd.publish_many(TOPIC, [b'{"n": %d}' % number for number in range(300)] + [b"no JSON", b"\xff"])
        letters(nsqd, 302)
        route.fails = False
        route.seen.clear()
        tried = run("replay", "--reason", "its route failed", "--dry-run", nsqd=nsqd)
        assert tried.out.splitlines()[-1] == "300 letters of dead would be replayed to replays"
        done = run("replay", "--reason", "its route failed", nsqd=nsqd)
        assert done == (0, "300 letters of dead replayed to replays\n", "")
        until(lambda: len(route.seen) == 300, what="all of them")
        assert sorted(int(str(event.fields["n"])) for event in route.seen) == [*range(300)]
        until(lambda: nsqd.channel(DEAD, LETTERS).depth == 2, what="two letters")
        assert run("replay", "--all", nsqd=nsqd).code == 0, "bytes that are no UTF-8 can be replayed, too"
        letters(nsqd, 2)
        assert {each["replays"] for each in run("list", "--json", nsqd=nsqd).json["letters"]} == {"1"}


def test_each_channel_handles_the_replays_of_its_own_letters(nsqd: Nsqd) -> None:
    here, there = Failing(), Failing()
    there.fails = False
    with consuming(nsqd, here, channel="here"), consuming(nsqd, there, channel="there") as other:
        until(lambda: len(nsqd.topic(REPLAYS)["channels"]) == 2, what="both consumers of replays")
        nsqd.publish(TOPIC, b"{}")
        letters(nsqd, 1)
        here.fails = False
        assert run("replay", "--all", nsqd=nsqd).code == 0
        until(lambda: len(here.seen) == 2, what="the replay")
        until(lambda: nsqd.channel(REPLAYS, "there").messages == 1, what="the copy of the other")
        until(lambda: nsqd.channel(REPLAYS, "there").drained, what="its answer")
        assert len(there.seen) == 1
        assert other.host.counters[Counter.REPLAYED] == 0


def test_a_letter_whose_channel_nobody_reads_stays(nsqd: Nsqd) -> None:
    route = Failing()
    with consuming(nsqd, route, channel="old"):
        until(lambda: nsqd.topic(TOPIC)["channels"], what="a consumer")
        nsqd.publish(TOPIC, b"{}")
        letters(nsqd, 1)
    nsqd.http("POST", "/channel/delete", topic=REPLAYS, channel="old")
    done = run("replay", "--all", nsqd=nsqd)
    assert (done.code, done.out) == (1, "")
    assert done.err == "kemi-nsq: no consumer reads topic replays: is it NSQ_REPLAY_TOPIC in kamailio.cfg, too?\n"
    with consuming(nsqd, route, channel="new"):
        until(lambda: nsqd.topic(REPLAYS)["channels"], what="a consumer of replays")
        done = run("replay", "--all", nsqd=nsqd)
        assert (done.code, done.out) == (2, "0 letters of dead replayed to replays\n")
        tried = run("replay", "--all", "--dry-run", nsqd=nsqd)
        assert tried == (2, "0 letters of dead would be replayed to replays\n", done.err)
        assert "no consumer reads topic replays on channel old; see NSQ_LISTEN_CHANNEL" in done.err
    letters(nsqd, 1)


def test_a_letter_is_not_replayed_to_where_it_came_from(nsqd: Nsqd) -> None:
    """There the envelope would be an event without a route, and lost."""
    route = Failing()
    with consuming(nsqd, route):
        until(lambda: nsqd.topic(REPLAYS)["channels"], what="a consumer of replays")
        nsqd.publish(TOPIC, b"{}")
        letters(nsqd, 1)
        done = run("replay", "--all", "--to", TOPIC, nsqd=nsqd)
        assert (done.code, done.out) == (2, f"0 letters of dead replayed to {TOPIC}\n")
        assert "it came by topic events, and replays need a topic of their own" in done.err
        letters(nsqd, 1)
        assert len(route.seen) == 1


def test_what_is_no_letter_of_ours_stays_and_stops_no_other(nsqd: Nsqd) -> None:
    route = Failing()
    route.fails = False
    with consuming(nsqd, route):
        until(lambda: nsqd.topic(REPLAYS)["channels"], what="a consumer of replays")
        good = {"Topic": TOPIC, "Channel": "kamailio", "Message-ID": "a" * 16, "Timestamp": 5, "Payload": "{}"}
        for letter in (b"junk", json.dumps(good | {"Timestamp": "soon"}).encode(), json.dumps(good).encode()):
            nsqd.publish(DEAD, letter)
        letters(nsqd, 3)
        tried = run("replay", "--all", "--dry-run", nsqd=nsqd)
        assert (tried.code, tried.out.splitlines()[-1]) == (2, "1 letter of dead would be replayed to replays")
        left = run("replay", "--all", "--dry-run", "--json", nsqd=nsqd).json["left"]
        letters(nsqd, 3)
        done = run("replay", "--all", "--json", nsqd=nsqd)
        assert (done.code, done.json["done"], len(done.json["left"])) == (2, 1, 2)
        assert (tried.err, left) == (done.err, done.json["left"]), "the real run says the same"
        until(lambda: route.seen, what="the replay")
        assert route.seen[0].timestamp_ns == 5
    letters(nsqd, 2)


def test_a_forged_envelope_on_an_ordinary_topic_is_plain_data(nsqd: Nsqd) -> None:
    route = Failing()
    route.fails = False
    with consuming(nsqd, route):
        nsqd.publish(TOPIC, sealed(Origin(TOPIC, "kamailio", "f" * 16, 2**62, b'{"a": 1}', 1)))
        until(lambda: route.seen, what="the event")
    (event,) = route.seen
    assert set(event.fields) == {"Replay-Of", "Payload"}
    assert (event.replays, event.message_id) != (1, "f" * 16)
    assert abs(event.timestamp_ns / 1e9 - time.time()) < 60


def test_letters_stay_where_no_nsqd_takes_a_replay(tmp_path: Path) -> None:
    good = {"Topic": TOPIC, "Channel": "kamailio", "Message-ID": "a" * 16, "Timestamp": 5, "Payload": "{}"}
    with (
        Nsqlookupd(tmp_path / "lookupd") as lookupd,
        Nsqd(tmp_path / "nsqd", lookupd_tcp_address=lookupd.tcp_address) as nsqd,
    ):
        nsqd.create_topic(REPLAYS)
        nsqd.create_channel(REPLAYS, "kamailio")
        nsqd.publish_many(DEAD, [json.dumps(good).encode()] * 3)
        until(lambda: lookupd.producers(DEAD), what="nsqd to be known")
        places = {"NSQ_LOOKUPD_ADDRESS": lookupd.http_address, "NSQ_NSQD_TCP_ADDRESS": "127.0.0.1:1"}
        done = run("replay", "--all", nsqd=nsqd, **places)
        assert (done.code, done.out) == (1, "0 letters of dead replayed to replays\n")
        assert "not replayed: 127.0.0.1:1: Connection refused; see NSQ_NSQD_TCP_ADDRESS" in done.err
        until(lambda: nsqd.channel(DEAD, LETTERS).depth == 3, what="three letters")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("replay",), "which letters? Give ids, a filter such as --reason TEXT, or --all"),
        (("replay", "--all", "--to", "a b"), "'a b' is no name for a topic or channel"),
        (
            ("replay", "--all", "--to", DEAD),
            "dead is the topic of the letters, and replays need one of their own; see NSQ_REPLAY_TOPIC",
        ),
    ],
)
def test_what_is_not_clear_replays_nothing(nsqd: Nsqd, words: tuple[str, ...], said: str) -> None:
    done = run(*words, nsqd=nsqd)
    assert (done.code, done.out, done.err) == (2, "", f"kemi-nsq: {said}\n")


def test_without_a_topic_of_replays_the_setting_is_named(nsqd: Nsqd) -> None:
    done = run("replay", "--all", nsqd=nsqd, NSQ_REPLAY_TOPIC="")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "kemi-nsq: no topic of replays is known: give --to TOPIC, or set NSQ_REPLAY_TOPIC, as in kamailio.cfg\n"
    )
