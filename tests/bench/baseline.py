# SPDX-License-Identifier: GPL-2.0-or-later
"""The baseline of the updates: rows by a plain driver, each in one statement that is durable when it returns."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Protocol
from urllib.parse import urlsplit

import psycopg
import pymysql

from kemi_nsq.presence.row import Row

_KEY = ("username", "domain", "event", "etag")
_CHANGED = ("expires", "received_time", "body", "sender", "priority", "ruid")
_COLUMNS = _KEY + _CHANGED
_FULL = 2  # PRAGMA synchronous


class _Cursor(Protocol):
    def execute(self, statement: str, values: Sequence[object], /) -> object: ...


def plain_rate(kamailio_url: str, rows: Sequence[Row]) -> float:
    """Write rows one by one; return rows/s."""
    values = [tuple(getattr(row, name) for name in _COLUMNS) for row in rows]
    return _WRITERS[urlsplit(kamailio_url).scheme](kamailio_url, values)


def _sqlite(url: str, values: Sequence[Sequence[object]]) -> float:
    with closing(sqlite3.connect(url.removeprefix("sqlite://"), isolation_level=None)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (_FULL,)
        return _timed(connection.cursor(), _statement("?", "ON CONFLICT ({}) DO UPDATE SET", "excluded.{}"), values)


def _postgresql(url: str, values: Sequence[Sequence[object]]) -> float:
    with psycopg.connect(url.replace("postgres:", "postgresql:"), autocommit=True) as connection:
        statement = _statement("%s", "ON CONFLICT ({}) DO UPDATE SET", "excluded.{}")
        return _timed(connection.cursor(), statement, values)


def _mysql(url: str, values: Sequence[Sequence[object]]) -> float:
    where = urlsplit(url)
    options = {"host": where.hostname, "port": where.port, "user": where.username, "database": where.path.strip("/")}
    with closing(pymysql.connect(**options, autocommit=True)) as connection:
        return _timed(connection.cursor(), _statement("%s", "ON DUPLICATE KEY UPDATE", "VALUES({})"), values)


_WRITERS: dict[str, Callable[[str, Sequence[Sequence[object]]], float]] = {
    "sqlite": _sqlite,
    "postgres": _postgresql,
    "mysql": _mysql,
}


def _statement(mark: str, conflict: str, new: str) -> str:
    changes = ", ".join(f"{name} = {new.format(name)}" for name in _CHANGED)
    marks = ", ".join([mark] * len(_COLUMNS))
    columns = ", ".join(_COLUMNS)
    return f"INSERT INTO presentity ({columns}) VALUES ({marks}) {conflict.format(', '.join(_KEY))} {changes}"


def _timed(cursor: _Cursor, statement: str, values: Sequence[Sequence[object]]) -> float:
    started = time.perf_counter()
    for each in values:
        cursor.execute(statement, each)
    return len(values) / (time.perf_counter() - started)
