# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmark runs, and says what it measured in the form that its readers expect. How fast is no test's business."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.figures import Aim, Figure, Spoiled, check_once_each
from tests.support.interrupt import INTERRUPTED
from tests.support.looked_at import REWRITTEN, LookedAt
from tests.support.process import descendants, is_running
from tests.support.until import until

ROOT = Path(__file__).parents[2]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_a_quick_measure_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    done = bench("--quick", "--json", str(file), "publish")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "publish p50" in done.stdout
    result = json.loads(file.read_text())
    assert result["errors"] == {}
    assert [figure["measure"] for figure in result["figures"]] == ["publish p50", "publish p99"]
    for figure in result["figures"]:
        assert figure["unit"] == "us"
        assert figure["value"] > 0
        assert figure["ratio"] == figure["value"] / figure["baseline"]
        assert figure["met"] in ((True, False) if figure["aim"] else (None,))


def test_on_a_terminal_it_shows_how_far_it_is_in_one_line(tmp_path: Path) -> None:
    with LookedAt("tests.bench", "--quick", "publish", terminal=True, folder=tmp_path) as run:
        assert run.wait_exit() == 0, run.errors
        assert "measuring publish, 1 of 1, " in run.errors
        assert run.errors.endswith(REWRITTEN)


@pytest.mark.parametrize("terminal", [True, False])
def test_ctrl_c_ends_all_that_it_started(terminal: bool, tmp_path: Path) -> None:
    """While nsqd and Kamailio start: then the fewest know of them."""
    with LookedAt("tests.bench", "updates-sqlite", "query", terminal=terminal, folder=tmp_path) as run:
        until(lambda: list(run.temporary.glob("*/*/kamailio/kamailio.log")), timeout_s=30, what="Kamailio to start")
        started = descendants(run.pid)
        assert len(started) > 1
        run.interrupt()
        assert run.wait_exit() == INTERRUPTED
        assert "incomplete: not measured: updates-sqlite, query" in run.output
        assert "Traceback" not in run.errors
        assert not any(map(is_running, started))
        assert run.left_behind() == []
        assert list(run.temporary.iterdir()) == []


def test_a_profile_adds_up_to_the_cpu_of_the_consumer() -> None:
    """Its timers are around functions that are named by texts, so whoever renames one learns it here."""
    done = bench("--quick", "--profile")
    assert done.returncode == 0, done.stderr
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in done.stdout.splitlines()]
    rows = {name: [*map(float, numbers)] for name, *numbers in cells if numbers and numbers[0].count(".") == 1}
    *stages, (last, measured) = rows.items()
    assert last == "the consumer's CPU"
    for column, us in enumerate(measured):
        assert sum(numbers[column] for _, numbers in stages) == pytest.approx(us, abs=0.1 * len(stages))
    assert all(rows["JSON"]), "each event is decoded"


def test_an_unknown_measure_is_refused() -> None:
    done = bench("nonsense")
    assert done.returncode == 2
    assert "no such measure: nonsense" in done.stderr


@pytest.mark.parametrize("came", [[1, 2], [1, 2, 2], [1, 2, 3, 3]])
def test_a_lost_or_doubled_event_spoils_a_run(came: list[int]) -> None:
    with pytest.raises(Spoiled, match=f"3 events sent, {len(came)} came"):
        check_once_each(came, 3, "events")


@pytest.mark.parametrize(
    ("aim", "met"),
    [
        (Aim(of="ratio", relation="<=", limit=2), True),
        (Aim(of="ratio", relation=">=", limit=2), True),
        (Aim(of="ratio", relation="<=", limit=1.9), False),
        (Aim(of="value", relation="<=", limit=7), False),
        (None, None),
    ],
)
def test_an_aim_is_of_the_value_or_of_the_ratio(aim: Aim | None, met: bool | None) -> None:
    assert Figure(measure="a", value=8, unit="us", baseline=4, aim=aim).met is met
