# SPDX-License-Identifier: GPL-2.0-or-later
"""Which route handles an event, and what it decides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import orjson
import pytest

from kemi_nsq.consumer.routes import (
    BLOCK_NAME,
    ROUTE_VARIABLES,
    BuiltInRoutes,
    KamailioRoutes,
    Outcome,
    PythonRoutes,
    Router,
    event_route,
    handlers_of,
)
from kemi_nsq.counters import Counter
from kemi_nsq.event import Event
from kemi_nsq.host import Level
from kemi_nsq.quiet import BURST
from kemi_nsq.testing import FakeHost
from tests.support.deliveries import event
from tests.support.settings import settings

NAME = "nsq:consumer-event-presence"


class AskedHost(FakeHost):
    """A host that remembers which routes it was asked for."""

    def __init__(self, **routes: Callable[[FakeHost, str], None]) -> None:
        super().__init__(event_routes={f"nsq:{name}": route for name, route in routes.items()})
        self.asked: list[str] = []

    def run_event_route(self, name: str, payload: str) -> bool:
        self.asked.append(name)
        return super().run_event_route(name, payload)


# The decorator


def test_decorated_functions_are_found_by_normal_name() -> None:
    @event_route("nsq:Consumer_Event-Presence_Update", "nsq:other")
    def handler(_event: Event) -> None: ...

    found = handlers_of({"handler": handler, "x": 5, "y": print})
    assert found == {"nsq:consumer-event-presence-update": handler, "nsq:other": handler}


def test_decorated_methods_are_found_bound() -> None:
    class Handlers:
        seen: Event | None = None

        @event_route(NAME)
        def on_presence(self, received: Event) -> None:
            self.seen = received

    handlers = Handlers()
    found = handlers_of({"on_presence": handlers.on_presence})
    found[NAME](event())
    assert handlers.seen == event()


def test_objects_that_answer_to_every_name_are_no_handlers() -> None:
    class Proxy:
        def __getattr__(self, name: str) -> Proxy:
            return self

    assert handlers_of({"proxy": Proxy()}) == {}


# Python handlers


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        (None, Outcome.DONE),
        (1, Outcome.DONE),
        (0, Outcome.DONE),
        (True, Outcome.DONE),
        (False, Outcome.DONE),
        ("-1", Outcome.DONE),
        (-1, Outcome.REQUEUE),
        (-255, Outcome.REQUEUE),
    ],
)
def test_result_of_a_python_handler(result: object, outcome: Outcome) -> None:
    host = FakeHost()
    routes = PythonRoutes({NAME: lambda _: result}, host)  # type: ignore[dict-item,return-value]
    assert routes.run(NAME, event()) is outcome
    assert host.lines == []


def test_a_python_handler_gets_the_event() -> None:
    seen: list[Event] = []
    assert PythonRoutes({NAME: seen.append}, FakeHost()).run(NAME, event()) is Outcome.DONE
    assert seen == [event()]


def test_no_python_handler_of_that_name() -> None:
    assert PythonRoutes({NAME: print}, FakeHost()).run("nsq:other", event()) is Outcome.MISSING


class Unspeakable(Exception):
    """An exception that cannot even be written."""

    def __repr__(self) -> str:
        raise ValueError

    __str__ = __repr__


@pytest.mark.parametrize(
    "error",
    [
        ValueError("wrong"),
        SystemExit(1),
        RecursionError(),
        KeyboardInterrupt(),
        asyncio.CancelledError(),
        Unspeakable(),
    ],
)
def test_an_exception_in_a_python_handler_requeues(error: BaseException) -> None:
    def handler(_event: Event) -> None:
        raise error

    host = FakeHost()
    assert PythonRoutes({NAME: handler}, host).run(NAME, event()) is Outcome.REQUEUE
    assert host.counters == {Counter.ROUTE_FAILED: 1}
    (line,) = [text for level, text in host.lines if level is not Level.DEBUG]
    assert NAME in line
    assert type(error).__name__ in line
    assert "0123456789abcdef" in line
    assert "test_routes.py:" in line, "it names the line of the operator's code"


# Native routes


def test_a_native_route_finds_the_event_in_variables() -> None:
    seen: dict[str, str] = {}
    host = AskedHost(x=lambda host, payload: seen.update(host.variables, data=payload))
    assert KamailioRoutes(host).run("nsq:x", event('{"a": 1}', attempts=3)) is Outcome.DONE
    assert seen == {
        "nqE": '{"a": 1}',
        "nqTopic": "events",
        "nqChannel": "kamailio",
        "nqAttempts": "3",
        "nqMessageId": "0123456789abcdef",
        "nqReplays": "0",
        "nqAck": "",
        "data": '{"a": 1}',
    }
    assert set(seen) - {"data"} == set(ROUTE_VARIABLES)


def test_a_native_route_asks_for_redelivery() -> None:
    host = AskedHost(x=lambda host, _: host.set_variable("nqAck", "requeue"))
    routes = KamailioRoutes(host)
    assert routes.run("nsq:x", event()) is Outcome.REQUEUE
    host.event_routes["nsq:x"] = lambda *_: None
    assert routes.run("nsq:x", event()) is Outcome.DONE, "the wish of one event is not that of the next"


@pytest.mark.parametrize("word", ["Requeue", "ack", "1", "0"])
def test_other_words_do_not_requeue(word: str) -> None:
    host = AskedHost(x=lambda host, _: host.set_variable("nqAck", word))
    assert KamailioRoutes(host).run("nsq:x", event()) is Outcome.DONE


def test_a_missing_native_route_is_asked_for_once() -> None:
    host = AskedHost()
    routes = KamailioRoutes(host)
    assert [routes.run("nsq:x", event()) for _ in range(3)] == [Outcome.MISSING] * 3
    assert host.asked == ["nsq:x"], "Kamailio logs an error for each"


def test_a_native_route_that_exists_is_asked_each_time() -> None:
    host = AskedHost(x=lambda *_: None)
    routes = KamailioRoutes(host)
    assert [routes.run("nsq:x", event()) for _ in range(3)] == [Outcome.DONE] * 3
    assert host.asked == ["nsq:x"] * 3


def test_remembered_misses_are_bounded_and_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kemi_nsq.consumer.routes._REMEMBERED_MISSES", 10)
    host = AskedHost()
    routes = KamailioRoutes(host)
    for number in range(11):
        routes.run(f"nsq:x{number}", event())
    host.asked.clear()
    routes.run("nsq:x10", event())
    assert host.asked == []
    routes.run("nsq:x0", event())
    assert host.asked == ["nsq:x0"]


@pytest.mark.parametrize(
    "name",
    [
        "nsq:consumer-event-a b",
        "nsq:consumer-event-a.b",
        "nsq:consumer-event-sip:",
        "nsq:consumer-event-a@b",
        "nsq:consumer-event-ä",
        "nsq:consumer-event-\0",
        "nsq:consumer-event-x\n",
        'nsq:consumer-event-"]',
        "nsq:consumer-event-{}",
        "nsq",
        "nsq:",
        ":x",
        "nsq:1",
        "1nsq:x",
        "",
    ],
)
def test_names_that_kamailio_cfg_cannot_express_are_not_asked_for(name: str) -> None:
    host = AskedHost()
    assert KamailioRoutes(host).run(name, event()) is Outcome.MISSING
    assert host.asked == []
    assert host.variables == {}


@pytest.mark.parametrize("name", ["nsq:consumer-event", "nsq:consumer-event-a-1", "nsq:x:y", "nsq:x--"])
def test_names_that_it_can_express(name: str) -> None:
    assert BLOCK_NAME.fullmatch(name)


# Both together


def router(host: FakeHost, **handlers: Callable[[Event], int | None]) -> Router:
    python = PythonRoutes({f"nsq:{name}": handler for name, handler in handlers.items()}, host)
    return Router(settings(), host, [python, KamailioRoutes(host)])


def test_the_first_name_that_has_a_route_wins_whatever_its_kind() -> None:
    ran: list[str] = []
    host = AskedHost(b=lambda *_: ran.append("native b"), c=lambda *_: ran.append("native c"))
    routes = router(host, c=lambda _: ran.append("python c"))
    assert routes.run(["nsq:a", "nsq:b", "nsq:c"], event()) is Outcome.DONE
    assert ran == ["native b"]
    assert host.asked == ["nsq:a", "nsq:b"]


def test_many_names_without_a_route_do_not_fill_the_log() -> None:
    host = FakeHost()
    routes = router(host)
    for number in range(5000):
        assert routes.run([f"nsq:consumer-event-{number}"], event()) is Outcome.MISSING
    assert host.counters[Counter.UNROUTED] == 5000
    assert 0 < len(host.lines) <= BURST


def test_of_one_name_the_python_handler_goes_first() -> None:
    ran: list[str] = []
    host = AskedHost(b=lambda *_: ran.append("native"))
    routes = router(host, b=lambda _: ran.append("python"))
    assert routes.run(["nsq:b"], event()) is Outcome.DONE
    assert ran == ["python"]
    assert host.asked == []


def test_a_route_that_failed_is_not_followed_by_the_next() -> None:
    ran: list[str] = []
    routes = router(AskedHost(), a=lambda _: -1, b=lambda _: ran.append("b"))
    assert routes.run(["nsq:a", "nsq:b"], event()) is Outcome.REQUEUE
    assert ran == []


def test_no_route_at_all() -> None:
    assert router(AskedHost()).run(["nsq:a", "nsq:b"], event()) is Outcome.MISSING


# What is built in


class BuiltIn:
    """A router with something built in for `update`, and native routes of every name that its event may have."""

    def __init__(self, python: Callable[[Event], int | None] | None = None) -> None:
        self.ran: list[str] = []
        blocks = ("consumer-event-presence-update", "consumer-event-presence", "consumer-event")
        self.host = AskedHost(**dict.fromkeys(blocks, lambda *_: self.ran.append("native")))
        chosen = settings()
        handlers = PythonRoutes({f"{NAME}-update": python} if python else {}, self.host)
        built_in = BuiltInRoutes(chosen, self.host, handlers, {"update": lambda: self.ran.append("built in")})
        self.router = Router(chosen, self.host, [handlers, KamailioRoutes(self.host)], built_in=built_in)

    def run(self, payload: str) -> Outcome:
        arrived = event(payload)
        return self.router.run(self.router.names(arrived), arrived)


UPDATE = '{"Event-Category": "presence", "Event-Name": "update"}'


def test_what_is_built_in_needs_no_route_and_asks_for_none() -> None:
    stage = BuiltIn()
    assert stage.run(UPDATE) is Outcome.DONE
    assert (stage.ran, stage.host.asked, stage.host.variables) == (["built in"], [], {})


@pytest.mark.parametrize(("result", "outcome"), [(None, Outcome.DONE), (-1, Outcome.REQUEUE)])
def test_a_python_handler_of_its_name_goes_before_what_is_built_in(result: int | None, outcome: Outcome) -> None:
    stage = BuiltIn(python=lambda _: result)
    assert stage.run(UPDATE) is outcome
    assert (stage.ran, stage.host.asked) == ([], [])


@pytest.mark.parametrize(
    ("category", "name", "is_built_in"),
    [
        ("Presence", "UPDATE", True),
        ("presence", "update-all", False),
        ("presence", "", False),
        ("presence-update", "", False),
        ("presence-x", "update", False),
        ("call", "update", False),
        ("", "update", False),
    ],
)
def test_only_the_exact_name_is_built_in(category: str, name: str, is_built_in: bool) -> None:
    stage = BuiltIn()
    assert stage.run(orjson.dumps({"Event-Category": category, "Event-Name": name}).decode()) is Outcome.DONE
    assert stage.ran == ["built in" if is_built_in else "native"]
