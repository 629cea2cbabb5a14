# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads the rows with one of many keys, by the index, on each database.

With `IN` and a list SQLite reads the whole table, and so does PostgreSQL before it has statistics of the table. There
the keys come as one JSON text, which is joined: one statement for any number of keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import orjson
import sqlalchemy as sa

#: Takes a connection and keys, and returns the rows that have one of them, each as its columns.
Lookup: TypeAlias = Callable[[sa.Connection, Sequence[tuple[str, ...]]], Iterable[Sequence[Any]]]


def lookup(backend: str, key: Sequence[sa.Column[Any]], *wanted: sa.Column[Any], locked: bool = False) -> Lookup:
    """Prepare a read of one table.

    Args:
        backend: SQLAlchemy's name of the database: `sqlite`, `postgresql` or `mysql`.
        key: the columns that a key gives values for; those of an index, or some of its first.
        wanted: further columns to return, after those of the key.
        locked: read with the rows locked, in the order of their keys.
    """
    expand = _EXPANSIONS.get(backend)
    statement = sa.select(*key, *wanted)
    if expand is None:  # MySQL and MariaDB look each key of a list up in the index
        statement = statement.where(sa.tuple_(*key).in_(sa.bindparam("keys", expanding=True)))
    else:
        statement = statement.join_from(key[0].table, *expand(sa.bindparam("keys", type_=sa.String), key))
    if locked:
        statement = statement.order_by(*key).with_for_update()

    def read(connection: sa.Connection, keys: Sequence[tuple[str, ...]]) -> Iterable[Sequence[Any]]:
        return connection.execute(statement, {"keys": keys if expand is None else orjson.dumps(keys).decode()})

    return read


Expansion: TypeAlias = tuple[sa.TableValuedAlias, sa.ColumnElement[bool]]


def _sqlite(keys: sa.BindParameter[str], key: Sequence[sa.Column[Any]]) -> Expansion:
    given = sa.func.json_each(keys).table_valued("value", name="given")
    parts = (sa.func.json_extract(given.c.value, f"$[{index}]") for index in range(len(key)))
    return given, sa.and_(*(column == part for column, part in zip(key, parts, strict=True)))


def _postgresql(keys: sa.BindParameter[str], key: Sequence[sa.Column[Any]]) -> Expansion:
    given = sa.func.json_array_elements(sa.cast(keys, sa.JSON)).table_valued("value", name="given")
    parts = (given.c.value.op("->>")(sa.literal_column(str(index))) for index in range(len(key)))
    return given, sa.and_(*(column == part for column, part in zip(key, parts, strict=True)))


_EXPANSIONS: Mapping[str, Callable[[sa.BindParameter[str], Sequence[sa.Column[Any]]], Expansion]] = {
    "sqlite": _sqlite,
    "postgresql": _postgresql,
}
