# SPDX-License-Identifier: GPL-2.0-or-later
"""The statements that each database wants in its own way: a read of many keys, and the conditional upsert.

A read must go by the index. With `IN` and a list SQLite reads the whole table, and so does PostgreSQL before it has
statistics of the table. There the keys come as one JSON text, which is joined: one statement for any number of keys.
MySQL and MariaDB look each key of a list up in the index, and go by none when they join JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias, TypeVar

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.sql.compiler import SQLCompiler

from kemi_nsq.presence.change import Crowd, Who
from kemi_nsq.presence.row import (
    OVER_RANKS,
    RANK_INDEX,
    RUID_LENGTH,
    SEATED,
    WAITING,
    WAITING_OFFSET,
    Row,
    reset_key,
)

#: Columns of the presentity table: those of its key, and those that an update changes.
KEY = ("username", "domain", "event", "etag")
# `ruid` last: MySQL assigns from left to right, and the condition reads it.
CHANGED = ("expires", "received_time", "body", "sender", "priority", "ruid")

#: More than a page of any of the databases (16 KB); no more than the column takes.
_TRIAL_SIZE = 32 * 1024

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
    statement = _with_keys(backend, sa.select(*key, *wanted), key)
    execute = _EXECUTE[backend]
    if locked and backend != "sqlite":  # which has one lock, for all of the file
        # In the order in which rows are written, which is Python's. MySQL has another one for letters of both cases; if
        # two writers then wait for each other, one of them begins again.
        order = [sa.collate(column, "C") for column in key] if backend == "postgresql" else key
        statement = statement.order_by(*order).with_for_update()

    def read(connection: sa.Connection, keys: Sequence[tuple[str, ...]]) -> Iterable[Sequence[Any]]:
        return execute(connection, statement, keys, {})

    return read


def any_reset(table: sa.Table) -> sa.Select[Any]:
    """Return the statement that looks whether any sender's reset is remembered."""
    user, domain, event, _ = reset_key("")
    columns = table.c
    key = columns.username == user, columns.domain == domain, columns.event == event
    return sa.select(sa.literal_column("1")).where(*key).limit(1)


def crowds(backend: str, table: sa.Table) -> Callable[[sa.Connection, Iterable[Who], int], dict[Who, Crowd]]:
    """Prepare a count of dialogs: given presentities and an epoch second, what each has of them then."""
    shown = table.c.expires > sa.bindparam("now", type_=sa.Integer)
    ours = sa.and_(shown, is_ours(table))

    def total(condition: sa.ColumnElement[bool], value: Any = 1) -> sa.ColumnElement[int]:
        return sa.cast(sa.func.sum(sa.case((condition, value), else_=0)), sa.BigInteger)

    key = [table.c.username, table.c.domain, table.c.event]
    wanted = (
        total(ours),
        total(sa.and_(ours, is_over(table))),
        total(table.c.expires.between(*WAITING)),
        total(shown, sa.func.length(table.c.body)),
    )
    # Tombstones, of which there may be many, are left out before their bodies are looked at.
    statement = sa.select(table.c.username, table.c.domain, *wanted).where(table.c.expires >= WAITING[0])
    statement = _with_keys(backend, statement, key).group_by(table.c.username, table.c.domain)
    execute = _EXECUTE[backend]

    def named(user: str, domain: str) -> Who:
        # These compare without case: they count Alice and alice together, and name one of them.
        return (user.lower(), domain.lower()) if backend == "mysql" else (user, domain)

    def read(connection: sa.Connection, presentities: Iterable[Who], now: int) -> dict[Who, Crowd]:
        keys = [(user, domain, SEATED) for user, domain in sorted(presentities)]
        rows = execute(connection, statement, keys, {"now": now})
        found = {named(user, domain): Crowd(*counts) for user, domain, *counts in rows}
        return {(user, domain): found.get(named(user, domain), Crowd()) for user, domain, _ in keys}

    return read


class Seats(NamedTuple):
    """Ids of the live dialogs of a presentity: of those that are shown, and of those that wait, the oldest first."""

    shown: Sequence[int]
    waiting: Sequence[int]


