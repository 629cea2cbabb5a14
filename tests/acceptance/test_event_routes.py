# SPDX-License-Identifier: GPL-2.0-or-later
"""Event routes: which one runs, what it finds, and what becomes of a message that it does not want yet."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import custom_chain
from tests.support.chain import CHANNEL, CONFIGURATIONS, DOMAIN, TOPIC, Chain, Person
from tests.support.until import until

#: The names for an event {"Event-Category": "order", "Event-Name": "first_one"}, the most specific first.
NAMES = (
    "nsq:consumer-event-order-first-one",
    "nsq:consumer-event-order",
    "nsq:consumer-event-event-category-event-name",
    "nsq:consumer-event-event-category",
    "nsq:consumer-event",
)
UNROUTED = "kemi-nsq: no event_route for nsq:consumer-event-test-nobody from kamailio:kamailio; such events are dropped"
#: So many names, and bytes of the log: 20 lines in 10 seconds have 3,500.
MANY, MOST_LOG = 3000, 20_000
EXPECTED = (
    "kemi-nsq: no event_route for ",
    "kemi-nsq: .* dropped: its route failed",
    "this handler fails once",
)


@pytest.fixture(scope="module")
def custom(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Run a chain with the routes of the tests."""
    with custom_chain(kind, tmp_path_factory.mktemp("custom"), NSQ_MAX_ATTEMPTS=2) as chain:
        yield chain
        chain.drain()
        assert chain.kamailio.alive()
    assert chain.complaints(EXPECTED) == []


def publish(chain: Chain, name: str, **fields: str) -> None:
    """Publish an event for `nsq:consumer-event-test-<name>`."""
    chain.publish(json.dumps({"Event-Category": "test", "Event-Name": name} | fields).encode())


def logged(chain: Chain, text: str) -> None:
    chain.kamailio.process.wait_for_log(re.escape(text))


def test_a_route_finds_the_event_and_where_it_came_from(custom: Chain) -> None:
    body = {"Event-Category": "test", "Event-Name": "show", "From": "Zoë $var(x) $$ %", "n": 1.5}
    text = json.dumps(body, ensure_ascii=False)
    custom.publish(text.encode())
    logged(custom, f"test: payload={text}\n")
    logged(custom, f"test: topic={TOPIC} channel={CHANNEL} attempts=1\n")


def test_case_and_underscores_of_a_name_do_not_matter(custom: Chain) -> None:
    custom.publish(b'{"Event-Category": "TEST", "Event-Name": "Show", "Mark": "upper"}')
    logged(custom, '"Mark": "upper"')


def test_the_historic_names_work_inside_strings(tmp_path_factory: pytest.TempPathFactory) -> None:
    with custom_chain("native", tmp_path_factory.mktemp("historic")) as chain:
        text = '{"Event-Category":"test","Event-Name":"historic","From":"sip:alice@example.com"}'
        chain.publish(text.encode())
        logged(chain, f"test: historic={text} field=sip:alice@example.com sip:alice@example.com data={text}\n")
        logged(chain, "test: it is the payload outside strings too")


def test_an_event_without_a_route_is_counted_logged_once_and_finished(custom: Chain) -> None:
    unrouted = custom.counter("unrouted")
    for _ in range(3):
        publish(custom, "nobody")
    until(lambda: custom.counter("unrouted") == unrouted + 3, what="three events without a route")
    custom.drain()
    assert len(custom.log_lines(re.escape(UNROUTED))) == 1
    # Names of data that Kamailio's configuration cannot have are not asked for at all.
    publish(custom, "no body[x]")
    until(lambda: custom.counter("unrouted") == unrouted + 4, what="a fourth one")


def test_very_many_names_without_a_route_leave_a_short_log(custom: Chain) -> None:
    """Kamailio's own lines among them: evrexec would write one for each name that it is asked to run in vain."""
    unrouted, logged_before = custom.counter("unrouted"), len(custom.kamailio.log_text())
    events = [json.dumps({"Event-Category": f"many{n}", "Event-Name": "x"}).encode() for n in range(MANY)]
    custom.nsqd.publish_many(TOPIC, events)
    until(lambda: custom.counter("unrouted") == unrouted + MANY, timeout_s=30, what="all events without a route")
    assert len(custom.kamailio.log_text()) - logged_before < MOST_LOG


