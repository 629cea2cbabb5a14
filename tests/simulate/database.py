# SPDX-License-Identifier: GPL-2.0-or-later
"""The real SQLite database of a simulated world: a fresh file, and who is asked before each statement and commit.

SQLAlchemy tells what every engine does. The process whose main thread runs is asked, and may die, wait or fail there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

from tests.support.database import create_database

DATABASE, _TEMPLATE = "kamailio.db", "template.db"


class Client(Protocol):
    """A process that uses the database."""

    in_transaction: bool

    def statement(self, point: str) -> None:
        """Be about to do something; raises what SQLAlchemy raises if that fails."""

    def commit(self, connection: sa.Connection) -> None:
        """Be about to commit, likewise."""


class World(Protocol):
    """Who knows which process it is."""

    @property
    def running(self) -> Client | None:
        """The process whose main thread runs."""


def fresh_database(folder: Path) -> Path:
    """Leave nothing in a folder but an empty database, made once from Kamailio's schema; return its path."""
    template = folder / _TEMPLATE
    if not template.exists():
        create_database(template)
    for path in folder.iterdir():
        if path != template:
            path.unlink()
    path = folder / DATABASE
    path.write_bytes(template.read_bytes())
    return path


_AT_WORK: list[World] = []


def at_work(world: World | None) -> None:
    """Say whose database is used from now on."""
    _AT_WORK[:] = [world] if world else []


def _running() -> Client | None:
    return _AT_WORK[0].running if _AT_WORK else None


def _before_statement(_connection: sa.Connection, *_: Any) -> None:
    if process := _running():
        process.statement("statement")


def _begun(_connection: sa.Connection) -> None:
    if process := _running():
        process.in_transaction = True


def _before_commit(connection: sa.Connection) -> None:
    if process := _running():
        process.commit(connection)
        process.in_transaction = False


def _rolled_back(_connection: sa.Connection) -> None:
    if process := _running():
        process.in_transaction = False


sa.event.listen(sa.Engine, "before_cursor_execute", _before_statement)
sa.event.listen(sa.Engine, "begin", _begun)
sa.event.listen(sa.Engine, "commit", _before_commit)
sa.event.listen(sa.Engine, "rollback", _rolled_back)
