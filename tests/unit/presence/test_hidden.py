# SPDX-License-Identifier: GPL-2.0-or-later
"""A call that is over: told once, then hidden, and by whom if its process cannot."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

import pytest

from kemi_nsq.clock import Clock
from kemi_nsq.consumer.chores import Chores
from kemi_nsq.consumer.outage import Kind
from kemi_nsq.counters import Counter
from kemi_nsq.errors import DatabaseError
from kemi_nsq.jsontext import JsonObject, JsonValue
from kemi_nsq.nsq.publisher import Publisher
from kemi_nsq.presence import pacing
from kemi_nsq.presence.expiry import LINGER_S
from kemi_nsq.presence.pacing import AFTER_S, AT_ONCE, Hiding
from kemi_nsq.presence.probe import Probe
from kemi_nsq.presence.row import GRACE_S, TOMBSTONE_BODY, Order, Row, tombstone_expires
from kemi_nsq.presence.table import PresentityTable
from kemi_nsq.presence.watchers import REFUSALS, UDP_LIMIT
from kemi_nsq.testing import FakeHost
from tests.support.database import rows
from tests.support.gates import TestedGate
from tests.support.settings import settings
from tests.support.wired import wired

ALICE = ("sip:alice@example.com", "dialog")
START = 1_700_000_000
TOMBSTONE_S = 300


class Process:
    """A process that publishes presence, at a time that the test sets.

    Attributes:
        now: the wall clock.
        monotonic: the other one.
    """

    def __init__(self, table: PresentityTable, *, ticks: bool = True, **values: str) -> None:
        self.now, self.monotonic = START, 100.0
        self.table = table
        self.host = FakeHost()
        chosen = settings(**values)
        clock = Clock(monotonic=lambda: self.monotonic, wall=lambda: self.now, wall_ns=lambda: self.now * 10**9)
        parts = wired(self.host, chosen, table, clock)
        self.writer, self.watchers, self.expiry = parts.writer, parts.watchers, parts.expiry
        self.gate = TestedGate(self.host)
        probe = Probe(chosen, Publisher(chosen), None)
        self.chores = Chores(self.host, watchers=self.watchers, expiry=self.expiry, probe=probe, gate=self.gate)
        if ticks:
            self.watchers.begin_ticking()

    def call(self, state: str, *calls: str, position: int = 1, **more: JsonValue) -> None:
        made = []
        for call in calls or ("c1",):
            fields: dict[str, JsonValue] = {"Event-Package": "dialog", "From": ALICE[0], "To": "sip:x@y"}
            fields |= {"Call-ID": call, "State": state} | more
            row = self.writer.row(fields, Order(position=position, message_id="0" * 16), sent_at=None)
            assert row is not None
            made.append(row)
        self.writer.commit(made)

    def wait(self, seconds: float) -> None:
        """Let time go by and do what is due."""
        self.now += int(seconds)
        self.monotonic += seconds
        self.watchers.tick()


@pytest.fixture
def table(path: Path) -> Iterator[PresentityTable]:
    with closing(PresentityTable(f"sqlite+pysqlite:///{path}", "presentity", max_dialogs=5)) as made:
        yield made


@pytest.fixture
def process(table: PresentityTable, monkeypatch: pytest.MonkeyPatch) -> Process:
    return Process(table)


def expiries(path: Path) -> list[int]:
    return [int(str(row["expires"])) for row in rows(path)]


def texts(host: FakeHost) -> list[str]:
    return [text for _, text in host.lines]


# The queue


def test_what_was_told_is_due_a_moment_later_all_at_once() -> None:
    queue = Hiding()
    assert queue.next_due() is None
    queue.add(["a"], [], 10.0)
    queue.add(["b"], [ALICE], 10.3)
    assert queue.next_due() == 10.0 + AFTER_S
    assert queue.take() == (["a", "b"], [ALICE])
    assert queue.next_due() is None
    assert queue.take() == ([], [])


def test_nothing_told_is_nothing_due() -> None:
    queue = Hiding()
    queue.add([], [], 10.0)
    assert queue.next_due() is None


def test_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "_MOST", 3)
    queue = Hiding()
    queue.add("ab", [], 1.0)
    queue.add("cde", [], 1.0)
    assert queue.take()[0] == ["a", "b", "c"]


# After the NOTIFY


def test_an_end_is_told_and_hidden_within_a_second(process: Process, path: Path) -> None:
    process.call("confirmed")
    process.call("terminated", position=2)
    assert process.host.refreshed == [ALICE] * 2
    process.wait(AFTER_S / 2)
    assert expiries(path) == [START + TOMBSTONE_S + GRACE_S]
    process.wait(AFTER_S / 2)
    assert expiries(path) == [-(START + TOMBSTONE_S + GRACE_S)]
    assert process.host.refreshed == [ALICE] * 2, "that it leaves is no news"
    assert process.watchers.next_due() is None


def test_a_call_that_goes_on_is_not_hidden(process: Process, path: Path) -> None:
    process.call("terminated", position=2)
    process.call("confirmed", position=3)
    process.wait(1)
    assert expiries(path)[0] > 0


def test_a_process_that_has_no_tick_hides_at_once(
    table: PresentityTable, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    process = Process(table, ticks=False)
    process.call("terminated")
    assert process.host.refreshed == [ALICE]
    assert expiries(path)[0] < 0


def test_a_process_that_has_no_tick_leaves_it_to_the_sweep_when_the_database_fails(
    table: PresentityTable, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    process = Process(table, ticks=False)
    monkeypatch.setattr(table, "hide", fail)
    process.call("terminated")
    assert expiries(path)[0] > 0


def test_a_repeated_end_of_another_message_is_hidden_as_well(process: Process, path: Path) -> None:
    process.call("terminated", position=2)
    process.call("terminated", position=3)
    process.wait(1)
    assert expiries(path)[0] < 0


def test_a_refused_refresh_is_tried_again_before_it_is_hidden(process: Process, path: Path) -> None:
    process.host.refresh_accepted = False
    process.call("terminated")
    assert process.host.counters[Counter.REFRESH_FAILED] == 1
    hide, process.table.hide = process.table.hide, fail  # type: ignore[method-assign]
    with pytest.raises(DatabaseError):
        process.wait(1)
    assert process.host.refreshed == [ALICE] * 2
    process.table.hide = hide  # type: ignore[method-assign]


def test_what_nobody_could_be_told_is_hidden_all_the_same(process: Process, path: Path) -> None:
    process.host.refresh_accepted = False
    process.call("terminated")
    process.wait(1)
    assert expiries(path)[0] < 0, "else the document would grow"


def test_what_cannot_be_hidden_is_said_and_left_to_the_sweep(
    process: Process, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    process.chores.begin()
    process.call("terminated")
    with monkeypatch.context() as patched:
        patched.setattr(process.table, "hide", fail)
        process.monotonic += 1
        process.chores.tick()
    assert process.gate.lasts(Kind.DATABASE), "an outage, which is said and probed"
    process.now += LINGER_S
    process.expiry.sweep()
    assert expiries(path)[0] < 0


def fail(*_: object, **__: object) -> None:
    raise DatabaseError("it was told to fail")


# Very many at once


def keys_of(count: int, package: str) -> list[tuple[str, str]]:
    return [(f"sip:{number}@example.com", package) for number in range(count)]


def test_a_reset_of_very_many_calls_tells_and_hides_some_at_once_and_others_by_and_by(
    process: Process, path: Path
) -> None:
    everybody = keys_of(3 * AT_ONCE, "dialog")
    for uri, _ in everybody:
        process.call("confirmed", From=uri)
    process.host.refreshed.clear()
    assert process.expiry.reset("all", position=9, spare_later=False) == len(everybody)
    assert len(process.host.refreshed) == AT_ONCE
    process.wait(LINGER_S)
    assert sum(each < 0 for each in expiries(path)) == AT_ONCE, "nothing is hidden that was not told"
    while process.expiry.sweep():
        assert len(process.host.refreshed) % AT_ONCE == 0
    assert sorted(process.host.refreshed) == sorted(everybody), "each once"
    assert all(each < 0 for each in expiries(path))


def test_a_reset_of_very_many_mailboxes_tells_the_rest_a_moment_later(process: Process) -> None:
    everybody = keys_of(2 * AT_ONCE, "message-summary")
    for uri, package in everybody:
        mailbox: dict[str, Any] = {"From": uri, "Event-Package": package, "Messages-New": 1}
        process.call("", **mailbox)
    process.host.refreshed.clear()
    process.expiry.reset("all", position=9, spare_later=False)
    assert len(process.host.refreshed) == AT_ONCE
    process.wait(1)
    assert sorted(process.host.refreshed) == sorted(everybody)


def test_a_process_without_ticks_tells_all_of_a_reset_at_once(table: PresentityTable) -> None:
    worker = Process(table, ticks=False)
    everybody = keys_of(2 * AT_ONCE, "dialog")
    for uri, _ in everybody:
        worker.call("confirmed", From=uri)
    worker.host.refreshed.clear()
    worker.expiry.reset("all", position=9, spare_later=False)
    assert sorted(worker.host.refreshed) == sorted(everybody)


# After a death


@pytest.mark.parametrize("down_s", [0, 60, 86400])
def test_what_a_dead_process_held_back_is_told_by_the_next_one(table: PresentityTable, down_s: int) -> None:
    died = Process(table, notify_interval="60")
    died.call("early")
    died.call("confirmed", position=2)
    assert died.host.refreshed == [ALICE]
    after = Process(table, notify_interval="60")
    after.now += down_s
    for _ in range(2):
        after.expiry.sweep()
        after.wait(1)
    assert after.host.refreshed == [ALICE]


def test_what_was_written_long_before_a_death_is_not_told_again(table: PresentityTable) -> None:
    died = Process(table)
    died.call("confirmed")
    died.now += 1000
    died.call("confirmed", From="sip:bob@example.com")
    after = Process(table)
    after.now += 1000
    after.expiry.sweep()
    after.wait(1)
    assert after.host.refreshed == [("sip:bob@example.com", "dialog")]


# The sweep


def test_what_a_dead_process_left_is_told_and_hidden_by_the_next_sweep(
    process: Process, table: PresentityTable, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    process.call("terminated")
    other = Process(table)
    other.now = process.now + LINGER_S - 1
    other.expiry.sweep()
    assert expiries(path)[0] > 0, "its process may be about to hide it"
    other.now += 1
    other.expiry.sweep()
    assert other.host.refreshed == [ALICE]
    assert expiries(path)[0] < 0


def test_with_refresh_off_the_sweep_hides(table: PresentityTable, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    process = Process(table, pua_refresh="0")
    process.call("terminated")
    process.wait(1)
    assert expiries(path)[0] > 0
    process.wait(LINGER_S)
    process.expiry.sweep()
    assert process.host.refreshed == []
    assert expiries(path)[0] < 0


def test_with_refresh_off_what_no_route_does_is_told_all_the_same(
    table: PresentityTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(table, pua_refresh="0")
    process.call("confirmed")
    process.expiry.reset("all", position=9, spare_later=False)
    assert process.host.refreshed == [ALICE]


def test_a_refused_refresh_of_a_call_that_goes_on_is_tried_again(process: Process) -> None:
    process.host.refresh_accepted = False
    process.call("confirmed")
    for _ in range(3):
        process.wait(60)
    process.host.refresh_accepted = True
    process.wait(60)
    assert process.host.refreshed == [ALICE] * 5
    process.wait(60)
    assert process.host.refreshed == [ALICE] * 5, "no more once it has left"


def test_a_held_back_refresh_that_is_refused_is_tried_again(table: PresentityTable) -> None:
    process = Process(table, notify_interval="2")
    process.call("early")
    process.call("confirmed", position=2)
    process.host.refresh_accepted = False
    process.wait(2)
    process.host.refresh_accepted = True
    process.wait(1)
    assert process.host.refreshed == [ALICE] * 3


def test_a_package_that_always_refuses_costs_few_tries_and_holds_up_no_other(process: Process) -> None:
    refresh = process.host.refresh_watchers

    def picky(uri: str, package: str) -> bool:
        return refresh(uri, package) and package != "reg"

    process.host.refresh_watchers = picky  # type: ignore[assignment, method-assign]
    process.watchers.tell([(f"sip:{number}@example.com", "reg") for number in range(100)] + [ALICE])
    assert process.host.refreshed.count(ALICE) == 1
    assert len(process.host.refreshed) == 1 + REFUSALS
    process.wait(1)
    assert len(set(process.host.refreshed)) == 1 + 2 * REFUSALS, "others come first"


def test_a_write_without_an_answer_is_told_once_the_database_works(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    def store_and_fail(rows: Sequence[Row]) -> NoReturn:
        save_all(rows)
        raise DatabaseError("the answer was lost")

    save_all = process.table.save_all
    monkeypatch.setattr(process.table, "save_all", store_and_fail)
    with pytest.raises(DatabaseError):
        process.call("confirmed")
    monkeypatch.undo()
    assert process.host.refreshed == []
    process.wait(1)
    assert process.host.refreshed == [ALICE]


def test_an_end_that_is_said_again_costs_no_further_notify(process: Process) -> None:
    """A producer may say it once for each leg; and once more when nobody looks any more."""
    process.call("early")
    process.call("terminated", position=2)
    process.call("terminated", position=3)
    assert process.host.refreshed == [ALICE] * 2
    process.wait(1)
    process.call("terminated", position=4)
    process.wait(1)
    assert process.host.refreshed == [ALICE] * 2


def test_an_end_that_another_process_may_not_have_told_is_told_before_it_is_hidden(
    table: PresentityTable, path: Path
) -> None:
    died, other = Process(table), Process(table)
    died.call("early")
    died.call("terminated", position=2)  # and dies before the NOTIFY, as far as the other one knows
    other.call("terminated", position=3)
    assert other.host.refreshed == []
    shown: list[int] = []
    refresh = other.host.refresh_watchers

    def look(uri: str, package: str) -> bool:
        shown.extend(expiries(path))
        return refresh(uri, package)

    other.host.refresh_watchers = look  # type: ignore[assignment, method-assign]
    other.wait(1)
    assert other.host.refreshed == [ALICE]
    assert shown[0] > 0, "it was still in the document"
    assert expiries(path)[0] < 0


@pytest.mark.parametrize("back_s", [3600, 86400])
def test_a_clock_that_goes_back_hides_all_the_same(process: Process, path: Path, back_s: int) -> None:
    process.expiry.sweep()
    process.now -= back_s
    process.call("terminated")
    process.watchers._hiding.take()  # as if the process had died
    process.now += LINGER_S
    process.expiry.sweep()
    assert expiries(path)[0] < 0


def test_a_clock_that_went_back_after_the_end_hides_it_when_it_is_there_again(process: Process, path: Path) -> None:
    process.call("terminated")
    process.watchers._hiding.take()
    process.now -= 3600
    process.expiry.sweep()
    assert expiries(path)[0] > 0, "by this clock it has not happened yet"
    process.now += 3600 + LINGER_S
    process.expiry.sweep()
    assert expiries(path)[0] < 0


def test_the_first_sweep_hides_what_had_another_tombstone(
    table: PresentityTable, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    before = Process(table, pua_tombstone="3600")
    before.call("terminated")
    after = Process(table)
    after.now += 60
    after.expiry.sweep()
    assert expiries(path)[0] < 0


def test_a_sweep_after_an_outage_finds_what_ended_before(process: Process, path: Path) -> None:
    process.expiry.sweep()
    process.call("terminated")
    process.watchers._hiding.take()  # as if the process had died
    process.now += TOMBSTONE_S // 2
    for _ in range(2):
        process.expiry.sweep()
    assert expiries(path)[0] < 0


def test_a_call_that_waits_is_shown_and_told_when_there_is_room(process: Process, path: Path) -> None:
    process.call("confirmed", *(f"c{number}" for number in range(6)))
    assert sum(each > 0 for each in expiries(path)) == 5
    process.table._database.run(
        lambda connection: connection.exec_driver_sql("DELETE FROM presentity WHERE etag LIKE '%/c0'"), writes=True
    )
    process.host.refreshed.clear()
    process.expiry.sweep()
    assert process.host.refreshed == [ALICE]
    assert all(each > 0 for each in expiries(path))


def test_calls_above_the_limit_are_counted_and_not_told(process: Process) -> None:
    process.call("confirmed", *(f"c{number}" for number in range(5)))
    process.host.refreshed.clear()
    process.call("confirmed", "c5", "c6")
    assert process.host.counters[Counter.PUA_HIDDEN] == 2
    assert process.host.refreshed == []


# Size


@pytest.mark.parametrize("package", ["dialog", "presence"])
def test_what_is_too_large_for_udp_is_said(process: Process, package: str) -> None:
    fields: JsonObject = {"Event-Package": package, "From": ALICE[0], "To": "sip:x@y", "Call-ID": "c", "State": "early"}
    row = process.writer.row(fields, Order(position=1, message_id="0" * 16), sent_at=None)
    assert row is not None
    process.writer.commit([row._replace(body=b"x" * (UDP_LIMIT + 101))])
    assert process.host.counters[Counter.DOCUMENT_TOO_LARGE] == 1
    (text,) = [text for text in texts(process.host) if "too many" in text]
    assert f"the {package} document of {ALICE[0]} has some 64" in text
    assert "NSQ_PUA_MAX_DIALOGS" in text


def test_an_end_whose_document_was_too_large_is_told_when_it_is_hidden(process: Process) -> None:
    """Else a lamp would stay on whose last NOTIFY could not be sent."""
    names = [f"c{number}" for number in range(5)]
    process.call("confirmed", *names, From=f'"{"x" * 20_000}" <{ALICE[0]}>')
    process.call("terminated", *names, position=2, From=f'"{"x" * 20_000}" <{ALICE[0]}>')
    assert process.host.counters[Counter.DOCUMENT_TOO_LARGE] == 2
    process.host.refreshed.clear()
    process.wait(1)
    assert process.host.refreshed == [ALICE]


def test_a_tombstone_has_no_dialog() -> None:
    assert b"<dialog " not in TOMBSTONE_BODY
    assert time.time() < -tombstone_expires(2**31 - 1)
