# SPDX-License-Identifier: GPL-2.0-or-later
"""What Kamailio holds: settings at start, return codes, and no exception that gets out."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from inspect import signature
from pathlib import Path
from typing import NoReturn

import pytest

from kemi_nsq import Event, KemiNsq, NativeNsq, event_route
from kemi_nsq.consumer.message import Handled
from kemi_nsq.counters import Counter
from kemi_nsq.errors import ConnectionLost, RunFolderError
from kemi_nsq.host import Level
from kemi_nsq.plugin.face import Face
from kemi_nsq.plugin.pua_functions import PuaFunctions
from kemi_nsq.plugin.script import handlers as handlers_of_face
from kemi_nsq.presence.row import TOMBSTONE_BODY
from kemi_nsq.runtime.page import read
from kemi_nsq.testing import FakeHost
from tests.support.database import rows
from tests.support.deliveries import event, handled
from tests.support.presentity_table import create_presentity_table

# Nobody closes what Kamailio's processes keep until they end.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

MESSAGE = object()
CALL = {
    "Event-Category": "presence",
    "Event-Name": "update",
    "Event-Package": "dialog",
    "From": "sip:alice@example.com",
    "To": "sip:bob@example.com",
    "Call-ID": "c1",
    "State": "early",
}

Publish = Callable[..., int]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return create_presentity_table(tmp_path / "kamailio.db")


@pytest.fixture
def host(path: Path) -> FakeHost:
    return FakeHost(defines={"NSQ_DB_URL": f"sqlite:///{path}"})


def payload(**changes: str | None) -> str:
    """Write the event CALL with some fields changed, or left out where None; `_` stands for `-`."""
    fields = CALL | {name.replace("_", "-"): value for name, value in changes.items()}
    return json.dumps({name: value for name, value in fields.items() if value is not None})


def arrives(plugin: Face, arrived: Event) -> Handled:
    """Let an event be the one whose route runs."""
    message = handled(arrived)
    plugin._parts.current.begin(message)
    return message


def native(host: FakeHost) -> tuple[Face, Publish]:
    plugin = NativeNsq(host)
    return plugin, lambda *text: plugin.nsq_pua_publish(MESSAGE, *text)


def kemi(host: FakeHost) -> tuple[Face, Publish]:
    plugin = KemiNsq(host)
    return plugin, plugin.nsq_pua_publish


Make = Callable[[FakeHost], tuple[Face, Publish]]
both = pytest.mark.parametrize("make", [native, kemi])


# nsq_pua_publish


@both
def test_a_state_is_stored_and_its_watchers_hear_of_it(make: Make, host: FakeHost, path: Path) -> None:
    _, publish = make(host)
    assert publish(payload()) == 1
    (row,) = rows(path)
    assert (row["username"], row["domain"], row["event"]) == ("alice", "example.com", "dialog")
    assert host.refreshed == [("sip:alice@example.com", "dialog")]
    assert host.counters == {Counter.PUA_STORED: 1}
    assert host.lines == []


@both
def test_the_current_event_needs_no_payload(make: Make, host: FakeHost, path: Path) -> None:
    plugin, publish = make(host)
    arrives(plugin, event(payload()))
    assert publish() == 1
    assert publish() == 2, "a redelivery changes nothing"
    assert len(rows(path)) == 1
    assert len(host.refreshed) == 1


@both
def test_a_later_event_with_the_same_document_is_kept_longer_without_notify(make: Make, host: FakeHost) -> None:
    plugin, publish = make(host)
    arrives(plugin, event(payload(), timestamp_ns=1))
    assert publish() == 1
    arrives(plugin, event(payload(), timestamp_ns=2))
    assert publish() == 2
    assert host.counters == {Counter.PUA_STORED: 1, Counter.PUA_UNCHANGED: 1}
    assert len(host.refreshed) == 1


@both
def test_a_late_early_does_not_bring_a_call_back(make: Make, host: FakeHost, path: Path) -> None:
    plugin, publish = make(host)
    arrives(plugin, event(payload(State="terminated"), timestamp_ns=2))
    assert publish() == 1
    arrives(plugin, event(payload(State="early"), timestamp_ns=1))
    assert publish() == 2
    assert host.counters[Counter.PUA_STALE] == 1
    assert rows(path)[0]["body"] == TOMBSTONE_BODY, "it was told, and is hidden"


BAD_PAYLOADS = [
    *("", "hello", "[]", "null", "{}", "{'a': 1}", "[" * 5000),
    payload(From=None),
    payload(From="alice"),
    payload(State="ringing"),
    payload(Expires="-1"),
    payload(Event_Package="conference"),
]


@both
@pytest.mark.parametrize("text", BAD_PAYLOADS)
def test_an_invalid_payload_is_one_line_and_minus_one(make: Make, host: FakeHost, path: Path, text: str) -> None:
    _, publish = make(host)
    assert publish(text) == -1
    assert rows(path) == []
    assert host.counters == {Counter.PUA_INVALID: 1}
    ((level, line),) = host.lines
    assert level is Level.ERROR
    assert line.startswith("nsq_pua_publish: ")
    assert len(line.splitlines()) == 1


@both
def test_the_line_names_the_message(make: Make, host: FakeHost) -> None:
    plugin, publish = make(host)
    message = arrives(plugin, event("{}"))
    assert publish() == -1
    assert host.lines[0][1].endswith("(message 0123456789abcdef of events)")
    assert message.refused


@both
def test_outside_an_event_route_a_payload_is_needed(make: Make, host: FakeHost) -> None:
    _, publish = make(host)
    assert publish() == -1
    assert host.lines == [(Level.ERROR, "nsq_pua_publish: outside an event route a payload is needed")]


@both
def test_without_a_database_url_it_says_so(make: Make) -> None:
    host = FakeHost()
    _, publish = make(host)
    assert publish(payload()) == -1
    assert "NSQ_DB_URL is not set" in host.lines[0][1]


@both
def test_a_database_error_is_minus_two_and_the_event_comes_again(make: Make, host: FakeHost, path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE presentity")
    plugin, publish = make(host)
    message = arrives(plugin, event(payload()))
    assert publish() == -2
    assert host.counters == {Counter.PUA_DATABASE_ERROR: 1}
    assert message.database == "no such table: presentity"
    assert host.lines == [], "the line about the outage tells it, once for all events"


@both
def test_a_database_error_outside_an_event_is_one_line(make: Make, host: FakeHost, path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE presentity")
    _, publish = make(host)
    assert publish(payload()) == -2
    assert host.lines == [(Level.ERROR, "nsq_pua_publish: no such table: presentity")]


@both
def test_a_refused_refresh_leaves_the_state_stored(make: Make, host: FakeHost, path: Path) -> None:
    host.refresh_accepted = False
    _, publish = make(host)
    assert publish(payload()) == 1
    assert len(rows(path)) == 1
    # Tried again at once: this process has no tick.
    assert host.counters == {Counter.PUA_STORED: 1, Counter.REFRESH_FAILED: 2}
    assert {text.partition(" (")[0] for _, text in host.lines} == {
        "the presence module refused to refresh sip:alice@example.com"
    }


@both
def test_with_refresh_off_the_route_does_it(make: Make, path: Path) -> None:
    host = FakeHost(defines={"NSQ_DB_URL": f"sqlite:///{path}", "NSQ_PUA_REFRESH": "0"})
    _, publish = make(host)
    assert publish(payload()) == 1
    assert host.refreshed == []


@both
def test_the_lock_is_free_afterwards_whatever_happens(make: Make, path: Path) -> None:
    host = FakeHost(defines={"NSQ_DB_URL": f"sqlite:///{path}", "NSQ_PUA_LOCK": "presence"})
    _, publish = make(host)
    assert publish(payload()) == 1
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE presentity")
    assert publish(payload(State="confirmed")) == -2
    assert host.locked == set()


@both
def test_a_lock_that_is_refused_is_told_and_not_given_back(make: Make, path: Path) -> None:
    host = FakeHost(defines={"NSQ_DB_URL": f"sqlite:///{path}", "NSQ_PUA_LOCK": "presence"})
    host.has_locks = False
    plugin, publish = make(host)
    with plugin.presence_lock():
        pass
    assert host.counters[Counter.LOCK_FAILED] == 1
    ((level, text),) = host.lines
    assert (level, text.partition(":")[2]) == (Level.ERROR, " it was refused. Is cfgutils' lock_set_size set?")
    assert publish(payload()) == 1
    assert host.counters[Counter.LOCK_FAILED] == 3, "once for the row, once for the NOTIFY"


def test_nothing_is_asked_of_a_configuration_without_nsq_cfg() -> None:
    KemiNsq(FakeHost())
    NativeNsq(FakeHost({"NSQ_KEMI": ""}))


@pytest.mark.parametrize(
    ("face", "defines", "line"),
    [
        (KemiNsq, {"NSQ_INCLUDED": ""}, "NSQ_SCRIPT has a class of KemiNsq, and NSQ_KEMI is not defined"),
        (NativeNsq, {"NSQ_INCLUDED": "", "NSQ_KEMI": "0"}, "NSQ_KEMI is defined (with any value, 0 too)"),
    ],
)
def test_a_class_that_nothing_would_call_is_refused(face: type[Face], defines: dict[str, str], line: str) -> None:
    host = FakeHost(defines)
    with pytest.raises(SystemExit):
        face(host)
    assert [(level, text[: len(line)]) for level, text in host.lines] == [(Level.CRITICAL, line)]


@pytest.mark.parametrize(("started", "fits"), [(None, True), (2, True), (1, False)])
def test_consumers_are_as_many_as_were_asked_for(started: int | None, fits: bool) -> None:
    host = FakeHost({"NSQ_CONSUMERS": "2"})
    host.started = started
    with nullcontext() if fits else pytest.raises(SystemExit):
        NativeNsq(host)
    assert [text.partition(":")[0] for _, text in host.lines] == (
        [] if fits else ["NSQ_CONSUMERS is 2, but evrexec starts 1"]
    )


@both
def test_a_script_can_hold_the_lock(make: Make, path: Path) -> None:
    host = FakeHost(defines={"NSQ_DB_URL": f"sqlite:///{path}", "NSQ_PUA_LOCK": "presence"})
    plugin, _ = make(host)
    with plugin.presence_lock():
        assert host.locked == {"presence"}
    assert host.locked == set()


@both
def test_a_request_is_handled_in_the_lock_and_its_state_asked_for(make: Make, path: Path) -> None:
    host = FakeHost(
        defines={"NSQ_DB_URL": f"sqlite:///{path}", "NSQ_PUA_LOCK": "presence", "NSQ_PROBE_TOPIC": "probes"}
    )
    plugin, _ = make(host)
    asked: list[tuple[str, str]] = []
    plugin._parts = dataclasses.replace(plugin._parts, pua=Asked(plugin._parts.pua, asked))  # type: ignore[arg-type]
    host.wanted = ("sip:alice@example.com", "dialog")
    assert handle(plugin) == 1
    assert (host.handled, host.locked, asked) == ([{"presence"}], set(), [host.wanted])
    host.wanted = None
    assert handle(plugin) == 1
    assert len(asked) == 1


@both
def test_a_request_that_is_refused_is_counted_and_asks_for_nothing(make: Make, path: Path) -> None:
    host = FakeHost(defines={"NSQ_PUA_LOCK": "presence"})
    host.request_accepted, host.wanted = False, ("sip:alice@example.com", "dialog")
    plugin, _ = make(host)
    assert handle(plugin) == -1
    assert (host.counters, host.locked, host.lines) == ({Counter.REQUEST_REFUSED: 1}, set(), [])


def handle(plugin: Face) -> int:
    """Handle a request as its routes do."""
    return plugin.nsq_pua_handle(MESSAGE) if isinstance(plugin, NativeNsq) else plugin.nsq_pua_handle()  # type: ignore[attr-defined]


class Asked:
    """The functions of presence, whose probes only say for what they are."""

    def __init__(self, real: PuaFunctions, asked: list[tuple[str, str]]) -> None:
        self.handle = real.handle
        self.probe = lambda *wanted: asked.append(wanted)


# Whatever goes wrong


class Broken:
    """Functions that all have a bug."""

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        def fail(*_arguments: object) -> NoReturn:
            raise RuntimeError(f"a bug in {name}")

        return fail


NATIVE_CALLS = {
    "nsq_pua_publish": ("{}",),
    "nsq_pua_reset": ("all",),
    "nsq_pua_probe": ("sip:a@b dialog",),
    "nsq_publish": ("t {}",),
    "nsq_publish_async": ("t {}",),
    "nsq_publish_deferred": ("t 5 {}",),
    "nsq_query": ("t {}",),
    "nsq_query_async": ("t ROUTE {}",),
}


@pytest.mark.parametrize(("name", "arguments"), NATIVE_CALLS.items())
def test_a_bug_is_one_line_with_its_traceback_and_a_negative_code(
    host: FakeHost, name: str, arguments: tuple[str, ...]
) -> None:
    plugin = NativeNsq(host)
    plugin._parts = dataclasses.replace(plugin._parts, nsq=Broken(), pua=Broken())  # type: ignore[arg-type]
    assert getattr(plugin, name)(MESSAGE, *arguments) == -1
    assert host.counters == {Counter.BUG: 1}
    (level, line), *trace = host.lines
    assert level is Level.CRITICAL
    assert line.startswith(f"{name}: RuntimeError: a bug in ")
    assert line.endswith("; please report this")
    assert trace[0] == (Level.ERROR, "Traceback (most recent call last):")
    assert any("in call" in text for _, text in trace)


#: Those that take a text, besides the object and the message.
NATIVE_NAMES = [
    name for name, method in vars(NativeNsq).items() if name[0] != "_" and len(signature(method).parameters) > 2
]


@pytest.mark.parametrize("name", NATIVE_NAMES)
@pytest.mark.parametrize(
    "text", [None, "", " ", "x", "x y", "x y z", "x 5 {", '{"a": "\\u0000"}', 'a {"a": "\\u0000b"}']
)
def test_any_text_of_a_route_gives_a_code_and_never_zero(
    name: str, text: str | None, environment: pytest.MonkeyPatch
) -> None:
    def no_postbox(_name: str) -> NoReturn:
        raise ConnectionLost("taken")

    environment.setattr("kemi_nsq.queries.asker.Postbox", no_postbox)
    host = FakeHost()  # no transaction to suspend, no database
    plugin = NativeNsq(host)
    code = getattr(plugin, name)(MESSAGE, *([] if text is None else [text]))
    assert type(code) is int
    assert code != 0
    assert Counter.BUG not in host.counters, host.lines


@pytest.mark.parametrize("make", [NativeNsq, KemiNsq])
def test_the_callbacks_that_kamailio_probes_are_there(make: type[Face], host: FakeHost) -> None:
    plugin = make(host)
    assert plugin.child_init(1) == 0
    assert plugin.ksr_reply_route(MESSAGE) == 1
    assert plugin.ksr_onsend_route(MESSAGE) == 1


@pytest.mark.parametrize(
    ("make", "start", "part"),
    [
        (NativeNsq, lambda plugin: plugin.nsq_consumer(MESSAGE), "supervisor"),
        (KemiNsq, lambda plugin: plugin.ksr_nsq_consumer(MESSAGE, ""), "supervisor"),
        (NativeNsq, lambda plugin: plugin.nsq_relay(MESSAGE), "relay"),
        (KemiNsq, lambda plugin: plugin.ksr_nsq_relay(MESSAGE, ""), "relay"),
    ],
)
def test_consumer_and_relay_are_started_by_their_entry_points(
    make: type[Face], start: Callable[[Face], int], part: str, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[bool] = []
    plugin = make(host)
    monkeypatch.setattr(getattr(plugin._parts, part), "run_forever", lambda: ran.append(True))
    assert start(plugin) == -1
    assert ran == [True]


# At start


@pytest.mark.parametrize("make", [NativeNsq, KemiNsq])
def test_wrong_settings_are_logged_each_and_kamailio_does_not_start(
    make: type[Face], environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("NSQ_TOPIC", "x")
    host = FakeHost(defines={"NSQ_ACK": "never", "NSQ_MAX_ATTEMPTS": "0"})
    with pytest.raises(SystemExit):
        make(host)
    assert {level for level, _ in host.lines} == {Level.CRITICAL}
    assert sorted(line.split()[0] for _, line in host.lines) == ["NSQ_ACK", "NSQ_MAX_ATTEMPTS", "NSQ_TOPIC"]


def test_settings_come_from_the_environment_too(environment: pytest.MonkeyPatch, path: Path) -> None:
    environment.setenv("NSQ_DB_URL", f"sqlite:///{path}")
    assert KemiNsq(FakeHost()).nsq_pua_publish(payload()) == 1


def test_starting_puts_an_sqlite_file_into_wal_mode_and_leaves_it_closed(path: Path) -> None:
    """Bytes 18 and 19 of a file's header say so: 2 (sqlite.org/fileformat2.html)."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=DELETE")
    assert path.read_bytes()[18:20] == b"\1\1"
    native(FakeHost(defines={"NSQ_DB_URL": f"sqlite:///{path}"}))
    assert path.read_bytes()[18:20] == b"\2\2"
    assert list(path.parent.iterdir()) == [path], "who closes an SQLite file last takes its journal away"


