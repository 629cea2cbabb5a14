# SPDX-License-Identifier: GPL-2.0-or-later
"""`kemi-nsq doctor` beside a Kamailio that runs: what it was started with counts, and it is asked by RPC."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kemi_nsq.runtime.console import ask
from tests.support.chain import SHIPPED, Chain
from tests.support.doctored import SetUp, examine
from tests.support.kamailio import PROGRAM_PATH, quoted
from tests.support.nsqd import Nsqd
from tests.support.process import ChildProcess, find_program
from tests.support.until import until


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SetUp, Chain]]:
    """Run Kamailio with a good set-up; where it listens and shows itself it is told by its command line."""
    folder = tmp_path_factory.mktemp("running")
    with Nsqd(folder / "own nsqd") as nsqd:
        setup = SetUp(folder=folder, nsqd=nsqd)
        setup.defines["CTL_SOCKET"] = setup.defines["SIP_LISTEN"] = setup.defines["NSQ_RUN_DIR"] = None
        chain = Chain("native", folder / "chain", config=setup.write(), defines=dict.fromkeys(setup.defines))
        with chain:
            until(lambda: chain.counter("connected") == 2, what="the consumer's topic and its reply topic")
            yield setup, chain


def test_nothing_is_said_of_a_kamailio_that_runs(running: tuple[SetUp, Chain]) -> None:
    setup, _ = running
    examined = examine(setup.file)
    assert (examined.found, examined.code) == ({}, 0)
    applied = [each["check"] for each in examined.results if not each["reason"].startswith("does not apply")]
    assert {"consumers", "restarted", "status", "wal", "run-folder"} <= {*applied}


@pytest.mark.parametrize("told", [True, False], ids=["PWD", "no PWD"])
def test_a_kamailio_that_was_started_with_a_relative_file_is_known(tmp_path: Path, told: bool) -> None:
    with Nsqd(tmp_path / "nsqd") as nsqd, tempfile.TemporaryDirectory(prefix="kamailio-") as short:
        setup = SetUp(folder=Path(short), nsqd=nsqd)
        words = [find_program("kamailio", path=PROGRAM_PATH), "-DD", "-E", "-f", setup.write().name, "-Y", short]
        environment = {"PATH": PROGRAM_PATH} | ({"PWD": short} if told else {})
        kamailio = ChildProcess("kamailio", words, folder=setup.folder, environment=environment)
        try:
            until(lambda: _read_channels(nsqd) == 2, what="the consumer's topic and its reply topic")
            examined = examine(setup.file)
        finally:
            kamailio.stop()
    assert (examined.found, examined.code) == ({}, 0)
    assert not [each for each in examined.results if "no Kamailio runs" in each["reason"]]


def _read_channels(nsqd: Nsqd) -> int:
    return sum(channel["client_count"] > 0 for topic in nsqd.stats()["topics"] for channel in topic["channels"])


def test_what_has_changed_since_the_start(running: tuple[SetUp, Chain]) -> None:
    setup, _ = running
    text = setup.file.read_text()
    try:
        setup.file.write_text(text.replace("include_file", "#!define NSQ_CONSUMERS 2\ninclude_file", 1))
        os.utime(setup.file, (2**31, 2**31))
        examined = examine(setup.file)
    finally:
        setup.file.write_text(text)
        os.utime(setup.file, (0, 0))
    assert (examined.found, examined.code) == ({"consumers": "warning", "restarted": "warning"}, 1)


def test_an_instance_that_another_kamailio_has(running: tuple[SetUp, Chain], tmp_path: Path) -> None:
    theirs, chain = running
    ours = SetUp(folder=tmp_path, nsqd=theirs.nsqd)
    ours.defines["NSQ_RUN_DIR"] = quoted(chain.kamailio.pages_folder)
    examined = examine(ours.write())
    assert examined.found["run-folder"] == examined.found["replies"] == "error"
    assert str(chain.kamailio.process.pid) in examined.reasons("run-folder")[0]
    assert examined.code == 2


def test_what_status_says_of_it_the_doctor_says_too(running: tuple[SetUp, Chain]) -> None:
    setup, chain = running
    folder = chain.kamailio.pages_folder
    (pid,) = (pid for pid, what in chain.kamailio.pids().items() if "nsq:consumer" in what)
    ask(folder, pid, "pause", {"topic": ""}, timeout_s=5.0)
    try:
        until(lambda: chain.status()[0] == 1, what="the pause to be shown")
        examined = examine(setup.file)
    finally:
        ask(folder, pid, "resume", {"topic": ""}, timeout_s=5.0)
        until(lambda: chain.status()[0] == 0, what="the pause to be over")
    assert (examined.found, examined.code) == ({"status": "warning"}, 1)
    assert examined.reasons("status")[0].startswith(f"{pid}: paused: ")


def test_a_kamailio_beside_ours_that_takes_events_from_our_channel(
    running: tuple[SetUp, Chain], tmp_path: Path
) -> None:
    theirs, chain = running
    examined = examine(SetUp(folder=tmp_path, nsqd=theirs.nsqd).write())
    assert (examined.found, examined.code) == ({"channel": "error"}, 2)
    (consumer,) = (pid for pid, what in chain.kamailio.pids().items() if "nsq:consumer" in what)
    assert examined.reasons("channel")[0].startswith(f"kamailio-{consumer}-")


def test_a_password_that_ps_shows(tmp_path: Path) -> None:
    config = tmp_path / "kamailio.cfg"
    config.write_text(f'include_file "{SHIPPED}/kamailio.cfg"\n')
    shown = quoted("mysql://kamailio:hunter2@db.example/kamailio")
    with Chain("native", tmp_path / "chain", config=config, defines={"DBURL": shown}) as chain:
        until(lambda: chain.counter("connected") == 2, what="the consumer's topic and its reply topic")
        examined = examine(config)
    assert (examined.found["secrets"], "DBURL" in examined.reasons("secrets")[0]) == ("warning", True)
    assert "hunter2" not in str(examined.results)


def test_what_breaks_presence_is_said_at_the_start_in_one_line(tmp_path: Path) -> None:
    config = tmp_path / "hidden.cfg"
    config.write_text(f'include_file "{SHIPPED}/kamailio.cfg"\nmodparam("presence", "publ_cache", 1)\n')
    with Chain("native", tmp_path / "chain", config=config) as chain:
        (line,) = chain.log_lines("WARNING: .*kemi-nsq")
        chain.drain()
    assert f"presence: publ_cache is 1 ({config}, line 2): rows are stored and counted, and no watcher is shown" in line


def test_a_define_of_the_command_line_counts_at_the_start(tmp_path: Path) -> None:
    config = tmp_path / "hidden.cfg"
    hides = '#!ifdef HIDE\nmodparam("presence", "publ_cache", 1)\n#!endif\n'
    config.write_text(f'include_file "{SHIPPED}/kamailio.cfg"\n{hides}')
    for defines, said in (({}, 0), ({"HIDE": 1}, 1)):
        with Chain("native", tmp_path / f"chain {said}", config=config, defines=defines) as chain:
            assert len(chain.log_lines("WARNING: .*publ_cache")) == said
