# SPDX-License-Identifier: GPL-2.0-or-later
"""A file that keeps messages while no nsqd takes them. The only module that imports `sqlite3`.

Any process puts messages in; one thread of one consumer process sends them, the oldest first, and removes each as
soon as nsqd has taken it. The file survives the death of all of them. Only a crash between nsqd's OK and the removal
sends a message twice.
"""

from __future__ import annotations

import fcntl
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Protocol

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.counters import Counter
from kemi_nsq.errors import NsqdRefused, OutboxError, TransientError
from kemi_nsq.host import Broken, Level, Report
from kemi_nsq.nsq.ways import Outgoing

BUSY_TIMEOUT_S = 0.2
#: How often the sender looks for new messages, and tries again when nsqd refuses.
LOOK_INTERVAL_S = 0.5
#: How often a file that cannot be opened is tried again.
RETRY_S = 60.0
_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS message (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, body BLOB NOT NULL, due REAL NOT NULL);
CREATE TABLE IF NOT EXISTS used (messages INTEGER NOT NULL, bytes INTEGER NOT NULL);
INSERT INTO used SELECT 0, 0 WHERE NOT EXISTS (SELECT 1 FROM used);
CREATE TRIGGER IF NOT EXISTS kept AFTER INSERT ON message BEGIN
    UPDATE used SET messages = messages + 1, bytes = bytes + length(new.body); END;
CREATE TRIGGER IF NOT EXISTS sent AFTER DELETE ON message BEGIN
    UPDATE used SET messages = messages - 1, bytes = bytes - length(old.body); END;
