# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of the database: whether it answers, its tables and their versions, letters, rights, and SQLite's journal.

Nothing is changed, in no case: an SQLite file is opened to be read, and a server is given statements that meet no row.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from kemi_nsq.clock import SYSTEM
from kemi_nsq.configuration.finding import CannotLook, Check, DoesNotApply, Finding, Grade
from kemi_nsq.errors import NsqError
from kemi_nsq.presence.database import Database
from kemi_nsq.tools import files
from kemi_nsq.tools.doctor.scene import Scene

_TIMEOUT_S = 3.0
#: Bytes of an SQLite file's header that say which versions write and read it: 2 is WAL (sqlite.org/fileformat.html).
_WAL_AT, _WAL = slice(18, 20), b"\x02\x02"
_MAGIC = b"SQLite format 3\0"
_HEAD_BYTES = 20
#: What presence checks as it starts (presence.c, `mod_init`); the same from 5.6 to 6.1.
_VERSIONS = (("presentity", 5), ("active_watchers", 12), ("watchers", 3))
_KEY = {"username", "domain", "event", "etag"}
_SCHEMA = "load Kamailio's tables: kemi-nsq files sql/sqlite.sql says where they are, and those for servers beside it"
#: SQLite's words for a file, or for its -wal and -shm, that we may not open (sqlite.org/rescode.html).
_CLOSED = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
_PRIMARY = 0xFF
#: Statements that need a right and change nothing.
_WRITES = (
    ("INSERT", "INSERT INTO {0} SELECT * FROM {0} WHERE 1 = 0"),
    ("UPDATE", "UPDATE {0} SET expires = expires WHERE 1 = 0"),
    ("DELETE", "DELETE FROM {0} WHERE 1 = 0"),
)
_UNIQUE = {
    "mysql": "SELECT index_name, column_name FROM information_schema.statistics WHERE non_unique = 0 "
    "AND table_schema = DATABASE() AND table_name = '{0}'",
    "postgresql": "SELECT i.indexrelid, a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid "
    "AND a.attnum = ANY(i.indkey) WHERE i.indisunique AND i.indrelid = '{0}'::regclass",
    "sqlite": "SELECT l.name, c.name FROM pragma_index_list('{0}') l, pragma_index_info(l.name) c WHERE l.\"unique\"",
}
#: Names of this machine for a database that is here as well.
_HERE = {"127.0.0.1": "localhost", "::1": "localhost"}
#: From where the database is used now, as far as its user may see that; MySQL has the port behind it.
_CLIENTS = {
    "mysql": "SELECT DISTINCT REGEXP_REPLACE(host, ':[0-9]+$', '') FROM information_schema.processlist "
    "WHERE db = DATABASE()",
    "postgresql": "SELECT DISTINCT coalesce(host(client_addr), 'localhost') FROM pg_stat_activity "
    "WHERE datname = current_database() AND backend_type = 'client backend'",
}


def _url(scene: Scene) -> str:
    if scene.settings.db_url is None:
        raise DoesNotApply("NSQ_DB_URL is not set")
    return scene.settings.db_url


def _backend(url: str) -> str:
    kind = url.partition(":")[0].partition("+")[0]
    return {"postgres": "postgresql"}.get(kind, kind)


def _anything(scene: Scene) -> str:
    """Return a statement that every database answers. SQLite does not look into its file for a number."""
    return "SELECT 1" if scene.database_file is None else "SELECT 1 FROM sqlite_master"


def _select(scene: Scene, sql: str) -> Sequence[Sequence[object]]:
    """Return the rows of a statement.

    Raises:
        CannotLook: the database does not answer, or refuses it; its text says why.
        PermissionError: we may not read its file.
    """
    path = scene.database_file
    if path is not None:
        try:
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=_TIMEOUT_S)) as file:
                return file.execute(sql).fetchall()
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & _PRIMARY in _CLOSED and not _may_open(path):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path)) from None
            raise CannotLook(str(error)) from None
    server = Database(_url(scene), _TIMEOUT_S, SYSTEM, lambda _line: None)
    try:
        found = server.run(lambda connection: _rows(connection.exec_driver_sql(sql)))
    except NsqError as error:
        raise CannotLook(str(error)) from None
    finally:
        server.close()
    return found


