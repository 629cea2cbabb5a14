# SPDX-License-Identifier: GPL-2.0-or-later
"""The three ways through the code in docs/how-it-works.md are those that messages take."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kemi_nsq import NativeNsq
from kemi_nsq.testing import FakeHost
from tests.support.code_map import PACKAGE, PAGE
from tests.support.nsqd import Nsqd
from tests.support.places import new_place
from tests.support.presentity_table import create_presentity_table
from tests.support.responding import Responding
from tests.support.until import until
from tests.support.walk import Walk

# A worker keeps its connections until its process ends.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

TOPIC, CHANNEL = "events", "kamailio"
STOP_TIMEOUT_S = 15.0
MARK = "walking-call"
MESSAGE = object()  # what Kamailio passes
CALL = {
    "Event-Category": "presence",
    "Event-Name": "update",
    "Event-Package": "dialog",
    "From": "sip:alice@example.com",
    "To": "sip:bob@example.com",
    "Call-ID": MARK,
    "State": "confirmed",
    "Sender-URI": "sip:walking@example.com",
}
RESET = {"Event-Category": "presence", "Event-Name": "reset", "Sender-URI": "sip:walking@example.com", "Why": MARK}
#: Asked by all, and named after the walk.
EVERYWHERE = {"testing.py", "runtime/page.py", "host.py", "quiet.py"}


def section(heading: str) -> str:
    """Return what stands under a heading."""
    found = re.search(rf"\n### {heading}\n(.*?)\n##", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def named(text: str) -> set[str]:
    """Return the files that a text names."""
    return set(re.findall(r"`([a-z_/]+\.py)`", text))


def stations(heading: str) -> set[str]:
    """Return the files of a walk that do the work themselves: not those in brackets."""
    return named(re.sub(r"\([^)]*\)", "", section(heading)))


@pytest.fixture
def nsqd(tmp_path: Path) -> Iterator[Nsqd]:
    with Nsqd(tmp_path / "nsqd") as server:
        server.create_topic(TOPIC)
        server.create_channel(TOPIC, CHANNEL)
        yield server


class Kamailio:
    """A plug-in on a fake Kamailio, whose routes call it as the shipped configuration does."""

    def __init__(self, nsqd: Nsqd, folder: Path) -> None:
        self.done = 0
        self.host = FakeHost(
            defines={
                "NSQ_NSQD_TCP_ADDRESS": nsqd.tcp_address,
                "NSQ_DB_URL": f"sqlite:///{create_presentity_table(folder / 'kamailio.db')}",
                "NSQ_LISTEN_TOPIC": TOPIC,
                "NSQ_LISTEN_CHANNEL": CHANNEL,
            },
            event_routes={
                "nsq:consumer-event-presence-update": self._route(
                    lambda text: self.plugin.nsq_pua_publish(MESSAGE, text)
                ),
                "nsq:consumer-event-presence-reset": self._route(lambda _: self.plugin.nsq_pua_reset(MESSAGE)),
            },
        )
        self.host.place = new_place(folder / "run")
        self.plugin = NativeNsq(self.host)

    def _route(self, call: Callable[[str], int]) -> Callable[[FakeHost, str], None]:
        def run(_host: FakeHost, payload: str) -> None:
            assert call(payload) == 1
            self.done += 1

        return run

    @contextmanager
    def consuming(self) -> Iterator[None]:
        supervisor = self.plugin._parts.supervisor
        thread = threading.Thread(target=supervisor.run_forever, name="consumer under test")
        thread.start()
        try:
            until(lambda: any(f"consuming {TOPIC}" in text for _, text in self.host.lines), what="the subscription")
            yield
        finally:
            supervisor.stop()
            thread.join(STOP_TIMEOUT_S)
            assert not thread.is_alive()


def walked(nsqd: Nsqd, kamailio: Kamailio, walk: Walk, *events: dict[str, str]) -> None:
    """Have events that come at once handled from end to end, and followed."""
    done = kamailio.done
    walk.steps.clear()  # of what came before
    nsqd.publish_many(TOPIC, [json.dumps(fields).encode() for fields in events])
    until(lambda: kamailio.done == done + len(events) and nsqd.channel(TOPIC, CHANNEL).drained, what="FIN")


def test_an_event_meets_the_files_that_its_walk_names(nsqd: Nsqd, tmp_path: Path) -> None:
    kamailio, walk = Kamailio(nsqd, tmp_path), Walk(MARK)
    with walk.followed(), kamailio.consuming():
        walked(nsqd, kamailio, walk, *[CALL | {"From": f"sip:user{number}@example.com"} for number in range(5)])
    assert walk.files - EVERYWHERE <= named(section("An event"))
    assert stations("An event") - {"plugin/kemi.py", "plugin/ksr.py"} - EVERYWHERE <= walk.files
    assert len(re.findall(r"^[0-9]+\. ", section("An event"), re.MULTILINE)) <= 16


def test_a_reset_meets_the_files_that_its_walk_names(nsqd: Nsqd, tmp_path: Path) -> None:
    kamailio, walk = Kamailio(nsqd, tmp_path), Walk(MARK)
    with walk.followed(), kamailio.consuming():
        walked(nsqd, kamailio, walk, CALL)
        walked(nsqd, kamailio, walk, RESET)
    assert walk.files - EVERYWHERE <= named(section("A reset")) | named(section("An event"))
    assert stations("A reset") <= walk.files


def test_a_query_meets_the_files_that_its_walk_names(nsqd: Nsqd, tmp_path: Path) -> None:
    kamailio, walk = Kamailio(nsqd, tmp_path), Walk(MARK)
    answer = {"Answer": MARK}
    with Responding(nsqd, "asked", lambda _: answer), walk.followed(), kamailio.consuming():
        walk.steps.clear()
        text = json.dumps({"Question": MARK, "Msg-ID": MARK})
        assert kamailio.plugin.nsq_query(MESSAGE, f"asked {text}") == 1
    assert json.loads(kamailio.host.variables["nqR"])["Answer"] == MARK
    assert walk.files - EVERYWHERE <= named(section("A query"))
    assert stations("A query") - {"plugin/kemi.py"} <= walk.files


def test_every_file_that_a_walk_names_exists() -> None:
    files = {name for heading in ("An event", "A query", "A reset") for name in named(section(heading))}
    assert {name for name in files if not (PACKAGE / name).is_file()} == set()
