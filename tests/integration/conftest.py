# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the integration tests: the three databases, and the end of what a test left open."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.support.tables import (
    database,
    mariadb_database,
    postgresql_database,
    server_database,
    sqlite_database,
    table,
)

__all__ = [
    "database",
    "mariadb_database",
    "postgresql_database",
    "server_database",
    "sqlite_database",
    "table",
]


@pytest.fixture
def closed() -> Iterator[None]:
    """Close what a test opened, before its warnings are those of another test."""
    yield
    gc.collect()
