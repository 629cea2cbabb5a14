# SPDX-License-Identifier: GPL-2.0-or-later
"""A chain on each of the databases that Kamailio and the package share: SQLite, PostgreSQL, MariaDB."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from tests.support import sqlservers
from tests.support.chain import Chain
from tests.support.database import BUSY_TIMEOUT_S
from tests.support.kamailio import quoted

Execute = Callable[[str], list[tuple[object, ...]]]

#: Database to the server that has it, and to what the shipped configurations want defined for it.
SERVERS: Mapping[str, tuple[Callable[[], AbstractContextManager[sqlservers.SqlServer]], str]] = {
    "postgresql": (sqlservers.postgresql, "SIP_DB_POSTGRES"),
    "mariadb": (sqlservers.mariadb, "SIP_DB_MYSQL"),
}
DATABASES = ("sqlite", *SERVERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredChain:
    """A running chain and its database.

    Attributes:
        chain: the chain.
        execute: runs an SQL statement and returns its rows.
        silence: freezes the database's server while its context lasts; SQLite has none.
    """

    chain: Chain
    execute: Execute
    silence: Callable[[], AbstractContextManager[None]] = nullcontext

    def rows(self, user: str) -> list[tuple[str, str]]:
        """Return package and document of each presentity row of a user, oldest row first."""
        found = self.execute(f"SELECT event, body FROM presentity WHERE username = '{user}' ORDER BY id")
        return [(str(event), _text(body)) for event, body in found]

    def count(self, condition: str) -> int:
        """Return how many presentity rows meet a condition."""
        return int(str(self.execute(f"SELECT count(*) FROM presentity WHERE {condition}")[0][0]))


@contextmanager
def stored_chain(
    database: str, folder: Path, *, config: Path | None = None, **defines: str | int
) -> Iterator[StoredChain]:
    """Run a chain with the shipped native configuration on a database.

    Args:
        database: one of `DATABASES`.
        folder: where logs and data go.
        config: a configuration instead of the shipped one.
        defines: values for `#!define`.
    """
    if database == "sqlite":
        with Chain("native", folder, config=config, defines=defines) as chain:
            yield StoredChain(chain=chain, execute=sqlite_execute(chain.database))
        return
    start, define = SERVERS[database]
    with start() as server:
        made: dict[str, str | int] = {define: 1, "NSQ_DB_URL": quoted(server.kamailio_url), **defines}
        with Chain("native", folder, config=config, defines=made) as chain:
            yield StoredChain(chain=chain, execute=server.execute, silence=server.silence)


def sqlite_execute(path: Path) -> Execute:
    """Return what runs a statement in an SQLite file."""

    def execute(sql: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)) as connection, connection:
            return connection.execute(sql).fetchall()

    return execute


def _text(body: object) -> str:
    return body.decode() if isinstance(body, bytes) else str(body)