def seats(table: sa.Table, *, exclusive: bool) -> Callable[[sa.Connection, Who, int], Seats]:
    """Prepare a look at our live dialogs of a presentity at an epoch second.

    Args:
        table: the presentity table.
        exclusive: let one transaction at a time look at a presentity; who comes second sees what the first has done.
    """
    columns = table.c
    named = (
        columns.username == sa.bindparam("user"),
        columns.domain == sa.bindparam("domain"),
        columns.event == SEATED,
    )
    # One row stands for all of them. Were all locked, this would wait for writers of single rows, and those for it. In
    # the order of the index, or MySQL would lock each row that it looks at.
    first = sa.select(columns.id).where(*named).order_by(columns.etag).limit(1).with_for_update()
    waits = columns.expires.between(*WAITING)
    seated = columns.expires > sa.bindparam("now", type_=sa.Integer)
    ours = is_ours(table), sa.not_(is_over(table))
    all_live = sa.select(columns.id, columns.expires).where(*named, *ours, sa.or_(waits, seated)).order_by(columns.id)

    def read(connection: sa.Connection, presentity: Who, now: int) -> Seats:
        user, domain = presentity
        if exclusive:
            connection.execute(first, {"user": user, "domain": domain})
        rows = connection.execute(all_live, {"user": user, "domain": domain, "now": now}).all()
        return Seats(
            [row_id for row_id, expires in rows if expires > 0], [row_id for row_id, expires in rows if expires <= 0]
        )

    return read


def turning(table: sa.Table) -> Callable[[sa.Connection, Sequence[int]], int]:
    """Prepare what turns waiting dialogs into shown ones and back, by their ids: that is the same subtraction.

    It returns how many it has turned.

    One that has ended since it was looked at is left alone.
    """
    expires = table.c.expires
    live = sa.or_(expires.between(*WAITING), sa.and_(expires > 0, sa.not_(is_over(table))))
    which = sa.and_(table.c.id.in_(sa.bindparam("ids", expanding=True)), live)
    statement = sa.update(table).where(which).values(expires=WAITING_OFFSET - table.c.expires)

    def turn(connection: sa.Connection, ids: Sequence[int]) -> int:
        return connection.execute(statement, {"ids": ids}).rowcount if ids else 0

    return turn


def is_ours(table: sa.Table) -> sa.ColumnElement[bool]:
    """Whether we have written a row: Kamailio's own ruids are shorter (core/utils/sruid.h, SRUID_SIZE)."""
    return sa.func.length(table.c.ruid) == RUID_LENGTH


def is_over(table: sa.Table) -> sa.ColumnElement[bool]:
    """Whether a row of ours is over: the rank in its order key says so."""
    rank = sa.func.substr(table.c.ruid, RANK_INDEX + 1, 1)
    return sa.or_(*(rank == each for each in OVER_RANKS))


def _with_keys(backend: str, statement: sa.Select[Any], key: Sequence[sa.Column[Any]]) -> sa.Select[Any]:
    """Let a statement read the rows that have one of the keys that `_EXECUTE` is given."""
    expand = _EXPANSIONS.get(backend)
    if expand is None:
        return statement.where(sa.tuple_(*key).op("IN")(sa.literal_column(_LIST)))
    return statement.join_from(key[0].table, *expand(sa.bindparam("keys", type_=sa.String), key))


#: Takes a connection, a statement of `_with_keys`, its keys, and its other parameters.
Execute: TypeAlias = Callable[
    [sa.Connection, sa.Select[Any], Sequence[tuple[str, ...]], Mapping[str, object]], Sequence[Sequence[Any]]
]


def _execute_json(
    connection: sa.Connection, statement: sa.Select[Any], keys: Sequence[tuple[str, ...]], more: Mapping[str, object]
) -> Sequence[Sequence[Any]]:
    return connection.execute(statement, {**more, "keys": orjson.dumps(keys).decode()}).all()


#: Of a parameter, in MySQL's paramstyle `format` (`database`).
_MARK = "%s"
#: Stands in the text of a statement where the list of keys does.
_LIST = "(:list of keys:)"


class _Text(NamedTuple):
    """The text of a statement around its list of keys, the names of its other parameters, and their values so far."""

    before: str
    after: str
    names_before: Sequence[str]
    names_after: Sequence[str]
    values: Mapping[str, object]


@lru_cache
def _text_of(statement: sa.Select[Any], dialect: sa.Dialect) -> _Text:
    compiled = statement.compile(dialect=dialect)
    assert isinstance(compiled, SQLCompiler)
    before, _, after = str(compiled).partition(_LIST)
    names, place = compiled.positiontup or [], before.count(_MARK)
    return _Text(before, after, names[:place], names[place:], {name: compiled.binds[name].value for name in names})


