# SPDX-License-Identifier: GPL-2.0-or-later
"""The SQLite file of the outbox: made for its user alone, and left when another one takes its place.

The only module that imports `sqlite3`. Many processes open the file, some at the same moment: they take turns by a lock
on the file `.lock` beside it, and only for as long as that takes.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from kemi_nsq.clock import Clock
from kemi_nsq.errors import OutboxError
from kemi_nsq.nsq.privatefile import alone, make, narrow
from kemi_nsq.sqlitefile import SHM, WAL, OpenFile, identity

BUSY_TIMEOUT_S = 0.2
#: Bytes of the disk that are spared: to remove what was sent takes room as well, up to 4 MiB of the `-wal` (SQLite's
#: wal_autocheckpoint) and as much of the file. An outbox that fills its disk would never get empty again.
SPARED = 16 * 1024 * 1024
#: What the name of the file that processes take turns by ends in.
LOCK = ".lock"
#: So often in a row the file may be replaced while a statement runs.
_TRIES = 3
_VERSION = 1
#: `kept` is the second since the epoch at which a message was put in, by the wall clock: another process reads it,
#: perhaps after the machine was started anew.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS message (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, body BLOB NOT NULL, kept REAL NOT NULL,
    delay_ms INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS used (messages INTEGER NOT NULL, bytes INTEGER NOT NULL);
INSERT INTO used SELECT 0, 0 WHERE NOT EXISTS (SELECT 1 FROM used);
CREATE TRIGGER IF NOT EXISTS kept AFTER INSERT ON message BEGIN
    UPDATE used SET messages = messages + 1, bytes = bytes + length(new.body); END;
CREATE TRIGGER IF NOT EXISTS sent AFTER DELETE ON message BEGIN
    UPDATE used SET messages = messages - 1, bytes = bytes - length(old.body); END;
"""
#: A file without a version knew only when a message was `due`.
_CONVERT = """
ALTER TABLE message RENAME COLUMN due TO kept;
ALTER TABLE message ADD COLUMN delay_ms INTEGER NOT NULL DEFAULT 0;
UPDATE message SET delay_ms = CAST(max(0, kept - {now!r}) * 1000 AS INTEGER), kept = min(kept, {now!r});
"""


class OutboxFile:
    """One connection to the file, opened at the first use in a process, for one thread at a time.

    A file that was deleted or replaced is noticed at the next use, and what is done meanwhile is done again.

    Args:
        path: the SQLite file; it gets mode 0600.
        say: takes a line that the operator shall read.
        clock: tells the time.
    """

    def __init__(self, path: str, say: Callable[[str], None], clock: Clock) -> None:
        self._path = path
        self._say = say
        self._clock = clock
        self._connection: sqlite3.Connection | None = None
        self._file: OpenFile
        self._pid = 0

    def execute(self, statement: str, values: Mapping[str, object]) -> list[Any]:
        """Do one statement, a transaction of its own, and return its rows.

        Raises:
            OutboxError: the file cannot be read or written, or is refused.
        """
        for _ in range(_TRIES):
            try:
                rows = self._opened().execute(statement, values).fetchall()
                if self._file.is_whole():
                    return rows
                # It was done to a file that has gone meanwhile: once more, with the one that is there now.
            except (sqlite3.Error, OSError) as error:
                with suppress(sqlite3.Error, OSError):
                    # The next use begins anew, whatever was wrong with this, and leaves a file that has gone.
                    if self._connection is not None and self._file.is_whole():
                        self.close()
                raise OutboxError(f"the outbox {self._path}: {error}") from error
        raise OutboxError(f"the outbox {self._path} is replaced again and again")

    def may_grow(self) -> bool:
        """Whether the disk has more room than what is spared.

        Raises:
            OutboxError: there is no folder for the file.
        """
        try:
            disk = os.statvfs(os.path.dirname(self._path))
        except OSError as error:
            raise OutboxError(f"the outbox {self._path}: {error}") from error
        return disk.f_bavail * disk.f_frsize >= SPARED or not disk.f_blocks  # 0: it does not tell

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _opened(self) -> sqlite3.Connection:
        if self._pid != os.getpid():
            # SQLite wants no connection in two processes, not even to close it (sqlite.org/howtocorrupt.html, 2.6).
            self._parents, self._connection, self._pid = self._connection, None, os.getpid()
        if self._connection is None or not self._file.is_whole():
            with alone(self._path + LOCK) as lock:
                has_left = self._leave()
                self._connection = self._open()
                if has_left:
                    self._tell_once(lock)
        return self._connection

    def _leave(self) -> bool:
        """Close a file that is not what it was, if one is open."""
        if self._connection is None:
            return False
        if self._file.give_up():
            with suppress(sqlite3.Error):  # what its `-wal` holds goes into it, wherever it is now
                self._connection.execute("PRAGMA wal_checkpoint")
        self.close()
        return True

    def _open(self) -> sqlite3.Connection:
        """Open the file, and make it if it is not there; no other process of ours does so at the same time."""
        if identity(self._path) is None:
            for suffix in (WAL, SHM):  # of one that was deleted: SQLite would take them for those of the new one
                with suppress(FileNotFoundError):
                    os.unlink(self._path + suffix)
            make(self._path)
        if had := max(narrow(self._path + suffix) for suffix in ("", WAL, SHM)):
            self._say(f"the outbox {self._path} could be used by others (mode {had:o}); it has mode 600 now")
        self._file = OpenFile(self._path)
        connection = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection, self._clock.wall())
            self._file.settle()
        except BaseException:
            connection.close()
            raise
        return connection

    def _tell_once(self, lock: int) -> None:
        """Say that the file is another one, unless another process has said so: what was told last, the lock holds."""
        name = str(self._file).encode()
        if os.pread(lock, 100, 0) != name:
            self._say(
                f"the outbox {self._path} was deleted or replaced while it was open; what it held is not sent, and the "
                "file that is there now is used"
            )
            with suppress(OSError):  # should the disk be full, others say it as well
                os.ftruncate(lock, 0)
                os.pwrite(lock, name, 0)


def _prepare(connection: sqlite3.Connection, now: float) -> None:
    """Bring a file into the form that this release knows."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    if connection.execute("PRAGMA user_version").fetchone() >= (_VERSION,):
        return
    old = any(column[1] == "due" for column in connection.execute("PRAGMA table_info(message)"))
    convert = _CONVERT.format(now=now) if old else ""
    connection.executescript(f"BEGIN IMMEDIATE; {convert} {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
