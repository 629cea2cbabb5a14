# SPDX-License-Identifier: GPL-2.0-or-later
"""Kamailio's SQLite database, made from the schema that Kamailio ships."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

#: Kamailio's share folder: of Debian's packages, of a build from source.
SHARE_FOLDERS = (Path("/usr/share/kamailio"), Path("/usr/local/share/kamailio"))
SCHEMAS = ("standard-create.sql", "presence-create.sql")

#: How long to wait for a lock that Kamailio or the package holds.
BUSY_TIMEOUT_S = 5.0


def create_database(path: Path) -> Path:
    """Make an empty database with Kamailio's standard and presence tables, in WAL mode, and return its path.

    Raises:
        FileNotFoundError: Kamailio's SQLite schema is not installed.
    """
    with closing(sqlite3.connect(path)) as database:
        # Readers and a writer at once; in the default mode Kamailio fails with "database is locked" under load.
        database.execute("PRAGMA journal_mode=WAL")
        for name in SCHEMAS:
            database.executescript(share_folder("db_sqlite").joinpath(name).read_text(encoding="utf-8"))
    return path


def rows(path: Path, event: str | None = None) -> list[dict[str, str | int | bytes | None]]:
    """Read the presentity table, oldest row first.

    Args:
        path: the database.
        event: only the rows of this event package.
    """
    with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)) as database:
        database.row_factory = sqlite3.Row
        found = database.execute(
            "SELECT * FROM presentity WHERE :event IS NULL OR event = :event ORDER BY id", {"event": event}
        )
        return [dict(row) for row in found]


def share_folder(dialect: str) -> Path:
    """Return the folder of Kamailio's schema for a database: `db_sqlite`, `mysql` or `postgres`."""
    for share in SHARE_FOLDERS:
        if (share / dialect).is_dir():
            return share / dialect
    raise FileNotFoundError(f"no {dialect} in {' or '.join(map(str, SHARE_FOLDERS))}: run `make setup`")
