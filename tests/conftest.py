# SPDX-License-Identifier: GPL-2.0-or-later
"""The three tiers of tests, and their rule: a server that a test needs and cannot find is a failure, no skip.

A test's tier is its folder. `make setup` installs what the tiers need.
"""

from __future__ import annotations

import gc
import os
import shutil
import warnings
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest
from coverage import Coverage

from tests.support.groups import make_scheduler as pytest_xdist_make_scheduler

__all__ = ["pytest_xdist_make_scheduler"]

HERE = Path(__file__).parent

#: Tier, which is folder and marker, to the commands that its tests start.
COMMANDS: dict[str, tuple[str, ...]] = {
    "unit": (),
    "integration": ("nsqd", "nsqlookupd"),
    "acceptance": ("nsqd", "nsqlookupd", "kamailio", "sipp"),
}

# How long an example takes is a matter of what else the machine does.
hypothesis.settings.register_profile("busy", deadline=None)


def pytest_configure() -> None:
    """Find the servers where `make setup` puts them, also when pytest is started by hand."""
    hypothesis.settings.load_profile("busy")
    # At the end, so that an nsqd of the machine comes first. Debian's Kamailio is in an sbin folder.
    os.environ["PATH"] = os.pathsep.join((os.environ["PATH"], str(HERE.parent / ".tools/bin"), "/usr/sbin", "/sbin"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its tier."""
    for item in items:
        item.add_marker(tier_of(item.path))


def pytest_sessionfinish() -> None:
    """Write what coverage has measured here: a worker of pytest-xdist may be killed while it ends."""
    measured = Coverage.current()
    if measured is not None:
        measured.stop()
        measured.save()


def tier_of(path: Path) -> str:
    """Return the tier of a test file.

    Raises:
        pytest.UsageError: the file is in the folder of no tier, so no `make` target would run it.
    """
    tier = path.relative_to(HERE).parts[0]
    if tier not in COMMANDS:
        raise pytest.UsageError(f"{path}: a test belongs in one of the folders {', '.join(COMMANDS)} of tests/")
    return tier


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test whose tier needs a command that is not there."""
    missing = [name for name in COMMANDS[tier_of(item.path)] if shutil.which(name) is None]
    if missing:
        pytest.fail(f"not on PATH: {', '.join(missing)}; `make setup` installs it", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Close what a test left open that may leave something open, before its warnings are those of another test."""
    ran = yield
    if any(mark.args[0].startswith("ignore:unclosed") for mark in item.iter_markers("filterwarnings")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.unfreeze()  # a consumer froze what it found
            gc.collect()
    return ran


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure in the tiers that need servers: what is skipped proves nothing."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and COMMANDS[tier_of(item.path)]:
        report.outcome = "failed"
        report.longrepr = f"skipped, which this tier does not allow: {report.longreprtext or report.longrepr}"
    return report
