# SPDX-License-Identifier: GPL-2.0-or-later
"""What the outbox keeps, what its sender does step by step, and what is said of it; on a real file, without nsqd."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from kemi_nsq.clock import Clock
from kemi_nsq.counters import Counter
from kemi_nsq.errors import ConnectionLost, NsqdRefused, OutboxError
from kemi_nsq.host import Level, Report
from kemi_nsq.nsq.lasting import SAY_AGAIN_S
from kemi_nsq.nsq.outbox import Depth, Outbox, Sender
from kemi_nsq.nsq.outboxfile import SPARED
from kemi_nsq.nsq.ways import Outgoing
from tests.support.clock import SetClock
from tests.support.doubles import FakePublisher

FIRST, SECOND, THIRD = (Outgoing(topic="t", body=b"[%d]" % number) for number in (1, 2, 3))

#: What the release before the first version of the file made.
OLD_SCHEMA = """
CREATE TABLE message (id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, body BLOB NOT NULL, due REAL NOT NULL);
CREATE TABLE used (messages INTEGER NOT NULL, bytes INTEGER NOT NULL);
INSERT INTO used SELECT 0, 0;
CREATE TRIGGER kept AFTER INSERT ON message BEGIN
    UPDATE used SET messages = messages + 1, bytes = bytes + length(new.body); END;
CREATE TRIGGER sent AFTER DELETE ON message BEGIN
    UPDATE used SET messages = messages - 1, bytes = bytes - length(old.body); END;