def test_starting_opens_nothing(tmp_path: Path) -> None:
    defines = {"NSQ_DB_URL": f"sqlite:///{tmp_path}/none.db", "NSQ_OUTBOX": f"{tmp_path}/outbox.db"}
    NativeNsq(FakeHost(defines=defines))
    assert list(tmp_path.iterdir()) == []


# Handlers of events


@event_route("nsq:consumer-event-of-the-module", "nsq:consumer-event-both")
def of_the_module(_event: Event) -> int:
    return 1


class Operator(KemiNsq):
    """What an operator writes."""

    def __init__(self, host: FakeHost) -> None:
        super().__init__(host)
        self.seen: list[Event] = []

    @event_route("nsq:consumer-event-of-the-class", "nsq:Consumer_Event-Both")
    def of_the_class(self, received: Event) -> int:
        self.seen.append(received)
        return 1

    @event_route("nsq:consumer-event-private")
    def _private(self, received: Event) -> int:
        return 1


class Derived(Operator):
    """A class whose handler is inherited."""


@pytest.mark.parametrize("make", [Operator, Derived])
def test_handlers_are_methods_and_functions_of_the_module(make: type[Operator], host: FakeHost) -> None:
    operator = make(host)
    handlers = handlers_of_face(operator)
    assert set(handlers) == {
        "nsq:consumer-event-of-the-module",
        "nsq:consumer-event-of-the-class",
        "nsq:consumer-event-both",
        "nsq:consumer-event-private",
    }
    assert handlers["nsq:consumer-event-of-the-module"] is of_the_module
    handlers["nsq:consumer-event-both"](event("{}"))
    assert operator.seen == [event("{}")], "of one name the method wins"