def test_a_redelivered_event_is_stored_once_and_told_again(custom: Chain) -> None:
    """Kamailio may have died between the commit and the NOTIFY of the first delivery."""
    person, stale = Person(chain=custom), custom.counter("pua_stale")
    with custom.watcher() as watcher:
        lamp = watcher.subscribe(person.uri, "dialog")
        person.call("early", Event_Category="test-again")
        logged(custom, "test: published rc=1 attempts=1\n")
        logged(custom, "test: published rc=2 attempts=2\n")
        custom.drain()
        person.call("confirmed")
        lamp.wait(lambda notify: notify.dialog_info.states == ("confirmed",), what="a call")
        states = [notify.dialog_info.states[0] for notify in lamp.notifies]
    assert states == ["terminated", "early", "early", "confirmed"]
    assert custom.counter("pua_stale") == stale + 1
    assert custom.nsqd.channel(TOPIC, CHANNEL).requeued >= 1


def test_an_event_that_no_route_ever_takes_is_given_up(custom: Chain) -> None:
    gave_up = custom.counter("gave_up")
    publish(custom, "never")
    until(lambda: custom.counter("gave_up") == gave_up + 1, what="the end of its attempts")
    custom.drain()
    assert custom.log_lines("dropped: its route failed, or asked for it again, 2 times")


def test_a_handler_that_raises_gets_the_event_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    with custom_chain("kemi", tmp_path_factory.mktemp("raises")) as chain:
        publish(chain, "raise")
        logged(chain, "test: attempts=2 after an exception\n")
        chain.drain()
        assert (chain.counter("route_failed"), chain.counter("requeued")) == (1, 1)
        assert chain.log_lines(r"nsq:consumer-event-test-raise raised ValueError: this .* at .*routes\.py:\d+ for")


@pytest.mark.parametrize("level", range(len(NAMES)))
def test_the_most_specific_route_runs(kind: str, level: int, tmp_path: Path) -> None:
    """Of five routes the first runs; without it the second, and so on."""
    write = {"native": native_routes, "kemi": python_routes}[kind]
    with write(tmp_path, NAMES[level:]) as chain:
        chain.publish(b'{"Event-Category": "Order", "Event-Name": "First_one"}')
        logged(chain, f"test: route {NAMES[level]} runs")
        chain.drain()
        assert len(chain.log_lines("test: route")) == 1


def native_routes(folder: Path, names: tuple[str, ...]) -> Chain:
    """Return a chain whose configuration has these event routes."""
    routes = [f'event_route[{name}] {{ xlog("L_NOTICE", "test: route {name} runs\\n"); }}' for name in names]
    config = folder / "order.cfg"
    config.write_text("\n".join((f'include_file "{CONFIGURATIONS["native"][0]}"', "debug=1", *routes, "")))
    return Chain("native", folder, config=config)


def python_routes(folder: Path, names: tuple[str, ...]) -> Chain:
    """Return a chain whose script has these event handlers, the least specific one first."""
    handlers = [
        f"@event_route('{name}')\ndef handler{number}(event):\n    KSR.notice('test: route {name} runs\\n')\n"
        for number, name in enumerate(reversed(names))
    ]
    head = "import KSR\nfrom kemi_routes import *\nfrom kemi_nsq import event_route\nclass Own(Kamailio): pass\n"
    (folder / "order.py").write_text(head + "\n".join(handlers) + "def mod_init(): return Own()\n")
    return custom_chain("kemi", folder, script="order.py")


def test_a_presence_event_of_another_name_still_finds_its_route(custom: Chain) -> None:
    before = custom.counter("pua_stored")
    person = Person(chain=custom)
    person.publish("presence", State="busy", From=f'"A" <sip:{person.user}@{DOMAIN}>', Event_Category="Presence")
    until(lambda: custom.counter("pua_stored") == before + 1, what="a stored state")
