# SPDX-License-Identifier: GPL-2.0-or-later
"""The walls of pyproject.toml hold: each contract finds what it is there to find, in a copy of the package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINTER = Path(sys.executable).with_name("lint-imports")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Copy the package, with its contracts beside it."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    ignored = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(ROOT / "kemi_nsq", tmp_path / "kemi_nsq", ignore=ignored))


def said(package: Path) -> tuple[int, str]:
    """Return the exit code of import-linter, and what it prints."""
    environment = os.environ | {"PYTHONPATH": str(package.parent)}
    command = [str(LINTER), "--no-logo", "--no-cache"]
    done = subprocess.run(command, cwd=package.parent, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("nsq/protocol.py", "from kemi_nsq.consumer import gate", "Each wing imports those below it"),
        ("queries/desk.py", "from kemi_nsq.presence import row", "Each wing imports those below it"),
        ("errors.py", "from kemi_nsq import event", "Each wing imports those below it"),
        ("consumer/intake.py", "import threading", "What a consumer decides has no socket"),
        ("presence/writer.py", "import KSR", "Each thing outside has its owners"),
        ("presence/packages/reg.py", "import sqlalchemy", "Each thing outside has its owners"),
        ("consumer/handling.py", "import time", "Time and chance come as arguments"),
    ],
)
def test_what_breaks_a_wall_is_found(package: Path, module: str, line: str, contract: str) -> None:
    file = package / module
    file.write_text(f"{file.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")
    code, text = said(package)
    assert code == 1, text
    assert [each for each in text.splitlines() if " BROKEN" in each and each.startswith(contract)], text


def test_a_module_in_no_wing_is_found(package: Path) -> None:
    (package / "stray.py").write_text('"""Nowhere."""\n', encoding="utf-8")
    code, text = said(package)
    assert code == 1
    assert "kemi_nsq.stray" in text


def test_what_is_not_touched_is_sound(package: Path) -> None:
    assert said(package)[0] == 0
