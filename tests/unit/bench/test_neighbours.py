# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a figure is one of a quiet machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.bench import __main__ as bench
from tests.bench.figures import Figure, Result
from tests.bench.neighbours import Look, look, share_of_others

SPIN = "import time\nwhile time.process_time() < 0.3: pass\n"
BEFORE = Look(100.0, 50.0, 20.0)


@pytest.mark.parametrize(
    ("after", "share"),
    [(Look(110.0, 60.0, 30.0), 0.0), (Look(110.0, 60.0, 25.0), 0.25), (Look(110.0, 60.0, 31.0), 0.0)],
)
def test_others_have_what_all_used_and_we_did_not(after: Look, share: float) -> None:
    assert share_of_others(BEFORE, after, cores=2) == share


@pytest.mark.parametrize("depth", [0, 1])
def test_what_we_have_started_is_ours(depth: int) -> None:
    program = SPIN if not depth else f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SPIN!r}])"
    before = look()
    with subprocess.Popen([sys.executable, "-c", program + "\nimport sys; sys.stdin.read()"], stdin=-1) as child:
        until_used(before)
        running = look()
        child.communicate()
    ended = look()
    for after in (running, ended):
        assert after.own_s - before.own_s >= 0.25
        assert after.all_s - before.all_s >= 0.25


def until_used(before: Look) -> None:
    while look().own_s - before.own_s < 0.3:
        pass


def run(monkeypatch: pytest.MonkeyPatch, *words: str, others_s: float) -> tuple[int, Sequence[Figure], dict[str, str]]:
    """Run a measure of 10 seconds, in which others use so much; return the exit code, figures and errors."""
    looks = iter([Look(0.0, 0.0, 0.0), Look(10.0, others_s, 0.0)])
    monkeypatch.setattr(bench, "look", lambda: next(looks))
    monkeypatch.setattr(bench, "interrupt_once", lambda: None)
    monkeypatch.setattr(bench, "MEASURES", {"x": lambda _folder, **_: [Figure(measure="x", value=1, unit="us")]})
    monkeypatch.setattr(Result, "print", lambda *_: None)
    results: list[Result] = []
    monkeypatch.setattr(Result, "write", lambda result, _path: results.append(result))
    code = bench.main([*words, "--json", str(Path("unused")), "x"])
    (result,) = results
    return code, result.figures, result.errors


def test_a_figure_of_a_machine_that_others_use_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    code, figures, errors = run(monkeypatch, others_s=10.0 * 1024)
    assert (code, figures) == (1, [])
    assert "of the machine meanwhile; measure when it is quiet" in errors["x"]


def test_a_quiet_machine_has_figures_and_a_quick_run_has_them_anyhow(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [each.measure for each in run(monkeypatch, others_s=0.5)[1]] == ["x"]
    assert [each.measure for each in run(monkeypatch, "--quick", others_s=10.0 * 1024)[1]] == ["x"]