def _execute_list(
    connection: sa.Connection, statement: sa.Select[Any], keys: Sequence[tuple[str, ...]], more: Mapping[str, object]
) -> Sequence[Sequence[Any]]:
    """Write the list of keys into the text; a read took half as long again in SQLAlchemy's own way."""
    if not keys:
        return []
    text = _text_of(statement, connection.dialect)
    values = {**text.values, **more}
    marks = f"({', '.join([_MARK] * len(keys[0]))})"
    parameters = (
        *(values[name] for name in text.names_before),
        *chain.from_iterable(keys),
        *(values[name] for name in text.names_after),
    )
    written = f"{text.before}({', '.join([marks] * len(keys))}){text.after}"
    return connection.exec_driver_sql(written, parameters).all()


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

_EXECUTE: Mapping[str, Execute] = {"sqlite": _execute_json, "postgresql": _execute_json, "mysql": _execute_list}


def trial_row(entropy: Callable[[int], bytes]) -> dict[str, object]:
    """Make a row that nobody sees: `expires` is negative, and by the length of its `ruid` it is none of ours.

    Its body is larger than a page and cannot be compressed, so that a full disk has no room for it.
    """
    name = f"kemi-nsq-trial-{entropy(8).hex()}"
    key = {"username": "kemi-nsq-trial", "domain": "invalid", "event": "dialog", "etag": name}
    changed = {"expires": -2, "received_time": 0, "body": entropy(_TRIAL_SIZE), "sender": "", "priority": 0}
    return {**key, **changed, "ruid": name}


class Write(NamedTuple):
    """A statement as the driver takes it.

    Attributes:
        sql: its text.
        pick: picks the values of a row, in the order of the statement's parameters.
        by_column: it takes the values of all rows at once, a list for each column; else those of each row.
    """

    sql: str
    pick: Callable[[Row], tuple[object, ...]]
    by_column: bool = False


def upsert(table: sa.Table, dialect: sa.Dialect) -> Write:
    """Prepare the conditional upsert; SQLAlchemy would look at each value of each row before the driver does.

    Args:
        table: the presentity table.
        dialect: of a connection: it knows the version of the server.
    """
    statement, by_column = _UPSERTS[dialect.name]
    compiled = statement(table).compile(dialect=dialect)
    assert isinstance(compiled, SQLCompiler)
    # %b: as text, psycopg would quote each element of the arrays, which takes longer than the arrays save.
    sql = str(compiled).replace("%s", "%b") if by_column else str(compiled)
    return Write(sql, attrgetter(*(compiled.positiontup or ())), by_column)


# One statement decides and writes, so that two consumers cannot both think they are first.


def _sqlite_upsert(table: sa.Table) -> sa.Insert:
    return _unless_later(sqlite.insert(table).values(_parameters()), table)


def _postgresql_upsert(table: sa.Table) -> sa.Insert:
    """All rows in one statement, a column an array: row by row the server would be busy for half as long again."""
    columns = [table.c[name] for name in KEY + CHANGED]
    arrays = (sa.bindparam(column.name, type_=postgresql.ARRAY(column.type)) for column in columns)
    given = sa.func.unnest(*arrays).table_valued(*KEY, *CHANGED).render_derived(name="given")
    return _unless_later(postgresql.insert(table).from_select(columns, sa.select(given)), table)


Conflicting = TypeVar("Conflicting", sqlite.Insert, postgresql.Insert)


def _unless_later(statement: Conflicting, table: sa.Table) -> Conflicting:
    return statement.on_conflict_do_update(
        index_elements=list(KEY),
        set_={name: statement.excluded[name] for name in CHANGED},
        where=sa.or_(table.c.ruid.is_(None), table.c.ruid < statement.excluded.ruid),
    )


def _mysql_upsert(table: sa.Table) -> sa.Insert:
    """MySQL has no condition on the update: each column keeps its value unless the new row is later."""
    statement = mysql.insert(table).values(_parameters())
    later = sa.or_(table.c.ruid.is_(None), table.c.ruid < statement.inserted.ruid)
    changes = [(name, sa.func.if_(later, statement.inserted[name], table.c[name])) for name in CHANGED]
    return statement.on_duplicate_key_update(changes)


#: SQLAlchemy's name of a database to its statement, and whether that takes columns.
_UPSERTS: Mapping[str, tuple[Callable[[sa.Table], sa.Insert], bool]] = {
    "sqlite": (_sqlite_upsert, False),
    "postgresql": (_postgresql_upsert, True),
    "mysql": (_mysql_upsert, False),
}


def _parameters() -> dict[str, sa.BindParameter[object]]:
    return {name: sa.bindparam(name) for name in KEY + CHANGED}
