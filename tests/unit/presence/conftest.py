# SPDX-License-Identifier: GPL-2.0-or-later
"""The presentity table of the presence tests, in a file of each test's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kemi_nsq.presence.table import PresentityTable
from tests.support.presentity_table import create_presentity_table


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a database with an empty presentity table."""
    return create_presentity_table(tmp_path / "kamailio.db")


@pytest.fixture
def table(path: Path) -> Iterator[PresentityTable]:
    """Return the table in it."""
    with closing(PresentityTable(f"sqlite+pysqlite:///{path}", "presentity")) as made:
        yield made
