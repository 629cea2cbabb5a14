# SPDX-License-Identifier: GPL-2.0-or-later
"""`make demo`, and what it prints to be tried by hand."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests import demo
from tests.support.chain import SHIPPED, Chain
from tests.support.process import ChildProcess

PROJECT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "tests.demo"]
LONGEST_S = 15
#: Nothing on the way waits for a timer, such as the 250 ms of nsqd's buffer; how fast it is, `make bench` measures.
MEDIAN_MS = 100.0


@pytest.mark.alone
def test_every_event_becomes_the_right_notify() -> None:
    done = subprocess.run(COMMAND, cwd=PROJECT, capture_output=True, text=True, timeout=LONGEST_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for step in demo.STEPS:
        assert re.search(rf"{step.what} .* {step.package} .* {step.says} .* ● ", done.stdout), done.stdout
    median = re.search(r"^median from publish to NOTIFY: ([\d.]+) ms$", done.stdout, re.MULTILINE)
    assert median is not None
    assert float(median[1]) < MEDIAN_MS


def run_here() -> int:
    """Run the demo in this process, whose handler of SIGTERM it changes, and return its exit code."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        return demo.main()
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_a_wrong_notify_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = demo.Step(what="a lie", package="presence", fields={"State": "busy"}, says="Offline")
    monkeypatch.setattr(demo, "STEPS", (wrong,))
    assert run_here() == 1
    said = capsys.readouterr().out
    assert "no such NOTIFY" in said
    assert "a lie: waited 5 s for Offline" in said


def test_an_error_in_kamailios_log_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "kamailio.cfg"
    said = 'event_route[htable:mod-init] { xlog("L_ERR", "something is wrong\\n"); }'
    config.write_text(f'include_file "{SHIPPED / "kamailio.cfg"}"\n{said}\n')
    monkeypatch.setattr(demo, "Chain", partial(Chain, config=config))
    monkeypatch.setattr(demo, "STEPS", demo.STEPS[:1])
    assert run_here() == 1
    shown = capsys.readouterr().out
    assert "● ringing" in shown
    assert "ERROR: <script>: something is wrong" in shown


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_kept_running_it_takes_events_by_hand_until_it_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    environment = dict(os.environ, KEEP="1", PYTHONUNBUFFERED="1", PYTHONPATH=str(PROJECT))
    shown = ChildProcess("demo", COMMAND, folder=tmp_path, environment=environment)
    try:
        curl = shown.wait_for_log(r"^  (curl .*)$")[1]
        publish = shown.wait_for_log(r"^  (\S*kemi-nsq publish .*)$")[1]
        shown.wait_for_log(r"A phone on this machine subscribes to sip:alice@example.com with sip:127.0.0.1:\d+ ")
        assert by_hand(curl, tmp_path) == "OK"
        shown.wait_for_log("NOTIFY message-summary: ● message waiting")
        assert by_hand(publish, tmp_path).startswith("published ")
        shown.wait_for_log("NOTIFY presence: ● away")
        servers = shown.log_text()
        os.kill(shown.pid, number)
        assert shown.wait_exit() == 0
        assert shown.log_text().endswith("ended\n")
    finally:
        shown.stop()
    addresses = set(re.findall(r"127\.0\.0\.1:\d+", servers))
    assert len(addresses) == 3  # nsqd's two, Kamailio's one; both have theirs on the command line
    assert not any(address in processes() for address in addresses)


def by_hand(command: str, folder: Path) -> str:
    """Run a command in a shell, as somebody would who copied it, and return what it printed."""
    done = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def processes() -> str:
    """Return the command lines of all processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_text(errors="replace"))
        except OSError:
            continue  # it has ended
    return "\n".join(found)
