# SPDX-License-Identifier: GPL-2.0-or-later
"""A presentity table for tests that need no Kamailio: the columns and indexes of its schema, version 5."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

#: As `presence-create.sql` of Kamailio's SQLite schema; an acceptance test uses the real one.
_DDL = """
CREATE TABLE presentity (
    id INTEGER PRIMARY KEY NOT NULL,
    username VARCHAR(64) NOT NULL,
    domain VARCHAR(64) NOT NULL,
    event VARCHAR(64) NOT NULL,
    etag VARCHAR(128) NOT NULL,
    expires INTEGER NOT NULL,
    received_time INTEGER NOT NULL,
    body BLOB NOT NULL,
    sender VARCHAR(255) NOT NULL,
    priority INTEGER DEFAULT 0 NOT NULL,
    ruid VARCHAR(64),
    CONSTRAINT presentity_presentity_idx UNIQUE (username, domain, event, etag),
    CONSTRAINT presentity_ruid_idx UNIQUE (ruid)
);
"""


def create_presentity_table(path: Path) -> Path:
    """Make a database with an empty presentity table and return its path."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")  # as at each start of Kamailio
        database.executescript(_DDL)
    return path