def test_a_property_that_fails_does_not_keep_kamailio_from_starting(host: FakeHost) -> None:
    class WithProperty(KemiNsq):
        @property
        def later(self) -> str:
            raise RuntimeError("not before the first request")

    WithProperty(host)


# The runtime folder


class FolderHost(FakeHost):
    """A server whose runtime folder is refused, or has seen deaths."""

    def __init__(self, refusal: str = "") -> None:
        super().__init__()
        self._refusal = refusal
        self.taken: list[str] = []

    def take_run_folder(self, path: str) -> Mapping[str, float]:
        self.taken.append(path)
        if self._refusal:
            raise RunFolderError(self._refusal)
        return {"0123456789abcdef": 2}


@pytest.mark.parametrize("kind", [NativeNsq, KemiNsq])
def test_a_runtime_folder_that_cannot_be_had_stops_the_start_with_one_line(kind: type[Face]) -> None:
    host = FolderHost("NSQ_RUN_DIR /x is in use")
    with pytest.raises(SystemExit) as stopped:
        kind(host)
    assert stopped.value.code == 1
    assert host.lines == [(Level.CRITICAL, "NSQ_RUN_DIR /x is in use")]


def test_the_messages_that_ended_a_process_are_handed_on(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("NSQ_RUN_DIR", "/run/mine")
    host = FolderHost()
    assert NativeNsq(host)._parts.supervisor._handling._died == {"0123456789abcdef": 2}
    assert host.taken == ["/run/mine"]


def test_without_kamailio_no_folder_is_made(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("NSQ_RUN_DIR", str(tmp_path / "pages"))
    host = FakeHost()
    NativeNsq(host).nsq_publish(MESSAGE, "no JSON")
    assert list(tmp_path.iterdir()) == []
    sheet = read(bytes(host.page.memory))
    assert sheet is not None
    assert sheet.counters == host.counters == {Counter.PUBLISH_FAILED: 1}


@pytest.mark.parametrize("in_memory", [False, True])
def test_the_host_knows_at_the_start_where_subscriptions_are(host: FakeHost, in_memory: bool) -> None:
    host.defines = lambda: {"NSQ_SUBSCRIPTIONS_IN_MEMORY": "1"} if in_memory else {}  # type: ignore[method-assign]
    NativeNsq(host)
    assert host.in_memory is in_memory
