# SPDX-License-Identifier: GPL-2.0-or-later
"""`make release` in a copy of the project: what it refuses, what it builds, what it tags. `make deb` is a stub."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.support.markdown import ROOT

VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
DEB = f"kemi-nsq_{VERSION}_all.deb"
PYTHON = [f"kemi_nsq-{VERSION}.tar.gz", f"kemi_nsq-{VERSION}-py3-none-any.whl"]
BILL = f"kemi-nsq-{VERSION}.cdx.json"
MODULES = ["tests/__init__.py", "tests/support/__init__.py", "tests/support/release.py"]
#: Takes the place of Makefile: GNU make reads a file of this name first.
STUB = f"deb:\n\tprintf package >dist/{DEB}\n"
DATED = f"## [Unreleased]\n\n## [{VERSION}] - 2026-01-02\n\n### Added\n\n- A lamp.\n"
#: Who commits, and nothing of the developer's own settings of git.
GIT = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
GIT |= {f"GIT_{who}_{what}": "test@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder."""
    environment = os.environ | GIT
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder and return what it says."""
    done = run(folder, "git", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def release(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Release a project, as `make release` does."""
    return run(folder, sys.executable, "-m", "tests.support.release", VERSION, *options)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return a project with as much of this one as decides whether it may be released."""
    return project(tmp_path / "small", [*MODULES, "pyproject.toml"])


def project(folder: Path, names: Iterable[str]) -> Path:
    """Make a project of files of this one and a changelog that has a dated section; all is committed."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    (folder / "CHANGELOG.md").write_text(f"# Changelog\n\n{DATED}", encoding="utf-8")
    (folder / "GNUmakefile").write_text(STUB, encoding="utf-8")
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    """Commit all that a project has."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "Prepare")


def rewrite(name: str, before: str, after: str) -> Callable[[Path], None]:
    """Return a function that changes a text in a file of a project, and commits that."""

    def change(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        assert before in text
        (folder / name).write_text(text.replace(before, after), encoding="utf-8")
        commit(folder)

    return change


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda folder: (folder / "left.txt").touch(), "changes that are not committed; commit or remove them:"),
        (rewrite("pyproject.toml", f'version = "{VERSION}"', 'version = "9.8.7"'), "pyproject.toml has version 9.8.7"),
        (rewrite("CHANGELOG.md", "2026-01-02", "to be dated"), "CHANGELOG.md says nothing below a line"),
        (rewrite("CHANGELOG.md", "### Added\n\n- A lamp.\n", ""), "CHANGELOG.md says nothing below a line"),
        (
            rewrite("CHANGELOG.md", "[Unreleased]\n", "[Unreleased]\n\n- More.\n"),
            "CHANGELOG.md has changes below Unrel",
        ),
        (lambda folder: git(folder, "tag", f"v{VERSION}"), f"the tag v{VERSION} exists"),
    ],
    ids=["dirty", "version", "undated", "empty", "unreleased", "tagged"],
)
def test_what_is_not_ready_is_refused(small: Path, change: Callable[[Path], None], line: str) -> None:
    change(small)
    tags = git(small, "tag")
    done = release(small)
    assert done.returncode == 1
    assert done.stderr.startswith("release: ")
    assert line in done.stderr
    assert git(small, "tag") == tags
    assert not (small / "dist").exists()


@pytest.mark.parametrize("version", ["", "v0.1.0", "0.1"])
def test_what_is_no_version_is_refused(version: str) -> None:
    done = run(ROOT, "make", "--silent", "release", f"VERSION={version}")
    assert f"'{version}' is no version; write VERSION=0.1.0, say" in done.stderr


def test_where_a_step_fails_there_is_no_tag(small: Path) -> None:
    rewrite("GNUmakefile", "printf", "false")(small)
    done = release(small)
    assert done.returncode == 1
    assert done.stderr.endswith("release: no tag was made, because this failed: make deb\n")
    assert git(small, "tag") == ""


def released(folder: Path, *options: str) -> dict[str, bytes]:
    """Release a project, and return its files."""
    done = release(folder, *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("nothing was uploaded\n")
    return {path.name: path.read_bytes() for path in (folder / "dist").iterdir()}


def test_a_release_is_complete_tagged_and_made_alike_again(tmp_path: Path) -> None:
    tracked = git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    first = project(tmp_path / "first", [name for name in tracked if (ROOT / name).is_file()])
    files = released(first)
    assert files.keys() == {*PYTHON, BILL, DEB, "SHA256SUMS"}
    assert run(first / "dist", "sha256sum", "--check", "--strict", "SHA256SUMS").returncode == 0
    check_bill(json.loads(files[BILL]))

    assert git(first, "cat-file", "-t", f"v{VERSION}") == "tag"
    message = git(first, "tag", "--list", "--format=%(contents)", f"v{VERSION}")
    assert message == f"kemi-nsq {VERSION}\n\n### Added\n\n- A lamp."
    assert git(first, "status", "--porcelain") == ""

    git(first, "tag", "--delete", f"v{VERSION}")
    git(tmp_path, "clone", "--quiet", "first", "second")  # another place, and files of another time
    again = released(tmp_path / "second", "--without-debs")
    assert again.keys() == {*PYTHON, BILL, "SHA256SUMS"}
    assert {name: again[name] == files[name] for name in [*PYTHON, BILL]} == dict.fromkeys([*PYTHON, BILL], True)


def check_bill(bill: dict[str, Any]) -> None:
    """See that a bill of materials names this version, and what is locked, each with its checksums."""
    assert bill["bomFormat"] == "CycloneDX"
    described = bill["metadata"]["component"]
    assert (described["name"], described["version"]) == ("kemi-nsq", VERSION)
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = set(re.findall(r"^([\w.-]+)(?:\[.*\])?==(\S+)", lock, re.MULTILINE))
    assert {(each["name"], each["version"]) for each in bill["components"]} == locked
    assert all(each["externalReferences"][0]["hashes"] for each in bill["components"])
