# SPDX-License-Identifier: GPL-2.0-or-later
"""A benchmark that is ended early says what it measured, and that it is not all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

import pytest

from tests.bench import __main__ as bench
from tests.bench.figures import Figure, read
from tests.support.interrupt import INTERRUPTED

FIGURE = Figure(measure="a thing", value=8, unit="us")


def measured(_folder: Path, *, quick: bool) -> list[Figure]:
    return [FIGURE]


def interrupted(_folder: Path, *, quick: bool) -> NoReturn:
    raise KeyboardInterrupt


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where the result goes of a benchmark that is interrupted in its second measure."""
    monkeypatch.setattr(bench, "MEASURES", {"first": measured, "second": interrupted, "third": measured})
    # This process is pytest's, which has its own way with Ctrl-C, and children.
    monkeypatch.setattr(bench, "interrupt_once", lambda: None)
    monkeypatch.setattr(bench, "end_children", lambda: None)
    return tmp_path / "result.json"


def test_it_prints_and_writes_what_it_has(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--json", str(file)]) == INTERRUPTED
    shown = capsys.readouterr()
    assert "a thing" in shown.out
    assert "incomplete: not measured: second, third" in shown.out
    assert shown.err == ""
    assert json.loads(file.read_text())["left"] == ["second", "third"]
    result = read(file.read_text())
    assert (list(result.figures), result.errors, result.left) == ([FIGURE], {}, ("second", "third"))


def test_one_that_was_not_interrupted_is_complete(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--json", str(file), "first", "third"]) == 0
    assert "incomplete" not in capsys.readouterr().out
    assert json.loads(file.read_text())["left"] == []


def test_it_says_how_far_it_is() -> None:
    done = bench.Progress(["first", "second", "third"])
    assert done.line() == "measuring first, 1 of 3, 0 s"
    del done.left[0]
    assert done.line() == "measuring second, 2 of 3, 0 s, about 0 s left"
