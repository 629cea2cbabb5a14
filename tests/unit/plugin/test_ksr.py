# SPDX-License-Identifier: GPL-2.0-or-later
"""`ksr` on the releases of Kamailio that differ, with a `KSR` that has their shapes; acceptance tries a real one."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
import syslog
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kemi_nsq.counters import Counter
from kemi_nsq.errors import UsageError
from kemi_nsq.host import Host, Level, Suspended
from kemi_nsq.plugin.face import Face
from kemi_nsq.plugin.kemi import KemiNsq
from kemi_nsq.plugin.native import NativeNsq
from kemi_nsq.runtime.page import read
from tests.support.ksr import Cfgutils, FakeKsr, Value

URI = "sip:alice@example.com"
SUSPENDED = Suspended(index=7, label=0xFFFFFFFE, route="ANSWERED")
#: The label of `SUSPENDED`, as KEMI and pseudo-variables take it.
SIGNED_LABEL = -2


class NewerCfgutils(Cfgutils):
    """That of 6.0.2 and later."""

    def lock_key2(self, *keys: str) -> int:
        raise AssertionError(f"not wanted: {keys}")


@pytest.fixture
def ksr() -> FakeKsr:
    return FakeKsr()


Load = Callable[[FakeKsr], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Return what imports the module inside a Kamailio."""

    def module(ksr: FakeKsr) -> ModuleType:
        monkeypatch.setitem(sys.modules, "KSR", ksr)
        monkeypatch.delitem(sys.modules, "kemi_nsq.plugin.ksr", raising=False)
        made = import_module("kemi_nsq.plugin.ksr")
        monkeypatch.delitem(sys.modules, "kemi_nsq.plugin.ksr")
        return made

    return module


@pytest.fixture
def host(load: Load, ksr: FakeKsr) -> Host:
    """Return a Kamailio with native routes."""
    made: Host = load(ksr).KamailioHost(native=True)
    return made


# --- locks


@pytest.mark.parametrize(
    ("version", "cfgutils", "more"),
    [(1002, Cfgutils(keys=1), ()), (1003, Cfgutils(keys=2), ("",)), (1003, NewerCfgutils(keys=1), ())],
    ids=["5.6", "6.0.0 and 6.0.1", "6.0.2 and later"],
)
def test_a_lock_is_taken_with_the_keys_that_this_release_wants(
    load: Load, version: int, cfgutils: Cfgutils, more: tuple[str, ...]
) -> None:
    host: Host = load(FakeKsr(version, cfgutils)).KamailioHost(native=True)
    assert host.try_lock("presence")
    host.unlock("presence")
    assert cfgutils.calls == [("trylock", "presence", *more), ("unlock", "presence", *more)]


@pytest.mark.parametrize("cfgutils", [Cfgutils(keys=1, answer=-1), Cfgutils(keys=2)], ids=["no locks", "other keys"])
def test_a_lock_that_is_refused_is_not_held(load: Load, cfgutils: Cfgutils) -> None:
    assert load(FakeKsr(1002, cfgutils)).KamailioHost(native=True).try_lock("presence") is None


def test_a_lock_that_somebody_has_is_another_thing_than_none(load: Load) -> None:
    cfgutils = Cfgutils()
    cfgutils.taken = {"presence", "kemi-nsq 1"}
    host: Host = load(FakeKsr(1002, cfgutils)).KamailioHost(native=True)
    assert host.try_lock("presence") is False
    assert cfgutils.calls[-2:] == [("trylock", "kemi-nsq 2"), ("unlock", "kemi-nsq 2")]
    cfgutils.calls.clear()
    assert host.try_lock("presence") is False
    assert cfgutils.calls == [("trylock", "presence")], "one call each, from then on"


# --- the consumers


