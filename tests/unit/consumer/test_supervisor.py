# SPDX-License-Identifier: GPL-2.0-or-later
"""The supervisor of a consumer process: it starts again after whatever happens, and leaves nothing behind."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from kemi_nsq import restarts
from kemi_nsq.consumer import supervisor as module
from kemi_nsq.consumer.supervisor import Supervisor
from kemi_nsq.counters import Counter
from kemi_nsq.host import Level, Report, Suspended
from kemi_nsq.plugin.wiring import wire
from kemi_nsq.queries.protocol import Resume
from kemi_nsq.quiet import BURST
from kemi_nsq.runtime.page import Fact, read
from kemi_nsq.testing import FakeHost
from tests.support.ports import LOOPBACK, free_tcp_port
from tests.support.running import running
from tests.support.script import GivenHandlers
from tests.support.settings import settings
from tests.support.until import until


class Interrupted(BaseException):
    """Not even an `Exception`."""


def consumer(host: FakeHost, **values: str) -> Supervisor:
    """Return a consumer of an nsqd that is not there."""
    values.setdefault("nsqd_tcp_address", f"{LOOPBACK}:{free_tcp_port()}")
    return wire(host, settings(**values), GivenHandlers(), native=False).supervisor


class Runs:
    """Stands in for the loop: each run raises what is next in the list; the last stops the consumer."""

    def __init__(self, tested: Supervisor, errors: list[BaseException]) -> None:
        self._tested = tested
        self._errors = list(errors)

    def __call__(self) -> None:
        if not self._errors:
            self._tested.stop()
            return
        raise self._errors.pop(0)


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the failures in a row for which a delay was asked; the delay is none."""
    asked: list[int] = []

    def no_delay(failures: int, _chance: float) -> float:
        asked.append(failures)
        return 0.0

    monkeypatch.setattr(restarts, "retry_delay_s", no_delay)
    return asked


def threads_of_a_consumer() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("nsq-")]


ERRORS = [ValueError("wrong"), SystemExit(0), KeyboardInterrupt(), Interrupted(), RecursionError(), MemoryError()]


def test_it_starts_again_after_any_exception(monkeypatch: pytest.MonkeyPatch, delays: list[int]) -> None:
    host = FakeHost()
    tested = consumer(host)
    monkeypatch.setattr(tested, "_run", Runs(tested, ERRORS))
    tested.run_forever()
    assert delays == [1, 2, 3, 4, 5, 6]
    assert host.counters == {Counter.RESTARTED: len(ERRORS)}
    traces = [text for level, text in host.lines if level is Level.ERROR]
    assert all(type(error).__name__ in trace for error, trace in zip(ERRORS, traces, strict=True))
    assert [level for level, _ in host.lines].count(Level.CRITICAL) == len(ERRORS)


def test_it_starts_again_when_the_log_fails_too(monkeypatch: pytest.MonkeyPatch, delays: list[int]) -> None:
    class BrokenHost(FakeHost):
        def log(self, level: Level, text: str) -> None:
            raise SystemError("returned a result with an exception set")

    tested = consumer(BrokenHost())
    # When the log fails, that is a failure of its own, and the loop has not run.
    monkeypatch.setattr(tested, "_recover", Recoveries(tested, tested._recover, 3))
    monkeypatch.setattr(tested, "_run", Runs(tested, [ValueError()]))
    tested.run_forever()
    assert delays == [1, 2, 3]


class Recoveries:
    """Lets some recoveries pass, then stops the consumer."""

    def __init__(self, tested: Supervisor, recover: Callable[[int, str], None], count: int) -> None:
        self._tested = tested
        self._recover = recover
        self._left = count

    def __call__(self, failures: int, trace: str) -> None:
        self._left -= 1
        if self._left == 0:
            self._tested.stop()
        self._recover(failures, trace)


def test_a_loop_that_fails_does_nothing_until_it_starts_again(
    monkeypatch: pytest.MonkeyPatch, delays: list[int]
) -> None:
    host = FakeHost()
    tested = consumer(host)

    def fails(_items: object) -> None:
        host.page.begin("nsq:x")
        tested.stop()
        raise ValueError("a bug of ours")

    monkeypatch.setattr(tested, "_take", fails)
    tested.run_forever()
    assert host.page.doing is None


def test_a_loop_that_ran_long_has_not_failed_in_a_row(monkeypatch: pytest.MonkeyPatch, delays: list[int]) -> None:
    monkeypatch.setattr(restarts, "HEALTHY_S", 0.0)
    tested = consumer(FakeHost())
    monkeypatch.setattr(tested, "_run", Runs(tested, [ValueError(), ValueError(), ValueError()]))
    tested.run_forever()
    assert delays == [1, 1, 1]


def test_stop_does_not_wait_for_the_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarts, "retry_delay_s", lambda *_: 600.0)
    host = FakeHost()
    tested = consumer(host)
    monkeypatch.setattr(tested, "_run", Runs(tested, [ValueError()]))
    with running(tested):
        until(lambda: host.counters[Counter.RESTARTED], what="the delay")


def test_stop_before_the_start() -> None:
    tested = consumer(FakeHost())
    tested.stop()
    tested.run_forever()


def test_nothing_is_opened_before_it_runs() -> None:
    before = threads_of_a_consumer()
    consumer(FakeHost())
    assert threads_of_a_consumer() == before


