# SPDX-License-Identifier: GPL-2.0-or-later
"""`kemi-nsq status`: what the pages of a runtime folder mean, and the exit code for it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kemi_nsq.counters import Counter
from kemi_nsq.runtime.folder import RunFolder
from kemi_nsq.runtime.page import Fact, Gauge, Page
from kemi_nsq.tools import cli
from kemi_nsq.tools.status import Process, Status, look

NOW = 1_700_000_000.0


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "kemi-nsq", uid=os.geteuid(), gid=os.getegid())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kemi-nsq"


@pytest.fixture
def page(folder: RunFolder) -> Page:
    """Return the page of a consumer that waits, as of NOW; it is this process."""
    page = folder.page
    page.role("consumer")
    page.set(Gauge.ROUTE_TIMEOUT, 30)
    page.set(Gauge.IO_TURN, NOW - 0.4)
    return page


def the_process(path: Path, now: float = NOW) -> tuple[Process, Status]:
    found = look(path, now)
    (process,) = found.processes
    return process, found


def test_a_consumer_that_waits_is_well(page: Page, path: Path) -> None:
    page.show(Fact.DOING, "what it did last")
    process, found = the_process(path)
    assert (process.pid, process.role, process.state, process.wrong) == (os.getpid(), "consumer", "waits", "")
    assert process.facts == {}
    assert found.well


def test_a_consumer_that_works_is_well_even_if_a_route_keeps_the_lock_for_some_time(page: Page, path: Path) -> None:
    page.show(Fact.DOING, "nsq:x, message 1 of t")
    page.set(Gauge.BUSY_SINCE, NOW - 29)
    page.set(Gauge.IO_TURN, NOW - 29)
    process, found = the_process(path)
    assert (process.state, found.well) == ("works", True)


def test_a_route_that_takes_too_long_is_stuck_although_nobody_says_so(page: Page, path: Path) -> None:
    page.show(Fact.DOING, "nsq:x, message 1 of t")
    page.set(Gauge.BUSY_SINCE, NOW - 31)
    page.set(Gauge.IO_TURN, NOW - 31)
    (path / f"{os.getpid()}.stack").write_text("File routes.py")
    process, found = the_process(path)
    assert (process.state, process.wrong) == ("stuck", "stuck for 31 s in nsq:x, message 1 of t")
    assert process.stack == "File routes.py"
    assert not found.well


def test_a_consumer_that_waits_and_does_not_turn_stands_still(page: Page, path: Path) -> None:
    process, found = the_process(path, NOW + 60)
    assert process.state == "stopped"
    assert process.wrong.startswith("it stands still since ")
    assert not found.well


@pytest.mark.parametrize("fact", [Fact.DATABASE, Fact.DATABASE_FILE, Fact.DEAD_LETTERS, Fact.OUTBOX, Fact.BACKOFF])
def test_an_outage_is_wrong(page: Page, path: Path, fact: Fact) -> None:
    page.show(fact, "since noon")
    process, found = the_process(path)
    assert (process.wrong, found.well) == (f"{fact}: since noon", False)


def test_what_the_outbox_holds_is_told_in_words(page: Page, path: Path) -> None:
    assert the_process(path)[0].outbox == ""
    for gauge, value in ((Gauge.OUTBOX_MESSAGES, 12), (Gauge.OUTBOX_BYTES, 345), (Gauge.OUTBOX_OLDEST, NOW - 61)):
        page.set(gauge, value)
    process, found = the_process(path)
    assert process.outbox == "12 messages (345 bytes), the oldest for 61 s"
    assert found.well, "they are being sent, unless the fact says why not"


def test_a_consumer_that_ended_is_wrong_and_a_worker_is_not(folder: RunFolder, path: Path) -> None:
    for role in ("consumer", ""):
        child = os.fork()
        if child == 0:
            folder.page.role(role)
            folder.page.count(Counter.PUBLISHED)
            os._exit(0)
        os.waitpid(child, 0)
    found = look(path, NOW)
    assert {(each.role, each.state, each.wrong) for each in found.processes} == {
        ("consumer", "ended", "the consumer has ended"),
        ("", "ended", ""),
    }
    assert found.counters == {Counter.PUBLISHED: 2}
    assert not found.well


# The command


@pytest.fixture
def _now(page: Page) -> None:
    page.set(Gauge.IO_TURN, time.time())
    page.count(Counter.RECEIVED)


def run(*words: str, **environment: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, ["status", *words], env=environment)
    return done.exit_code, done.output


@pytest.mark.usefixtures("_now")
def test_all_is_well_is_exit_code_0(path: Path) -> None:
    code, output = run("--run-dir", str(path))
    assert code == 0
    assert str(os.getpid()) in output
    assert "waits" in output
    assert output.split()[-2:] == ["received", "1"]


@pytest.mark.usefixtures("_now")
def test_json_says_the_same(path: Path) -> None:
    code, output = run("--json", NSQ_RUN_DIR=str(path))
    found = json.loads(output)
    assert (code, found["well"], found["counters"]) == (0, True, {"received": 1})
    assert found["processes"][0]["gauges"]["route_timeout"] == 30


@pytest.mark.usefixtures("_now")
def test_an_outage_is_exit_code_1(path: Path, page: Page) -> None:
    page.show(Fact.DATABASE, "since noon [gone]")
    code, output = run("--run-dir", str(path))
    assert code == 1
    assert f"{os.getpid()}: database: since noon [gone]" in output


@pytest.mark.usefixtures("_now")
def test_the_outbox_has_a_line_and_no_column(path: Path, page: Page) -> None:
    page.set(Gauge.OUTBOX_MESSAGES, 3)
    page.set(Gauge.OUTBOX_OLDEST, time.time())
    output = run("--run-dir", str(path))[1]
    assert f"{os.getpid()}: the outbox holds 3 messages (0 bytes), the oldest for" in output
    assert "outbox messages" not in output


def test_no_consumer_is_exit_code_1(folder: RunFolder, path: Path) -> None:
    assert run("--run-dir", str(path))[0] == 1
    assert run("--run-dir", str(path), "--json")[0] == 1
