# SPDX-License-Identifier: GPL-2.0-or-later
"""The wheel in a virtual environment of its own: it carries what Kamailio loads, which finds the package beside it."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.chain import CONFIGURATIONS, SHIPPED, Chain, Person

CHECKOUT = SHIPPED.parent


def pip(*words: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel, without what it depends on: that is taken from the environment of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, CHECKOUT)
    (wheel,) = folder.glob("kemi_nsq-*.whl")
    environment = folder / "venv"
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", environment], check=True, timeout=60)
    pip("--python", environment / "bin/python", "install", "--no-deps", "--no-index", wheel)
    (packages,) = environment.glob("lib/python3.*/site-packages")
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    return environment


def files(venv: Path, *name: str) -> Path:
    command = [str(venv / "bin/kemi-nsq"), "files", *name]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.rstrip("\n"))


def test_it_says_where_its_files_are(venv: Path) -> None:
    assert venv in files(venv).parents
    for each in SHIPPED.rglob("*.*"):
        if each.suffix != ".pyc":
            assert files(venv, str(each.relative_to(SHIPPED))).read_bytes() == each.read_bytes()


def test_kamailio_runs_with_them(kind: str, venv: Path, tmp_path: Path) -> None:
    config, script = (files(venv, each.name) for each in CONFIGURATIONS[kind])
    with Chain(kind, tmp_path, config=config, script=script) as chain, chain.watcher() as watcher:
        alice = Person(chain=chain)
        lamp = watcher.subscribe(alice.uri, "dialog")
        alice.call("confirmed")
        lamp.wait(lambda notify: notify.dialog_info.states == ("confirmed",), what="the lamp")
