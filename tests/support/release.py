# SPDX-License-Identifier: GPL-2.0-or-later
"""`make release VERSION=X.Y.Z`: refuse what is not ready, build all of a release into dist/, tag it; upload nothing.

dist/ then has the packages of `make deb`, the sdist, the wheel that was built from it, a bill of materials (CycloneDX)
of the locked requirements, and SHA256SUMS. Times in them are those of the commit, so the same commit gives the same
files. The tag comes last: where a step fails there is none.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"
CHECKSUMS = "SHA256SUMS"


def problems(version: str) -> Iterator[str]:
    """Yield a line for each reason why this version cannot be released."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    if project["version"] != version:
        yield f"pyproject.toml has version {project['version']}, not {version}; write the same in both places"
    if changed := _git("status", "--porcelain"):
        yield f"the tree has changes that are not committed; commit or remove them:\n{changed}"
    if not changes(version):
        yield f"CHANGELOG.md says nothing below a line `## [{version}] - YYYY-MM-DD`; write what is new, and the date"
    if unreleased := _section(r"\[Unreleased\]"):
        yield f"CHANGELOG.md has changes below Unreleased; move them below {version}:\n{unreleased}"
    if _git("tag", "--list", tag(version)):
        yield f"the tag {tag(version)} exists; a version is released once"


def changes(version: str) -> str:
    """Return what CHANGELOG.md says of a version; nothing where it has no dated section."""
    return _section(rf"\[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d")


def tag(version: str) -> str:
    """Name the tag of a version."""
    return f"v{version}"


def build(version: str, *, debs: bool) -> None:
    """Make dist/ anew, with all files of the release.

    Args:
        version: that of pyproject.toml.
        debs: whether `make deb` makes Debian packages, which takes minutes.

    Raises:
        CalledProcessError: a step failed.
    """
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    if debs:
        _run("make", "deb")
    # Without --sdist and --wheel the wheel is made from the sdist, so that is known to be complete.
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(DIST))
    # -W: it warns that a list of requirements does not say who needs whom.
    bill = ["--pyproject", "pyproject.toml", "--output-reproducible"]
    bill += ["--output-file", str(DIST / f"kemi-nsq-{version}.cdx.json")]
    _run(sys.executable, "-W", "ignore", "-m", "cyclonedx_py", "requirements", "requirements.lock", *bill)
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(DIST.iterdir())}
    (DIST / CHECKSUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()), encoding="utf-8")


def main() -> int:
    """Release the version of the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="make release", description="Build a release into dist/ and tag it.")
    parser.add_argument("version", type=_version, help="such as 0.1.0")
    parser.add_argument("--without-debs", action="store_true", help="leave out what `make deb` makes")
    arguments = parser.parse_args()
    version: str = arguments.version
    if found := list(problems(version)):
        print(*(f"release: {problem}" for problem in found), sep="\n", file=sys.stderr)
        return 1
    try:
        build(version, debs=not arguments.without_debs)
    except subprocess.CalledProcessError as error:
        print(f"release: no tag was made, because this failed: {' '.join(error.cmd)}", file=sys.stderr)
        return 1
    # verbatim: git would take the headings of the changelog for comments.
    message = f"kemi-nsq {version}\n\n{changes(version)}\n"
    _git("tag", "--annotate", "--cleanup=verbatim", "--message", message, tag(version))
    print(f"release: {tag(version)} is tagged, its files are in {DIST}; nothing was uploaded")
    return 0


def _version(text: str) -> str:
    if not re.fullmatch(r"\d+\.\d+\.\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no version; write VERSION=0.1.0, say")
    return text


def _section(heading: str) -> str:
    """Return what stands in CHANGELOG.md between a heading of the second level and the next one."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else ""


def _git(*arguments: str) -> str:
    return subprocess.check_output(["git", *arguments], cwd=ROOT, text=True).rstrip()


def _run(*command: str) -> None:
    environment = os.environ | {"SOURCE_DATE_EPOCH": _git("log", "--max-count=1", "--format=%ct")}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


if __name__ == "__main__":
    sys.exit(main())
