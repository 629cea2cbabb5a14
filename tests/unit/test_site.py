# SPDX-License-Identifier: GPL-2.0-or-later
"""The documentation as a site: it is built strictly, has every page, and takes nothing from another server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import site_layout
from tests.support.markdown import ROOT, pages

#: What a browser would fetch by itself: scripts, images, styles, icons.
FETCHED = re.compile(
    r'<(?:script|img|iframe)[^>]*\bsrc="([^"]*)"|<link[^>]*rel="(?:stylesheet|icon)"[^>]*href="([^"]*)"'
)


def build(project: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a project into a folder, as `make site` does."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site of this project."""
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_in_it_where_the_repository_has_it(built: Path) -> None:
    wanted = {page.relative_to(ROOT).with_suffix(".html") for page in pages()}
    wanted = {page.with_name("index.html") if page.name == "README.html" else page for page in wanted}
    assert wanted <= {page.relative_to(built) for page in built.rglob("*.html")}


def test_it_takes_nothing_from_another_server(built: Path) -> None:
    for page in built.rglob("*.html"):
        fetched = ["".join(found) for found in FETCHED.findall(page.read_text(encoding="utf-8"))]
        assert fetched
        assert [each for each in fetched if "//" in each] == [], page
    for style in built.rglob("*.css"):
        assert "url(http" not in style.read_text(encoding="utf-8"), style


def test_a_configuration_is_shown_and_not_saved(built: Path) -> None:
    assert (built / "kamailio/nsq.cfg.txt").read_bytes() == (ROOT / "kamailio/nsq.cfg").read_bytes()
    assert "kamailio/nsq-presence.cfg.txt" in (built / "UPGRADING.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[a](docs/no-such-page.md)", "docs/no-such-page.md"),
        ("[a](docs/quickstart.md#no-such-heading)", "no-such-heading"),
        ("[a](docs/)", "docs/"),
    ],
)
def test_a_link_that_leads_nowhere_fails(tmp_path: Path, text: str, complaint: str) -> None:
    broken = small_project(tmp_path)
    (broken / "README.md").write_text(f"# kemi-nsq\n\n{text}\n", encoding="utf-8")
    done = build(broken, tmp_path / "site")
    assert done.returncode != 0
    assert f"'{complaint}'" in done.stderr or f"#{complaint}'" in done.stderr, done.stderr


def small_project(folder: Path) -> Path:
    """Make a project of two pages with this project's settings, hook and layout."""
    project = folder / "project"
    (project / site_layout.RECORDS).mkdir(parents=True)
    (project / site_layout.RECORDS / "README.md").write_text("# Decisions\n", encoding="utf-8")
    (project / "docs/quickstart.md").write_text("# Quick start\n", encoding="utf-8")
    (project / "tests/support").mkdir(parents=True)
    shutil.copy(ROOT / "tests/support/site_layout.py", project / "tests/support")
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    nav = "nav:\n  - Start:\n      - README.md\n      - docs/quickstart.md\n"
    (project / "mkdocs.yml").write_text(settings.partition("nav:\n")[0] + nav, encoding="utf-8")
    return project
