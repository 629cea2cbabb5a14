# SPDX-License-Identifier: GPL-2.0-or-later
"""`make chaos` runs, finds nothing wrong after a short fault, and leaves nothing behind when it is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.looked_at import REWRITTEN, LookedAt
from tests.support.process import descendants, is_running
from tests.support.until import until

ROOT = Path(__file__).parents[2]


def chaos(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.chaos", "--folder", str(folder), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def left_behind(folder: Path) -> list[str]:
    """List the processes that work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            where = os.readlink(process / "cwd")
        except OSError:
            continue  # it has ended
        if Path(where).is_relative_to(folder):
            found.append(where)
    return found


def test_a_killed_nsqd_costs_nothing(tmp_path: Path) -> None:
    file = tmp_path / "chaos.json"
    run = chaos(tmp_path, "--seconds", "10", "--faults", "nsqd-kill", "--json", str(file))
    said, complaints = run.communicate(timeout=60)
    assert (run.returncode, complaints) == (0, ""), said + complaints
    [outcome] = json.loads(file.read_text())["outcomes"]
    assert outcome["right"]
    assert outcome["accepted"] == outcome["stored"] > 100
    assert outcome["lost"] == outcome["rows_wrong"] == outcome["lamps_wrong"] == 0
    assert "nsqd-kill" in said
    assert left_behind(tmp_path) == []


def test_it_ends_all_that_it_started(tmp_path: Path) -> None:
    run = chaos(tmp_path, "--seconds", "60", "--faults", "consumer-freeze")
    until((tmp_path / "b/kamailio.log").exists, timeout_s=30, what="the last server to start")
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=40)
    assert run.returncode == 128 + signal.SIGINT
    assert left_behind(tmp_path) == []


def test_on_a_terminal_it_shows_how_far_it_is_and_ends_in_one_line(open_path: Path) -> None:
    """In a folder that PostgreSQL's user can enter."""
    with LookedAt("tests.chaos", "--seconds", "60", "--faults", "none", terminal=True, folder=open_path) as run:
        run.wait_for("starting the servers, ")
        run.wait_for("none: load, 1 of 1, ", timeout_s=60)
        started = descendants(run.pid)
        assert len(started) > 5
        run.interrupt()
        assert run.wait_exit() == 128 + signal.SIGINT
        assert run.output == "Incomplete: 0 of 1 faults.\n"
        assert "Traceback" not in run.errors
        assert run.errors.endswith(REWRITTEN)
        assert not any(map(is_running, started))
        assert list(run.temporary.iterdir()) == []


def test_an_unknown_fault_is_refused(tmp_path: Path) -> None:
    run = chaos(tmp_path, "--faults", "nonsense")
    _, complaints = run.communicate(timeout=20)
    assert run.returncode == 2
    assert "no such fault: nonsense" in complaints
