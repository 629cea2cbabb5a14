# SPDX-License-Identifier: GPL-2.0-or-later
"""docker/setup.sh replaces a virtual environment only by one that is complete."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[2] / "docker/setup.sh"
#: A build backend that needs nothing: its package is a name and a version.
BACKEND = """
import os, zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    info, name = "thing-1.dist-info/", "thing-1-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: thing\\nVersion: 1\\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "RECORD", "")
    return name
"""
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "thing"
version = "1"
"""


class Checkout:
    """A project of one name, with the real set-up script."""

    def __init__(self, folder: Path) -> None:
        (folder / "docker").mkdir(parents=True)
        shutil.copy(SETUP, folder / "docker/setup.sh")
        (folder / "backend.py").write_text(BACKEND, encoding="utf-8")
        (folder / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
        self.folder = folder
        self.lock("# nothing\n")

    def lock(self, text: str) -> None:
        (self.folder / "requirements-dev.lock").write_text(text, encoding="utf-8")

    def set_up(self) -> tuple[int, str]:
        command = [str(self.folder / "docker/setup.sh"), "venv"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        return done.returncode, done.stderr

    def works(self) -> bool:
        """Whether a script of the environment runs, by the place that it holds, and the package is in there."""
        done = subprocess.run([str(self.folder / ".venv/bin/pip"), "show", "thing"], capture_output=True, check=False)
        return done.returncode == 0

    def environments(self) -> list[str]:
        return sorted(each.name for each in self.folder.glob(".venv*"))


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    checkout = Checkout(tmp_path / "checkout")
    code, said = checkout.set_up()
    assert code == 0, said
    assert checkout.works()
    return checkout


def test_a_second_time_does_nothing(checkout: Checkout) -> None:
    assert checkout.set_up() == (0, "")


def test_a_lock_that_cannot_be_installed_leaves_what_works(checkout: Checkout) -> None:
    before = checkout.environments()
    checkout.lock("nothing-that-exists @ file:///nowhere/nothing-1-py3-none-any.whl --hash=sha256:" + "0" * 64 + "\n")
    code, said = checkout.set_up()
    assert code == 1
    assert said.endswith("setup: requirements-dev.lock cannot be installed, as said above; .venv is what it was\n")
    assert checkout.works()
    assert checkout.environments() == before


def test_a_new_lock_has_an_environment_of_its_own(checkout: Checkout) -> None:
    before = checkout.environments()
    checkout.lock("# still nothing\n")
    assert checkout.set_up()[0] == 0
    assert checkout.works()
    after = checkout.environments()
    assert len(after) == len(before) == 2
    assert after != before


def test_a_folder_as_it_was_made_before_is_replaced(checkout: Checkout) -> None:
    (environment,) = checkout.folder.glob(".venv-*")
    (checkout.folder / ".venv").unlink()
    shutil.move(environment, checkout.folder / ".venv")
    checkout.lock("# still nothing\n")
    assert checkout.set_up()[0] == 0
    assert checkout.works()
    assert len(checkout.environments()) == 2