def _may_open(path: Path) -> bool:
    """Whether we may read an SQLite file, and make the files beside it that a file in WAL mode is read with."""
    return os.access(path, os.R_OK) and os.access(path.parent, os.W_OK | os.X_OK)


def _rows(result: object) -> Sequence[Sequence[object]]:
    returned: Sequence[Sequence[object]] = result.all() if result.returns_rows else []  # type: ignore[attr-defined]
    return returned


def answers(scene: Scene) -> Iterator[Finding]:
    """Ask the database for anything."""
    _url(scene)
    path = scene.database_file
    if path is not None and not path.exists():
        reason = f"NSQ_DB_URL: there is no file {path}"
        make = f'umask 027; sqlite3 {path} ".read {files.path_of("sql/sqlite.sql")}"'
        mend = f"sudo -u {scene.user.name} sh -c '{make}'"
        # It holds the file that was deleted open, and neither reads nor writes the new one.
        yield Finding(Grade.ERROR, reason, f"{mend}; then restart Kamailio" if scene.running else mend)
        return
    if path is not None and _is_garbage(path):
        reason = f"NSQ_DB_URL: {path} is no SQLite database"
        mend = "restore it, or move it away and make a new one (docs/quickstart.md); then restart Kamailio"
        yield Finding(Grade.ERROR, reason, mend)
        return
    try:
        _select(scene, _anything(scene))
    except CannotLook as error:
        reason = f"NSQ_DB_URL: the database does not answer: {error}"
        mend = "start it, or correct host, port, user and password of NSQ_DB_URL"
        if path is not None:
            mend = f"let {path} be a file that may be read; if it is damaged, restore it and restart Kamailio"
        yield Finding(Grade.ERROR, reason, mend)


def _head(path: Path) -> bytes:
    """Return the first bytes of a file; raises CannotLook."""
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError as error:
        raise CannotLook(f"{path}: {error.strerror}") from None


def _is_garbage(path: Path) -> bool:
    """Whether a file that can be read is no SQLite database. An empty one is: without tables."""
    try:
        head = _head(path)
    except CannotLook:
        return False
    return bool(head) and not head.startswith(_MAGIC)


def _asked(scene: Scene, sql: str) -> Sequence[Sequence[object]]:
    """Return the rows of a statement; a database that does not answer at all has its own check."""
    _url(scene)
    if scene.database_file is not None and not scene.database_file.exists():
        raise CannotLook("there is no database")
    return _select(scene, sql)


def _tables(scene: Scene) -> list[str]:
    configuration = scene.text.configuration
    watchers = configuration.text("presence", "active_watchers_table", "active_watchers")
    return [scene.settings.presentity_table, watchers, configuration.text("presence", "watchers_table", "watchers")]


def tables(scene: Scene) -> Iterator[Finding]:
    """Look into each table of the presence module, and at the version that it has."""
    _asked(scene, _anything(scene))
    for table, (known, wanted) in zip(_tables(scene), _VERSIONS, strict=True):
        try:
            _asked(scene, f"SELECT 1 FROM {table} WHERE 1 = 0")
        except CannotLook as error:
            yield Finding(Grade.ERROR, f"the table {table} cannot be read: {error}", _SCHEMA)
            continue
        try:
            found = _asked(scene, f"SELECT table_version FROM version WHERE table_name = '{table}'")
        except CannotLook as error:
            yield Finding(Grade.ERROR, f"Kamailio's table of versions: {error}", _SCHEMA)
            return
        versions = [str(row[0]) for row in found]
        if versions != [str(wanted)]:
            reason = f"the table {table} has version {' and '.join(versions) or 'none'}, and Kamailio wants {wanted}"
            mend = f"load the schema of your release, or mend the row of {table} ({known}) in the table version"
            yield Finding(Grade.ERROR, f"{reason}: it does not start", mend)


def key(scene: Scene) -> Iterator[Finding]:
    """Look for the unique index by which one state is one row."""
    table = scene.settings.presentity_table
    found = _asked(scene, _UNIQUE[_backend(_url(scene))].format(table))
    indexes: dict[object, set[object]] = {}
    for index, column in found:
        indexes.setdefault(index, set()).add(column)
    if _KEY not in indexes.values():
        reason = f"the table {table} has no unique index on username, domain, event and etag: no state can be stored"
        columns = "username, domain, event, etag"
        yield Finding(Grade.ERROR, reason, f"CREATE UNIQUE INDEX presentity_presentity_idx ON {table} ({columns})")