@pytest.mark.parametrize(
    ("names", "value", "started"), [([], 2, None), (["NSQ_INCLUDED"], 2, 2), (["NSQ_INCLUDED"], None, 1)]
)
def test_the_consumers_are_those_that_nsq_cfg_starts(
    host: Host, ksr: FakeKsr, names: list[str], value: int | None, started: int | None
) -> None:
    ksr.commands["core.ppdefines"] = lambda _: (200, names)
    ksr.variables |= {"$(def(NSQ_CONSUMERS){s.unquote}{s.int})": value or 0}
    assert host.consumers() == started


# --- the log


@pytest.mark.parametrize("level", Level)
def test_a_line_is_one_line_of_its_level(host: Host, ksr: FakeKsr, level: Level) -> None:
    host.log(level, "two\nlines, a tab\t and $var(x)")
    assert ksr.lines == [(level.value, "kemi-nsq: two\\nlines, a tab\\t and $var(x)\n")]


def test_a_line_has_an_end(host: Host, ksr: FakeKsr) -> None:
    host.log(Level.INFO, "x" * 10_000)
    ((_, line),) = ksr.lines
    assert len(line) == len("kemi-nsq: ") + 3000 + 1


def test_beside_the_main_thread_it_writes_to_stderr_as_kamailio_does(
    load: Load, ksr: FakeKsr, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    module = load(ksr)
    monkeypatch.setattr(module, "_own", {"log_stderr": 1, "process_no": 3}.__getitem__)
    module.KamailioHost(native=True).log_aside(Level.WARNING, "stuck in\nalice\x07")
    said = f" 3({os.getpid()}) WARNING: kemi-nsq:"
    assert capfd.readouterr().err == f"{said} stuck in\n{said} alice\\x07\n"
    assert ksr.lines == []


def test_or_to_syslog(load: Load, ksr: FakeKsr, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[int, bytes, bytes]] = []

    class Libc:
        def __init__(self, name: None) -> None:
            self.syslog = lambda *arguments: written.append(arguments)

    module = load(ksr)
    monkeypatch.setattr(module, "_own", {"log_stderr": 0}.__getitem__)
    monkeypatch.setattr(ctypes, "CDLL", Libc)
    module.KamailioHost(native=True).log_aside(Level.CRITICAL, "100 %s")
    assert written == [(syslog.LOG_CRIT, b"%s", b"CRITICAL: kemi-nsq: 100 %s")]


@pytest.mark.parametrize("level", Level)
def test_with_json_a_line_is_an_object_without_a_prefix(host: Host, ksr: FakeKsr, level: Level) -> None:
    host.log_policy.as_json = True
    host.log(level, "two\nlines")
    ((called, line),) = ksr.lines
    assert called == level.value
    said = {"kemi-nsq": "two\\nlines", "level": level.name.lower(), "pid": os.getpid()}
    assert (json.loads(line), line[0], line[-2:]) == (said, "{", "}\n")


def test_a_level_of_the_operator_s_goes_before_that_of_kamailio(
    load: Load, ksr: FakeKsr, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    module = load(ksr)
    monkeypatch.setattr(module, "_own", {"log_stderr": 1, "process_no": 3}.__getitem__)
    host: Host = module.KamailioHost(native=True)
    host.log_policy.level = Level.INFO
    host.log(Level.INFO, "a\nb")
    host.log(Level.DEBUG, "not this")
    host.log_aside(Level.DEBUG, "nor this")
    assert capfd.readouterr().err == f" 3({os.getpid()}) INFO: kemi-nsq: a\\nb\n"
    assert ksr.lines == []
    host.log_policy.level = None
    host.log(Level.DEBUG, "as Kamailio wants it")
    assert ksr.lines == [("dbg", "kemi-nsq: as Kamailio wants it\n")]


def test_beside_the_main_thread_the_log_engine_is_called_as_kamailio_calls_it(
    load: Load, ksr: FakeKsr, monkeypatch: pytest.MonkeyPatch
) -> None:
    """core/dprint.h, LOG_FX: with `--log-engine` its function writes the line, wherever it goes."""
    module = load(ksr)
    called: list[tuple[object, ...]] = []

    def engine(data: Any, form: bytes, text: bytes) -> None:
        about = data.contents
        called.append((about.facility, about.level, about.level_name, about.module, form, text))

    function = module._ENGINE(engine)
    monkeypatch.setattr(module, "_pointer", {"_ksr_slog_func": ctypes.cast(function, ctypes.c_void_p).value}.get)
    host: Host = module.KamailioHost(native=True)
    host.log_aside(Level.WARNING, "100 %s")
    host.log_aside(Level.DEBUG, "x")
    assert called == [
        (syslog.LOG_WARNING, 0, b"WARNING", b"kemi-nsq", b"%s\n", b"kemi-nsq: 100 %s"),
        (syslog.LOG_DEBUG, 3, b"DEBUG", b"kemi-nsq", b"%s\n", b"kemi-nsq: x"),
    ]


def test_a_pointer_of_kamailio_s_program_is_read(load: Load, ksr: FakeKsr) -> None:
    module = load(ksr)
    assert module._pointer("no_such_symbol_of_kamailio") is None
    assert module._pointer("environ") == ctypes.c_void_p.in_dll(ctypes.CDLL(None), "environ").value


def test_what_kamailio_s_program_does_not_have_is_0(load: Load, ksr: FakeKsr) -> None:
    module = load(ksr)
    assert module._own("no_such_symbol_of_kamailio") == 0
    assert module._own("optind") == ctypes.c_int.in_dll(ctypes.CDLL(None), "optind").value


# --- the runtime folder


def test_without_a_runtime_folder_no_stack_is_left(host: Host) -> None:
    assert host.stack_file() == -1
    assert host.place is None


def test_the_runtime_folder_is_taken_for_the_user_that_kamailio_will_be(host: Host, tmp_path: Path) -> None:
    assert host.take_run_folder(str(tmp_path / "run")) == {}
    assert host.place is not None
    file = host.stack_file()
    os.close(file)
    assert f"{os.getpid()}.stack" in os.listdir(tmp_path / "run")


# --- settings, counters, variables


def test_the_defines_are_read_without_quotes(host: Host, ksr: FakeKsr) -> None:
    ksr.commands["core.ppdefines"] = lambda _: (200, ["KAMAILIO_5", "NSQ_NODE", "NSQ_ACK", "NSQ_KEMI", 7])
    ksr.variables |= {"$def(NSQ_NODE)": '"a"', "$def(NSQ_ACK)": "'received'", "$def(NSQ_KEMI)": 0}
    assert host.defines() == {"NSQ_NODE": "a", "NSQ_ACK": "received", "NSQ_KEMI": ""}


@pytest.mark.parametrize(
    ("defines", "value"),
    [
        ({"NSQ_NODE": "HERE", "HERE": '"a"'}, "a"),
        ({"NSQ_NODE": "HERE", "HERE": "THERE", "THERE": "a"}, "a"),
        ({"NSQ_NODE": "HERE", "HERE": 0}, "HERE"),  # defined without a value
        ({"NSQ_NODE": '"HERE"', "HERE": "a"}, "HERE"),
        ({"NSQ_NODE": "HERE \t", "HERE": '"a"  \r'}, "a"),  # which Kamailio's parser passes over
        ({"NSQ_NODE": "HERE", "HERE": '" a "'}, " a "),
        ({"NSQ_NODE": "HERE", "HERE": "NSQ_NODE"}, "NSQ_NODE"),  # which Kamailio's parser would follow for ever
    ],
    ids=["one", "two", "no value", "quoted", "blanks behind", "blanks inside", "a circle"],
)
def test_a_define_of_a_define_is_followed_as_kamailio_does(
    host: Host, ksr: FakeKsr, defines: dict[str, str | int], value: str
) -> None:
    ksr.commands["core.ppdefines"] = lambda _: (200, list(defines))
    ksr.variables |= {f"$def({name})": text for name, text in defines.items()}
    assert host.defines() == {"NSQ_NODE": value}


def test_a_kamailio_that_lists_no_defines_has_none(host: Host) -> None:
    assert host.defines() == {}


def test_a_counter_is_in_the_page_and_in_the_htable(host: Host, ksr: FakeKsr) -> None:
    host.count(Counter.RECEIVED)
    host.count(Counter.RECEIVED)
    host.mirror(Counter.QUEUED, 3)
    host.mirror(Counter.QUEUED, 4)
    assert ksr.table == {Counter.RECEIVED: 2, Counter.QUEUED: 7}
    assert ksr.locked_items == []
    sheet = read(bytes(host.page.memory))
    assert sheet is not None
    assert sheet.counters[Counter.RECEIVED] == 2


def test_a_variable_that_was_never_set_is_empty(host: Host) -> None:
    assert host.variable("nqR") == ""
    host.set_variable("nqR", "{}")
    assert host.variable("nqR") == "{}"


def test_a_value_for_which_there_is_no_room_leaves_no_older_one(host: Host, ksr: FakeKsr) -> None:
    assert host.leave_variable("nqR", "old")
    assert not host.leave_variable("nqR", "x" * (ksr.room + 1))
    assert host.variable("nqR") == ""


# --- routes and transactions


def test_an_event_route_runs_with_its_payload(host: Host, ksr: FakeKsr) -> None:
    ran: list[list[str]] = []

    def run(params: list[str]) -> tuple[int, None]:
        ran.append(params)
        return 200, None

    ksr.commands["evrexec.run"] = run
    assert host.run_event_route("nsq:consumer-event", '{"a": "\u00e9"}')
    assert ran == [["nsq:consumer-event", '{"a": "\u00e9"}']]
    ksr.commands["evrexec.run"] = lambda _: (500, None)
    assert not host.run_event_route("nsq:missing", "")
    assert not host.has_event_route("nsq:consumer-event"), "outside Kamailio nobody knows"


def test_a_route_is_looked_up(host: Host, ksr: FakeKsr) -> None:
    ksr.cfgutils.routes.add("ANSWERED")
    assert host.has_route("ANSWERED")
    assert not host.has_route("MISSING")


def test_a_transaction_is_suspended_for_so_long_and_no_longer(host: Host, ksr: FakeKsr) -> None:
    ksr.variables |= {"$T(id_index)": 7, "$T(id_label)": -2}
    assert host.suspend_transaction("ANSWERED", 2.0001) == Suspended(index=7, label=-2, route="ANSWERED")
    assert ksr.calls == [("t_set_max_lifetime", 2001, 2001)]


def test_what_cannot_be_suspended_keeps_its_usual_time(host: Host, ksr: FakeKsr) -> None:
    ksr.suspends = -1
    assert host.suspend_transaction("ANSWERED", 2) is None
    assert ksr.calls == [("t_set_max_lifetime", 2000, 2000), ("t_reset_max_lifetime",)]


def test_from_kemi_a_transaction_goes_on_directly(load: Load, ksr: FakeKsr) -> None:
    host: Host = load(ksr).KamailioHost(native=False)
    routes = []
    ksr.continues = lambda: routes.append(host.resumed_route())
    assert host.continue_transaction(SUSPENDED)
    assert routes == ["ANSWERED"]
    assert ksr.calls == [("t_continue", 7, SIGNED_LABEL, "ksr_nsq_continued"), ("t_reset_max_lifetime",)]


def test_a_transaction_that_tm_has_ended_does_not_go_on(load: Load, ksr: FakeKsr) -> None:
    ksr.variables["$var(nqContinued)"] = "yes"  # of the one before
    assert not load(ksr).KamailioHost(native=False).continue_transaction(SUSPENDED)


def test_from_native_routes_it_goes_on_in_an_event_route(host: Host, ksr: FakeKsr) -> None:
    seen: list[object] = []

    def run(params: list[str]) -> tuple[int, None]:
        seen.extend([params, *(ksr.variables[f"$var({name})"] for name in ("nqIndex", "nqLabel", "nqRoute"))])
        host.set_variable("nqContinued", "yes")
        return 200, None

    ksr.commands["evrexec.run"] = run
    assert host.continue_transaction(SUSPENDED)
    assert seen == [["nsq:continue", ""], 7, SIGNED_LABEL, "ANSWERED"]
    assert ksr.calls == []


# --- requests


@pytest.mark.parametrize("method", ["SUBSCRIBE", "PUBLISH"])
@pytest.mark.parametrize(("answer", "taken"), [(1, True), (0, False), (-1, False)])
def test_a_request_is_handled_by_the_presence_module(
    host: Host, ksr: FakeKsr, method: str, answer: int, taken: bool
) -> None:
    ksr.variables["$rm"], ksr.handles = method, answer
    assert host.handle_request() is taken


@pytest.mark.parametrize("method", ["INVITE", "SUBSCRIBE"])
def test_what_nobody_handles_is_named(host: Host, ksr: FakeKsr, method: str) -> None:
    ksr.variables["$rm"] = method
    if method == "SUBSCRIBE":
        del ksr.presence
    with pytest.raises(UsageError, match=f"^{method} cannot be handled"):
        host.handle_request()


@pytest.mark.parametrize(
    ("method", "tag", "wanted"),
    [("SUBSCRIBE", None, (URI, "dialog")), ("SUBSCRIBE", "t1", None), ("PUBLISH", None, None)],
)
def test_a_new_subscription_wants_a_state(
    host: Host, ksr: FakeKsr, method: str, tag: str, wanted: tuple[str, str] | None
) -> None:
    ksr.variables |= {"$rm": method, "$tt": tag, "$ru": URI}
    ksr.headers["Event"] = "dialog;id=7"
    assert host.wanted_state() == wanted


# --- subscriptions in memory

#: A SUBSCRIBE whose presentity only `$subs` knows, and a PUBLISH.
SUBSCRIBE: dict[str, Value | None] = {
    "$rm": "SUBSCRIBE",
    "$subs(uri)": URI,
    "$subs(event)": "dialog",
    "$subs(expires)": 600,
}
PUBLISH: dict[str, Value | None] = {"$rm": "PUBLISH", "$rU": "alice", "$rd": "example.com"}


@pytest.fixture
def in_memory(host: Host) -> Host:
    host.keep_subscriptions_in_memory()
    return host


def refreshes(host: Host, ksr: FakeKsr, package: str = "dialog") -> int:
    """Refresh watchers, and return how often the presence module was asked for it."""
    ksr.calls.clear()
    assert host.refresh_watchers(URI, package)
    assert set(ksr.calls) == {("pres_refresh_watchers", URI, package, 1)}
    return len(ksr.calls)


@pytest.mark.parametrize("request_", [SUBSCRIBE, PUBLISH], ids=["SUBSCRIBE", "PUBLISH"])
@pytest.mark.parametrize("handles", [1, -1], ids=["accepted", "refused after the NOTIFY"])
def test_the_first_refresh_after_a_start_and_after_each_request_is_sent_twice(
    in_memory: Host, ksr: FakeKsr, request_: dict[str, Value | None], handles: int
) -> None:
    ksr.headers["Event"] = "dialog;id=7"
    assert [refreshes(in_memory, ksr) for _ in range(3)] == [2, 1, 1]
    ksr.variables.update(request_)
    ksr.handles = handles
    in_memory.handle_request()
    assert [refreshes(in_memory, ksr) for _ in range(3)] == [2, 1, 1]


@pytest.mark.parametrize(
    "change",
    [{"$subs(expires)": 0}, {"$subs(event)": "presence"}, {"$subs(event)": None}],
    ids=["a subscription that is over", "another package", "one that was refused at once"],
)
def test_after_what_repeats_no_version_it_is_sent_once(
    in_memory: Host, ksr: FakeKsr, change: dict[str, Value | None]
) -> None:
    refreshes(in_memory, ksr)
    ksr.variables |= SUBSCRIBE | change
    in_memory.handle_request()
    assert refreshes(in_memory, ksr) == 1


def test_registrations_have_versions_of_their_own(in_memory: Host, ksr: FakeKsr) -> None:
    assert [refreshes(in_memory, ksr, "reg") for _ in range(2)] == [2, 1]
    ksr.variables |= SUBSCRIBE | {"$subs(event)": "reg"}
    in_memory.handle_request()
    assert refreshes(in_memory, ksr) == 2, "the first of dialogs"
    assert refreshes(in_memory, ksr, "reg") == 2


def test_a_presentity_is_the_same_in_any_case(in_memory: Host, ksr: FakeKsr) -> None:
    refreshes(in_memory, ksr)
    ksr.variables |= SUBSCRIBE | {"$subs(uri)": URI.replace("alice", "Alice")}
    in_memory.handle_request()
    assert refreshes(in_memory, ksr) == 2


def test_packages_without_versions_are_told_once(in_memory: Host, ksr: FakeKsr) -> None:
    assert refreshes(in_memory, ksr, "presence") == 1


def test_with_subscriptions_in_the_database_it_is_sent_once(host: Host, ksr: FakeKsr) -> None:
    assert refreshes(host, ksr) == 1


@pytest.mark.parametrize("accepted", [0, 1])
def test_what_was_not_sent_twice_is_not_done(
    in_memory: Host, ksr: FakeKsr, accepted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([0] * accepted + [-1])
    monkeypatch.setattr(ksr.presence, "pres_refresh_watchers", lambda *_arguments: next(answers))
    assert not in_memory.refresh_watchers(URI, "dialog")
    monkeypatch.undo()
    assert refreshes(in_memory, ksr) == 2


# --- the module that runs Python


def test_an_app_python3_without_threads_mode_runs_no_threads(load: Load, ksr: FakeKsr, tmp_path: Path) -> None:
    here = load(ksr)
    assert here.threads_mode() == 0  # there is no such module in this process yet
    other = find_spec("_lsprof")  # any library will do
    assert other is not None
    assert other.origin is not None
    ctypes.CDLL(str(shutil.copy(other.origin, tmp_path / "app_python3.so")))
    assert here.threads_mode() == 0


@pytest.mark.parametrize("face", [NativeNsq, KemiNsq])
def test_with_threads_mode_kamailio_does_not_start(
    load: Load, ksr: FakeKsr, monkeypatch: pytest.MonkeyPatch, face: type[Face]
) -> None:
    here = load(ksr)
    monkeypatch.setitem(sys.modules, here.__name__, here)
    monkeypatch.setattr(here, "threads_mode", lambda: 1)
    with pytest.raises(SystemExit):
        face()
    ((level, line),) = ksr.lines
    assert (level, line.partition(" is 1")[0]) == ("crit", "kemi-nsq: app_python3's threads_mode")


# --- watchers


@pytest.mark.parametrize(("answer", "accepted"), [(0, True), (1, True), (-1, False)])
def test_watchers_are_told_by_the_presence_module(host: Host, ksr: FakeKsr, answer: int, accepted: bool) -> None:
    ksr.refreshes = answer
    assert host.refresh_watchers(URI, "dialog") is accepted
    assert ksr.calls == [("pres_refresh_watchers", URI, "dialog", 1)]


def test_without_the_presence_module_nobody_is_told(host: Host, ksr: FakeKsr) -> None:
    del ksr.presence
    assert not host.refresh_watchers(URI, "dialog")
