# SPDX-License-Identifier: GPL-2.0-or-later
"""The outbox in many processes: they open it at once, are killed at any moment, and meet locks and a full disk."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest

from kemi_nsq.errors import OutboxError
from kemi_nsq.nsq.outbox import Outbox
from kemi_nsq.nsq.outboxfile import BUSY_TIMEOUT_S
from kemi_nsq.nsq.privatefile import alone
from tests.support.forks import Fork
from tests.support.outboxes import message, opened
from tests.support.until import until

WORKERS = 8
#: How late an answer may be on a busy machine.
LATE_S = 0.5


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


@pytest.fixture
def outbox(path: Path) -> Iterator[Outbox]:
    with closing(opened(path)) as outbox:
        yield outbox


def held(path: Path) -> list[str]:
    """Return what the file holds, and see that it is whole."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = connection.execute("SELECT body FROM message ORDER BY id").fetchall()
        assert connection.execute("SELECT messages FROM used").fetchone() == (len(rows),)
    return [body.decode() for (body,) in rows]


def keep_until_killed(path: Path, name: str, log: Path, most: int) -> None:
    """Put messages in and write down, each time at once, what is in, and why something is not."""
    outbox = opened(path)
    with log.open("ab", buffering=0) as lines:
        for number in range(most):
            try:
                outbox.keep(message(f"{name} {number}"))
                lines.write(f"kept {name} {number}\n".encode())
            except OutboxError as error:
                lines.write(f"refused {name} {number}: {error}\n".encode())


def logged(log: Path, word: str) -> list[str]:
    """Return what a log has after a word; a line that a kill has cut off is none."""
    lines = log.read_bytes().decode().split("\n")[:-1] if log.exists() else []
    return [line.removeprefix(word + " ") for line in lines if line.startswith(word)]


@pytest.mark.parametrize("there", ["no file", "an empty file"])
def test_eight_processes_that_open_it_at_once_lose_nothing(tmp_path: Path, there: str) -> None:
    for number in range(20):
        path = tmp_path / f"{number}.db"
        if there == "an empty file":
            path.touch()
        starting, start = os.pipe()

        def work(path: Path = path, starting: int = starting, start: int = start) -> None:
            os.close(start)
            os.read(starting, 1)  # until the parent has closed its end
            opened(path).keep(message(str(os.getpid())))

        with ExitStack() as stack:
            workers = [stack.enter_context(Fork(work)) for _ in range(WORKERS)]
            os.close(starting)
            os.close(start)
            assert [worker.wait() for worker in workers] == [0] * WORKERS
        assert sorted(held(path)) == sorted(str(worker.pid) for worker in workers)


def test_what_was_kept_is_there_and_what_was_not_has_a_reason(path: Path, tmp_path: Path) -> None:
    logs = [tmp_path / f"{name}.log" for name in range(WORKERS)]
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Fork(partial(keep_until_killed, path, str(name), log, 200)))
            for name, log in enumerate(logs)
        ]
        assert [worker.wait() for worker in workers] == [0] * WORKERS
    kept = [each for log in logs for each in logged(log, "kept")]
    refused = [each for log in logs for each in logged(log, "refused")]
    assert sorted(held(path)) == sorted(kept)
    assert len(kept) + len(refused) == WORKERS * 200
    assert all("locked" in reason for reason in refused)
    assert len(kept) > len(refused)


def test_workers_that_are_killed_lose_nothing_that_they_were_told_is_kept(path: Path, tmp_path: Path) -> None:
    chance = random.Random(11)
    kept: list[str] = []
    deaths = 20
    for number in range(deaths):
        log, wanted = tmp_path / f"{number}.log", chance.randint(1, 60)
        with Fork(partial(keep_until_killed, path, str(number), log, 10**6)) as worker:
            until(lambda log=log, wanted=wanted: len(logged(log, "kept")) >= wanted, what="some that are kept")  # type: ignore[misc]
            worker.kill()
        kept += logged(log, "kept")
    found = held(path)
    assert [each for each in found if each in set(kept)] == kept, "all, and in their order"
    assert len(found) - len(kept) <= deaths, "besides those only what a worker had no time to write down"


def test_a_lock_that_is_held_for_too_long_is_a_reason_in_time(path: Path, outbox: Outbox) -> None:
    outbox.keep(message("1"))
    ready, tell = os.pipe()

    def hold() -> None:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        os.write(tell, b"x")
        signal.pause()

    with Fork(hold):
        os.read(ready, 1)
        started = time.monotonic()
        with pytest.raises(OutboxError, match="database is locked"):
            outbox.keep(message("2"))
        assert time.monotonic() - started < BUSY_TIMEOUT_S + LATE_S
    outbox.keep(message("3"))
    assert held(path) == ["1", "3"]
    os.close(ready)
    os.close(tell)


def test_a_full_disk_is_a_reason_and_costs_nothing(path: Path, outbox: Outbox) -> None:
    """SQLite says the same (SQLITE_FULL) when a file may have no more pages."""
    outbox.keep(message("0"))
    connection = outbox._file._connection
    assert connection is not None
    connection.execute("PRAGMA max_page_count = 20")
    kept = ["0"]

    def fill() -> None:
        for number in range(1, 1000):
            text = f"{number} {'x' * 1000}"
            outbox.keep(message(text))
            kept.append(text)

    with pytest.raises(OutboxError, match="database or disk is full"):
        fill()
    assert len(kept) > 10
    assert held(path) == kept
    outbox.keep(message("room again"))
    assert held(path) == [*kept, "room again"]


def test_a_process_that_opens_it_for_too_long_keeps_others_out_no_longer_than_a_second(path: Path) -> None:
    ready, tell = os.pipe()

    def hold() -> None:
        with alone(f"{path}.lock"):
            os.write(tell, b"x")
            signal.pause()

    with closing(opened(path)) as outbox:
        with Fork(hold):
            os.read(ready, 1)
            started = time.monotonic()
            with pytest.raises(OutboxError, match="another process has held"):
                outbox.keep(message("1"))
            assert time.monotonic() - started < 1 + 2 * LATE_S
        outbox.keep(message("2"))
    assert held(path) == ["2"]
    os.close(ready)
    os.close(tell)