def test_an_nsqd_that_is_not_there_is_reported_once_and_nothing_outlives_the_consumer() -> None:
    host = FakeHost()
    tested = consumer(host)
    with running(tested):
        until(lambda: host.counters[Counter.CONNECT_FAILED] == 2, what="both subscriptions to be tried")
        assert sorted(threads_of_a_consumer()) == ["nsq-connector", "nsq-io", "nsq-watch"]
    assert threads_of_a_consumer() == []
    assert host.counters == {Counter.CONNECT_FAILED: 2}
    assert all(text.startswith("cannot connect to nsqd 127.0.0.1:") for _, text in host.lines)
    assert all(text.endswith("Connection refused; trying again") for _, text in host.lines)


@pytest.mark.parametrize("name", ["a..b:4150", f"{'x' * 64}.example.com:4150", "nowhere.invalid:4150"])
def test_a_name_that_cannot_be_looked_up_is_reported_as_well(name: str) -> None:
    host = FakeHost()
    with running(consumer(host, nsqd_tcp_address=name)):
        until(lambda: host.counters[Counter.CONNECT_FAILED], timeout_s=10, what="a failed connect")
    assert Counter.RESTARTED not in host.counters


@pytest.mark.parametrize(
    "thread", ["kemi_nsq.consumer.iothread.IoThread._turn", "kemi_nsq.consumer.connector.Connector._turn"]
)
def test_it_starts_again_when_one_of_its_threads_breaks(
    monkeypatch: pytest.MonkeyPatch, delays: list[int], thread: str
) -> None:
    def broken(_thread: threading.Thread) -> None:
        raise RuntimeError("a bug of ours")

    host = FakeHost()
    with monkeypatch.context() as patch:
        patch.setattr(thread, broken)
        with running(consumer(host)):
            until(lambda: host.counters[Counter.RESTARTED] >= 3, what="three restarts")
    assert threads_of_a_consumer() == []
    assert any("a bug of ours" in text for level, text in host.lines if level is Level.ERROR)
    assert len(delays) >= 3


# What waits while the main thread is stuck


def reply(size: int) -> Resume:
    return Resume(suspended=Suspended(index=1, label=2, route="R"), reply="x" * size)


def test_replies_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_REPLY_LENGTH", 100)
    host = FakeHost()
    tested = consumer(host)
    for _ in range(5):
        tested._emit(reply(40))
    assert tested._items.qsize() == 2
    sheet = read(bytes(host.page.memory))
    assert sheet is not None
    assert sheet.counters == {Counter.RESUME_FAILED: 3}, "said at once, where others can see it"
    tested._take(tested._items.get())
    tested._emit(reply(40))
    assert tested._items.qsize() == 2, "what was taken makes room"


def test_reports_that_wait_are_bounded_and_counted_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_ITEMS", 10)
    host = FakeHost()
    tested = consumer(host)
    for _ in range(50):
        tested._emit(Report(counter=Counter.REPLY_DROPPED))
    assert tested._items.qsize() == 11
    sheet = read(bytes(host.page.memory))
    assert sheet is not None
    assert sheet.counters == {Counter.REPLY_DROPPED: 50}


def test_a_loop_that_fails_again_and_again_is_shown(monkeypatch: pytest.MonkeyPatch, delays: list[int]) -> None:
    host = FakeHost()
    tested = consumer(host)
    shown: list[str] = []
    monkeypatch.setattr(tested, "_run", Runs(tested, [ValueError("wrong"), ValueError("again")]))
    monkeypatch.setattr(tested._stopping, "wait", lambda _delay: shown.append(host.page.shown(Fact.FAILED)))
    tested.run_forever()
    assert shown == ["1 times: ValueError: wrong", "2 times: ValueError: again"]


def test_it_starts_again_when_nobody_asks_nsqlookupd_any_more(
    monkeypatch: pytest.MonkeyPatch, delays: list[int]
) -> None:
    def broken(_thread: threading.Thread) -> None:
        raise RuntimeError("a bug of ours")

    host = FakeHost()
    monkeypatch.setattr("kemi_nsq.consumer.lookups.Lookups._ask", broken)
    with running(consumer(host, lookupd_address=f"{LOOPBACK}:{free_tcp_port()},{LOOPBACK}:{free_tcp_port()}")):
        until(lambda: host.counters[Counter.RESTARTED] >= 2, what="two restarts")
    assert threads_of_a_consumer() == []


def test_each_nsqlookupd_has_a_thread_and_what_is_wrong_is_shown() -> None:
    host = FakeHost()
    nobody = f"{LOOPBACK}:{free_tcp_port()}"
    with running(consumer(host, lookupd_address=f"{nobody},{LOOPBACK}:{free_tcp_port()}")):
        until(lambda: host.counters[Counter.LOOKUP_FAILED] == 2, what="both to be asked")
        assert threads_of_a_consumer().count("nsq-lookups") == 2
        shown = until(lambda: host.page.shown(Fact.DISCOVERY), what="what is wrong")
        assert f"nsqlookupd {nobody}: Connection refused" in shown
    assert host.page.shown(Fact.DISCOVERY) == ""
    assert threads_of_a_consumer() == []


def test_what_threads_report_again_and_again_fills_no_log() -> None:
    host = FakeHost()
    tested = consumer(host)
    for number in range(100):
        tested._take([Report(level=Level.WARNING, text=f"lost {number}", counter=Counter.DISCONNECTED)])
    assert len(host.lines) == BURST
