# SPDX-License-Identifier: GPL-2.0-or-later
"""Probes: producers are asked to say their state again when it may be missing here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kemi_nsq.event import Event
from tests.acceptance.conftest import custom_chain
from tests.support.chain import DOMAIN, Chain, Person
from tests.support.consuming import Consuming
from tests.support.kamailio import quoted
from tests.support.until import until

PROBES = "probes"
SIP_PROCESSES = 4
#: The script of the Python configuration, with probes of all that may follow each other within a second.
IMPATIENT = """
import kemi_routes  # makes the package known
import kemi_nsq.presence.probe
kemi_nsq.presence.probe.INTERVAL_S = 1.0
mod_init = kemi_routes.mod_init
"""


class Producer:
    """A media server that gets the probes, and answers those that ask for one presentity whose state it has."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.probes: list[dict[str, str]] = []
        self.people: dict[str, Person] = {}

    def take(self, event: Event) -> None:
        probe = json.loads(event.payload)
        self.probes.append(probe)
        if person := self.people.get(probe.get("Presentity", "")):
            person.call("confirmed")

    def asked_for(self, uri: str) -> list[dict[str, str]]:
        """Return the probes for one presentity."""
        return [probe for probe in list(self.probes) if probe.get("Presentity") == uri]


@pytest.fixture(scope="module")
def producer(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Producer]:
    """Run a chain and a producer that hears its probes."""
    defines = {"NSQ_PROBE_TOPIC": PROBES, "NSQ_NODE": quoted("edge-1")}
    with Chain(kind, tmp_path_factory.mktemp(kind), defines=defines) as chain:
        producer = Producer(chain)
        with Consuming(chain.nsqd, producer.take, topic_channel=f"{PROBES}:switch"):
            yield producer
    assert chain.complaints() == []


def test_everybody_is_asked_at_start(producer: Producer) -> None:
    until(lambda: producer.probes, what="a probe")
    assert producer.probes == [{"Event-Category": "presence", "Event-Name": "probe", "Node": "edge-1"}]
    assert producer.chain.counter("probed") == 1


def test_who_subscribes_to_the_unknown_has_the_state_asked_for(producer: Producer) -> None:
    chain = producer.chain
    person = Person(chain=chain)
    producer.people[person.uri] = person
    with chain.watcher() as watcher:
        lamp = watcher.subscribe(person.uri, "dialog")
        lamp.wait(lambda notify: notify.dialog_info.states == ("confirmed",), what="the state that was missing")
    assert producer.asked_for(person.uri) == [
        {
            "Event-Category": "presence",
            "Event-Name": "probe",
            "Node": "edge-1",
            "Event-Package": "dialog",
            "Presentity": person.uri,
            "Presentity-User": person.user,
            "Presentity-Realm": DOMAIN,
        }
    ]


def test_whose_state_is_known_is_not_asked_for(producer: Producer) -> None:
    known, unknown = Person(chain=producer.chain), Person(chain=producer.chain)
    known.call("early")
    producer.chain.drain()
    with producer.chain.watcher() as watcher:
        watcher.subscribe(known.uri, "dialog")
        watcher.subscribe(known.uri, "presence")  # another package, which nobody has published
        watcher.subscribe(unknown.uri, "dialog")
        until(lambda: producer.asked_for(unknown.uri) and producer.asked_for(known.uri), what="the probes")
    assert [probe["Event-Package"] for probe in producer.asked_for(known.uri)] == ["presence"]


def test_a_presentity_is_not_asked_for_again_and_again(producer: Producer) -> None:
    """Each SIP process keeps its own count, and there are four."""
    person, last = Person(chain=producer.chain), Person(chain=producer.chain)
    with producer.chain.watcher() as watcher:
        for _ in range(20):
            watcher.subscribe(person.uri, "dialog")
        watcher.subscribe(last.uri, "dialog")
        until(lambda: producer.asked_for(last.uri), what="the last probe")
    assert 1 <= len(producer.asked_for(person.uri)) <= SIP_PROCESSES


def test_everybody_is_asked_after_an_outage_of_nsqd(tmp_path: Path) -> None:
    """By itself 30 s after the probe before it: here that time is shorter."""
    (tmp_path / "impatient.py").write_text(IMPATIENT)
    with custom_chain("kemi", tmp_path, script="impatient.py", NSQ_PROBE_TOPIC=PROBES) as chain:
        until(lambda: chain.counter("probed") == 1, what="the probe at start")
        chain.nsqd.stop()
        chain.nsqd.start()
        until(lambda: chain.counter("probed") == 2, timeout_s=15, what="a probe")
        assert chain.nsqd.topic(PROBES)["message_count"] >= 1