def rights(scene: Scene) -> Iterator[Finding]:
    """Find a user of a database server that may not write."""
    _url(scene)
    if scene.database_file is not None:
        raise DoesNotApply("an SQLite file has no users; the check `database-file` looks at its mode")
    _asked(scene, _anything(scene))
    table = scene.settings.presentity_table
    for right, statement in _WRITES:
        try:
            _asked(scene, statement.format(table))
        except CannotLook as error:
            reason = f"the user of NSQ_DB_URL cannot {right} in {table}: {error}"
            yield Finding(Grade.ERROR, reason, f"GRANT {right} ON {table} to that user, or mend the server")
            return


def one_node(scene: Scene) -> Iterator[Finding]:
    """Find a second node where each keeps subscriptions in its memory: after a restart it would tell those of both."""
    url = _url(scene)
    if not scene.settings.subscriptions_in_memory:
        raise DoesNotApply("subscriptions are in the database")
    if scene.database_file is not None:
        raise DoesNotApply("an SQLite file belongs to one node")
    found = sorted({_HERE.get(str(row[0]), str(row[0])) for row in _asked(scene, _CLIENTS[_backend(url)])})
    if len(found) > 1:
        reason = f"the database is used from {' and '.join(found)}: with NSQ_SUBSCRIPTIONS_IN_MEMORY one node alone may"
        yield Finding(Grade.WARNING, reason, "a database for each node, or no NSQ_SUBSCRIPTIONS_IN_MEMORY")


def letters(scene: Scene) -> Iterator[Finding]:
    """Find tables that do not hold, or do not compare, the letters of names."""
    url = _url(scene)
    if _backend(url) == "postgresql":
        (row,) = _asked(scene, "SHOW server_encoding")
        if row[0] == "SQL_ASCII":
            yield Finding(
                Grade.WARNING,
                "the database has the encoding SQL_ASCII: letters beyond are not checked",
                "make it anew with UTF8",
            )
    elif _backend(url) == "mysql":
        names = ", ".join(f"'{table}'" for table in _tables(scene)[:2])
        sql = (
            "SELECT table_name, character_set_name, collation_name FROM information_schema.columns WHERE "
            f"table_schema = DATABASE() AND table_name IN ({names}) AND column_name IN ('username', 'presentity_uri')"
        )
        found = {row[0]: row[1:] for row in _asked(scene, sql)}
        for table, (charset, _) in found.items():
            if charset == "ascii":
                yield Finding(
                    Grade.WARNING,
                    f"{table} has the character set ascii: other names are refused",
                    "convert it to utf8mb4",
                )
        if len({collation for _, collation in found.values()}) > 1:
            said = ", ".join(f"{table} {collation}" for table, (_, collation) in found.items())
            reason = f"tables compare names in two ways ({said}): a watcher may be found in one and not in the other"
            yield Finding(Grade.WARNING, reason, "ALTER TABLE ... CONVERT TO CHARACTER SET utf8mb4, for both")
    else:
        raise DoesNotApply("SQLite stores text as it is")


def journal(scene: Scene) -> Iterator[Finding]:
    """Look whether the SQLite file of a Kamailio that runs is in WAL mode, into which each start puts it."""
    _url(scene)
    path = scene.database_file
    if path is None:
        raise DoesNotApply("NSQ_DB_URL is no SQLite file")
    scene.kamailio()
    if _is_garbage(path):
        raise CannotLook(f"{path} is no SQLite database")
    if _head(path)[_WAL_AT] != _WAL:
        reason = f'{path} is not in WAL mode: Kamailio meets "database is locked" while a consumer writes'
        yield Finding(Grade.ERROR, reason, "restart Kamailio, and leave the journal mode alone")


CHECKS: tuple[Check[Scene], ...] = (
    Check("database", "the database of NSQ_DB_URL answers", answers),
    Check("tables", "the tables of the presence module are there, in the version that it wants", tables),
    Check("unique-index", "the table of states has its unique index", key),
    Check("database-rights", "the user of NSQ_DB_URL may write", rights),
    Check("letters", "tables hold all letters, and compare them in one way (charset)", letters),
    Check("one-node", "with subscriptions in memory one node alone uses a database", one_node),
    Check("wal", "the SQLite file of a Kamailio that runs is in WAL mode", journal),
)