"""
_KEEP = """INSERT INTO message (topic, body, due) SELECT :topic, :body, :due
    FROM used WHERE messages < :max_messages AND bytes + length(:body) <= :max_bytes"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A message of an outbox.

    Attributes:
        row_id: its place in the order.
        due: second since the epoch at which nsqd shall deliver it.
        message: what to publish now.
    """

    row_id: int
    due: float
    message: Outgoing


class Outbox:
    """The messages of one file. Opened at the first use in a process.

    Args:
        path: the SQLite file.
        max_messages: how many it may hold.
        max_bytes: how many bytes of bodies it may hold.
        clock: tells the time.
    """

    def __init__(self, path: str, *, max_messages: int, max_bytes: int, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self.path = path
        self._limits = {"max_messages": max_messages, "max_bytes": max_bytes}
        self._connection: sqlite3.Connection | None = None

    def keep(self, message: Outgoing) -> None:
        """Put a message in, after all that are there.

        Raises:
            OutboxError: the outbox is full, or the file cannot be written.
        """
        # By the wall clock: another process reads it, perhaps after the machine was started anew.
        due = self._clock.wall() + message.delay_ms / 1000
        values = {"topic": message.topic, "body": message.body, "due": due, **self._limits}
        # One statement looks for room and takes it: many workers do this at once, and SQLite has one writer at a time.
        if not self._execute(_KEEP, values).rowcount:
            raise OutboxError(f"the outbox {self.path} is full ({self._limits})")

    def oldest(self) -> Kept | None:
        """Return the message that was put in before all others, or None.

        Raises:
            OutboxError: the file cannot be read.
        """
        row = self._execute("SELECT id, topic, body, due FROM message ORDER BY id LIMIT 1", {}).fetchone()
        if row is None:
            return None
        row_id, topic, body, due = row
        delay_ms = max(0, int((due - self._clock.wall()) * 1000))
        return Kept(row_id=row_id, due=due, message=Outgoing(topic=topic, body=body, delay_ms=delay_ms))

    def remove(self, kept: Kept) -> None:
        """Take a message out.

        Raises:
            OutboxError: the file cannot be written.
        """
        # By `due`, too: should another file have taken the place of this one, its message of the same id is another.
        self._execute("DELETE FROM message WHERE id = :id AND due = :due", {"id": kept.row_id, "due": kept.due})

    def _execute(self, statement: str, values: dict[str, object]) -> sqlite3.Cursor:
        try:
            if self._connection is None:
                # Not before the fork: SQLite wants no connection in two processes (sqlite.org/howtocorrupt.html, 2.6).
                self._connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
                self._connection.executescript(_SCHEMA)
            return self._connection.execute(statement, values)
        except sqlite3.Error as error:
            raise OutboxError(f"the outbox {self.path}: {error}") from error


class Publishes(Protocol):
    """Publishes a message, as `Publisher` does."""

    def publish(self, message: Outgoing) -> None:
        """Publish and wait until a nsqd has taken it.

        Raises:
            NsqdRefused: the message is wrong, and would be refused again.
            ConnectionLost: no nsqd took it.
        """


class Sender:
    """Sends what an outbox holds, step by step, without waiting for anything but the file and nsqd.

    One at a time may be at work on a file: see `OutboxSender`.

    Args:
        outbox: what to send, for this sender alone.
        publisher: takes the messages.
        emit: takes what shall be logged and counted.
    """

    def __init__(self, outbox: Outbox, publisher: Publishes, emit: Callable[[Report], None]) -> None:
        self._outbox = outbox
        self._publisher = publisher
        self._emit = emit
        #: What nsqd has, and the file has, too. Nothing else is sent before it is out of the file, however long that
        #: takes: so no more than one message is ever sent twice, by a crash in this moment. Removed first, it would be
        #: lost instead.
        self._taken: Kept | None = None

    def step(self) -> bool:
        """Send the oldest message, or remove the one that was sent last; return whether there may be more to do now."""
        try:
            if self._taken is not None:
                self._outbox.remove(self._taken)
                self._taken = None
                return True
            oldest = self._outbox.oldest()
            if oldest is None:
                return False
            self._send(oldest.message)
            self._taken = oldest
        except OutboxError as error:
            self._emit(Report(level=Level.ERROR, text=str(error)))
            return False
        except TransientError:
            return False  # no nsqd yet: publishers have logged that
        return True

    def _send(self, message: Outgoing) -> None:
        try:
            self._publisher.publish(message)
            self._emit(Report(counter=Counter.OUTBOX_SENT))
        except NsqdRefused as error:  # it would be refused for ever, and hold up all that come after it
            text = f"a message of the outbox for {message.topic} dropped: nsqd said {error}"
            self._emit(Report(level=Level.ERROR, text=text, counter=Counter.OUTBOX_DROPPED))


class OutboxSender(threading.Thread):
    """Runs a sender as soon as the lock is free. Of several, in several processes, one is at work.

    Args:
        path: the file of the outbox.
        sender: for this thread alone.
        emit: takes what the main thread shall log and count.
    """

    def __init__(self, path: str, sender: Sender, emit: Callable[[Report | Broken], None]) -> None:
        super().__init__(name="nsq-outbox", daemon=True)
        self._path = path
        self._sender = sender
        self._emit = emit
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End the thread after what it is doing now."""
        self._stopping.set()

    def run(self) -> None:
        """Wait for the lock, then send, until `stop`."""
        try:
            while not self._stopping.is_set():
                self._serve()
        except BaseException as error:  # the main thread must learn that nobody sends any more
            self._emit(Broken(trace=f"outbox: {error!r}"))

    def _serve(self) -> None:
        try:
            with open(f"{self._path}.lock", "w", encoding="ascii") as lock:
                while not self._stopping.is_set():
                    if not (_locked(lock) and self._sender.step()):
                        self._stopping.wait(LOOK_INTERVAL_S)
        except OSError as error:
            self._emit(Report(level=Level.ERROR, text=f"the outbox {self._path} cannot be sent: {error.strerror}"))
            self._stopping.wait(RETRY_S)


def _locked(lock: IO[str]) -> bool:
    """Take the lock that one process at a time can have; the system frees it when that process ends."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
