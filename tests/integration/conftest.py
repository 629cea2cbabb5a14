# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures of the integration tests: the three databases."""

from __future__ import annotations

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
