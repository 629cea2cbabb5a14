# SPDX-License-Identifier: GPL-2.0-or-later
"""`make demo`, and what it prints to be tried by hand."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests import demo
from tests.support.chain import SHIPPED, TOPIC
from tests.support.process import ChildProcess
from tests.support.tour import ALICE, LIVE, ONCE
from tests.support.until import until

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
    monkeypatch.setattr(demo, "BASE", config)
    monkeypatch.setattr(demo, "STEPS", demo.STEPS[:1])
    assert run_here() == 1
    shown = capsys.readouterr().out
    assert "● ringing" in shown
    assert "ERROR: <script>: something is wrong" in shown


@contextmanager
def kept(folder: Path) -> Iterator[ChildProcess]:
    """Run the demo until it says that all keeps running."""
    environment = dict(os.environ, KEEP="1", PYTHONUNBUFFERED="1", PYTHONPATH=str(PROJECT))
    shown = ChildProcess("demo", COMMAND, folder=folder, environment=environment)
    try:
        shown.wait_for_log("^without a password.$", timeout_s=30)
        yield shown
    finally:
        shown.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_kept_running_it_takes_events_by_hand_until_it_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    with kept(tmp_path) as shown:
        curl = shown.wait_for_log(r"^  (curl .*)$")[1]
        (publish,) = (each for each in lines(shown) if " publish " in each)
        shown.wait_for_log(r"A phone on this machine subscribes to sip:alice@example.com with sip:127.0.0.1:\d+ ")
        assert by_hand(curl, tmp_path) == "OK"
        shown.wait_for_log("NOTIFY message-summary: ● message waiting")
        assert by_hand(publish, tmp_path).startswith("published ")
        shown.wait_for_log("NOTIFY presence: ● away")
        servers = shown.log_text()
        os.kill(shown.pid, number)
        assert shown.wait_exit() == 0
        assert shown.log_text().endswith("ended\n")
    addresses = set(re.findall(r"127\.0\.0\.1:\d+", servers))
    assert len(addresses) == 3  # nsqd's two, Kamailio's one; both have theirs on the command line
    assert not any(address in processes() for address in addresses)


#: A word of each line that lives, to what it says before anything else happens, or after an event.
SAYS = {
    "status": "^KEMI-NSQ OK - ",
    "presence": f" {ALICE} presence closed ",
    "tail": '"Event-Package":"presence"',
    "respond": "answering on",
}


def test_each_line_that_it_prints_can_be_run(tmp_path: Path) -> None:
    """Also those of letters, in their order: what is replayed fails again, and is dropped then."""
    with kept(tmp_path) as shown, ExitStack() as stack:
        printed = lines(shown)
        once, live = printed[: -len(LIVE)], printed[-len(LIVE) :]
        assert len(once) == sum(map(len, ONCE.values()))
        running = {}
        for line in live:
            name = line.split()[3]
            running[name] = ChildProcess(name, ["/bin/sh", "-c", f"exec {line}"], folder=tmp_path)
            stack.callback(running[name].stop)
        for name in ("status", "presence", "respond"):
            running[name].wait_for_log(SAYS[name])
        until(lambda: "tail" in str(channels(shown)), what="the channel of tail")
        for line in once:
            if " drop " in line:
                until(lambda: by_hand(line.replace(" drop ", " show "), tmp_path), what="the letter, again")  # noqa: B023
            assert by_hand(line, tmp_path)
        for name, process in running.items():
            process.wait_for_log(SAYS[name])
            os.kill(process.pid, signal.SIGINT)
            assert process.wait_exit() == 0
            assert "Traceback" not in process.log_text()


def lines(shown: ChildProcess) -> list[str]:
    """Return the lines with our command that the demo has printed."""
    return re.findall(r"^  (\S*kemi-nsq .*)$", shown.log_text(), re.MULTILINE)


def channels(shown: ChildProcess) -> object:
    """Return what nsqd says of the channels of the topic of events."""
    nsqd = shown.wait_for_log(r"http://(\S+)/pub")[1]
    with urlopen(f"http://{nsqd}/stats?format=json&topic={TOPIC}", timeout=5) as answer:
        return json.load(answer)["topics"][0]["channels"]


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