"""


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


@contextmanager
def opened(path: Path, clock: Clock, *, max_messages: int = 1000, max_bytes: int = 10**6) -> Iterator[Outbox]:
    outbox = Outbox(str(path), max_messages=max_messages, max_bytes=max_bytes, say=print, clock=clock)
    with closing(outbox):
        yield outbox


@pytest.fixture
def outbox(path: Path, clock: SetClock) -> Iterator[Outbox]:
    with opened(path, clock.clock) as outbox:
        yield outbox


def test_the_last_of_the_disk_is_spared_for_sending(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """To remove a message takes room, too: an outbox that has filled its disk never gets empty."""
    outbox.keep(FIRST)
    disk = os.statvfs("/")
    values = {name: getattr(disk, name) for name in dir(disk) if name.startswith("f_")}

    def has(**changes: int) -> None:
        monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(**values | changes))

    has(f_blocks=100, f_frsize=4096, f_bavail=SPARED // 4096 - 1)
    with pytest.raises(OutboxError, match=r"the disk of the outbox .* has less than 16 MiB left"):
        outbox.keep(SECOND)
    kept = outbox.oldest()
    assert kept is not None
    outbox.remove(kept)
    assert outbox.depth() == Depth()
    has(f_blocks=100, f_frsize=4096, f_bavail=SPARED // 4096)
    outbox.keep(SECOND)
    has(f_blocks=0, f_frsize=4096, f_bavail=0)
    outbox.keep(THIRD)


@pytest.mark.parametrize(
    "change",
    ["topic = x'00'", "body = 'text'", "kept = 'soon'", "delay_ms = 0.5", "delay_ms = 'x'"],
)
def test_a_row_that_is_no_message_is_an_error_of_the_outbox(outbox: Outbox, path: Path, change: str) -> None:
    outbox.keep(FIRST)
    with closing(sqlite3.connect(path)) as file, file:
        file.execute(f"UPDATE message SET {change}")
    with pytest.raises(OutboxError, match="row 1 of its table `message` is no message"):
        outbox.oldest()


def test_a_moment_that_never_comes_makes_nothing_wait_for_longer(outbox: Outbox, path: Path) -> None:
    outbox.keep(FIRST)
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE message SET kept = 9e999")
    kept = outbox.oldest()
    assert kept is not None
    assert kept.message == FIRST


@pytest.mark.parametrize(
    "change", ["DELETE FROM used", "INSERT INTO used VALUES (1, 1)", "UPDATE used SET bytes = 'x'"]
)
def test_a_file_that_does_not_say_what_it_holds_is_one_too(outbox: Outbox, path: Path, change: str) -> None:
    outbox.keep(FIRST)
    with closing(sqlite3.connect(path)) as file, file:
        file.execute(change)
    with pytest.raises(OutboxError, match="does not say how much it holds"):
        outbox.depth()


class Stage:
    """A sender, whom it sends to, and what it said."""

    def __init__(self, outbox: Outbox, publisher: FakePublisher, clock: SetClock) -> None:
        self.publisher = publisher
        self.reports: list[Report] = []
        self.sender = Sender(outbox, publisher, self.reports.append, clock.clock)

    def run(self) -> None:
        """Step until there is nothing to do now."""
        while self.sender.step():
            pass

    @property
    def lines(self) -> list[tuple[Level, str]]:
        return [(report.level, report.text) for report in self.reports if report.text]

    @property
    def counted(self) -> list[Counter]:
        return [report.counter for report in self.reports if report.counter]


@pytest.fixture
def publisher() -> FakePublisher:
    return FakePublisher()


@pytest.fixture
def stage(outbox: Outbox, publisher: FakePublisher, clock: SetClock) -> Stage:
    return Stage(outbox, publisher, clock)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of writers, as another program might."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


# What it keeps


def test_there_is_room_for_so_many_messages(path: Path, clock: SetClock) -> None:
    with opened(path, clock.clock, max_messages=2) as outbox:
        outbox.keep(FIRST)
        outbox.keep(SECOND)
        with pytest.raises(OutboxError, match="is full"):
            outbox.keep(THIRD)
        assert outbox.depth() == Depth(messages=2, size=6, oldest=clock.wall)


def test_there_is_room_for_so_many_bytes(path: Path, clock: SetClock) -> None:
    with opened(path, clock.clock, max_bytes=6) as outbox:
        outbox.keep(FIRST)
        with pytest.raises(OutboxError, match="is full"):
            outbox.keep(Outgoing(topic="t", body=b"1234"))
        outbox.keep(SECOND)


def test_a_delay_goes_on_while_a_message_is_kept(outbox: Outbox, clock: SetClock) -> None:
    outbox.keep(Outgoing(topic="t", body=b"{}", delay_ms=5000))
    clock.pass_time(2)
    assert delay(outbox) == 3000
    clock.pass_time(10)
    assert delay(outbox) == 0


@pytest.mark.parametrize("delay_ms", [0, 5000])
def test_a_clock_that_is_set_back_makes_nothing_wait_longer(outbox: Outbox, clock: SetClock, delay_ms: int) -> None:
    """Nsqd refuses a delay of more than an hour, and what it refuses is dropped."""
    outbox.keep(Outgoing(topic="t", body=b"{}", delay_ms=delay_ms))
    clock.wall -= 86400
    assert delay(outbox) == delay_ms


def delay(outbox: Outbox) -> int:
    oldest = outbox.oldest()
    assert oldest is not None
    return oldest.message.delay_ms


def test_a_file_of_the_release_before_is_converted(path: Path, clock: SetClock) -> None:
    with closing(sqlite3.connect(path)) as old, old:
        old.executescript(OLD_SCHEMA)
        for body, due in ((b"[1]", clock.wall - 60), (b"[2]", clock.wall + 5)):
            old.execute("INSERT INTO message (topic, body, due) VALUES ('t', ?, ?)", (body, due))
    with opened(path, clock.clock) as outbox:
        outbox.keep(THIRD)
        found = []
        while (kept := outbox.oldest()) is not None:
            found.append(kept.message)
            outbox.remove(kept)
        assert found == [FIRST, Outgoing(topic="t", body=b"[2]", delay_ms=5000), THIRD]
        assert outbox.depth() == Depth()


def test_what_is_removed_is_that_message_and_no_other_of_its_id(path: Path, tmp_path: Path, clock: SetClock) -> None:
    with opened(path, clock.clock) as outbox:
        outbox.keep(FIRST)
        first = outbox.oldest()
        assert first is not None
    clock.pass_time(1)
    with opened(tmp_path / "other.db", clock.clock) as other:
        other.keep(SECOND)
        assert other.oldest() is not None
        other.remove(first)
        assert other.depth().messages == 1


# The sender


def test_the_oldest_goes_first_and_each_once(stage: Stage, outbox: Outbox) -> None:
    for message in (FIRST, SECOND, THIRD):
        outbox.keep(message)
    stage.run()
    assert stage.publisher.sent == [FIRST, SECOND, THIRD]
    assert stage.counted == [Counter.OUTBOX_SENT] * 3
    assert outbox.depth() == Depth()


def test_a_crash_between_two_steps_repeats_the_message_in_flight_and_no_other(
    outbox: Outbox, publisher: FakePublisher, clock: SetClock
) -> None:
    for message in (FIRST, SECOND):
        outbox.keep(message)
    Stage(outbox, publisher, clock).sender.step()
    assert outbox.depth().messages == 2, "it is removed after nsqd's OK, not before"
    Stage(outbox, publisher, clock).run()
    assert publisher.sent == [FIRST, FIRST, SECOND]


def test_what_nsqd_has_is_not_sent_again_while_the_file_cannot_be_written(
    stage: Stage, outbox: Outbox, path: Path
) -> None:
    for message in (FIRST, SECOND):
        outbox.keep(message)
    with locked(path):
        for _ in range(5):
            stage.run()
        assert stage.publisher.sent == [FIRST], "neither the same again, nor what comes after it"
        assert "database is locked" in stage.sender.trouble
    stage.run()
    assert stage.publisher.sent == [FIRST, SECOND]
    assert stage.sender.trouble == ""
    assert [line for _, line in stage.lines if "locked" in line or "again" in line] == [
        f"the outbox {path}: database is locked; nothing of it is sent until that is over",
        f"the outbox {path} can be used again",
        f"the outbox {path} is empty again",
    ]


def test_what_cannot_be_sent_to_nobody_costs_nothing(
    stage: Stage, outbox: Outbox, publisher: FakePublisher, clock: SetClock
) -> None:
    publisher.failure = ConnectionLost("nobody is there")
    for message in (FIRST, SECOND):
        outbox.keep(message)
    for _ in range(100):
        stage.run()
        clock.pass_time(10)
    publisher.failure = None
    stage.run()
    assert publisher.sent == [FIRST, SECOND]
    assert Counter.OUTBOX_DROPPED not in stage.counted


def test_what_nsqd_refuses_for_itself_is_dropped_with_a_line(
    stage: Stage, outbox: Outbox, publisher: FakePublisher
) -> None:
    publisher.failure, publisher._times = NsqdRefused("E_BAD_MESSAGE", "too big", fatal=True), 1
    for message in (FIRST, SECOND):
        outbox.keep(message)
    stage.run()
    assert publisher.sent == [SECOND]
    assert (Level.ERROR, "a message of the outbox for t dropped: nsqd said E_BAD_MESSAGE too big") in stage.lines
    assert stage.counted == [Counter.OUTBOX_DROPPED, Counter.OUTBOX_SENT]


# What is said


def test_it_is_said_when_it_begins_to_fill_once_a_minute_and_when_it_is_empty(
    stage: Stage, outbox: Outbox, publisher: FakePublisher, clock: SetClock, path: Path
) -> None:
    publisher.failure = ConnectionLost("nobody is there")
    outbox.keep(FIRST)
    for _ in range(119):
        stage.run()
        clock.pass_time(1)
    assert stage.sender.depth == Depth(messages=1, size=3, oldest=clock.wall - 119)
    assert stage.sender.trouble.endswith(": no nsqd took its oldest message: nobody is there")
    publisher.failure = None
    stage.run()
    why = "no nsqd took its oldest message: nobody is there"
    holds = f"the outbox {path} holds 1 messages (3 bytes), the oldest for"
    assert stage.lines == [
        (Level.WARNING, f"{holds} 0 s; {why}"),
        (Level.WARNING, f"{holds} 60 s; {why}"),
        (Level.WARNING, f"the outbox {path} is empty again"),
    ]
    assert (stage.sender.depth, stage.sender.trouble) == (Depth(), "")


def test_what_fills_and_empties_again_and_again_is_told_once_a_minute(
    stage: Stage, outbox: Outbox, clock: SetClock
) -> None:
    for _ in range(120):
        outbox.keep(FIRST)
        stage.run()
        clock.pass_time(1)
    assert len(stage.lines) == 2 * 120 / SAY_AGAIN_S
    assert len(stage.publisher.sent) == 120


def test_while_much_is_sent_it_is_seen_how_much_is_left(stage: Stage, outbox: Outbox, clock: SetClock) -> None:
    for _ in range(100):
        outbox.keep(FIRST)
    for _ in range(100):
        stage.sender.step()
        clock.pass_time(0.1)
    assert 50 <= stage.sender.depth.messages <= 60
    assert stage.sender.trouble == ""
