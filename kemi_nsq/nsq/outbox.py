# SPDX-License-Identifier: GPL-2.0-or-later
"""A file that keeps messages while no nsqd takes them.

Any process puts messages in; one thread of one consumer process sends them, the oldest first, and removes each as
soon as nsqd has taken it. The file survives the death of all of them. Only a crash between nsqd's OK and the removal
sends a message twice. What was measured, and why it is so: docs/decisions/0019-outbox.md.
"""

from __future__ import annotations

import fcntl
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from kemi_nsq.background import Background
from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.counters import Counter
from kemi_nsq.errors import NsqdRefused, OutboxError, TransientError
from kemi_nsq.host import Broken, Level, Report
from kemi_nsq.nsq.lasting import Lasting
from kemi_nsq.nsq.outboxfile import LOCK, SPARED, OutboxFile
from kemi_nsq.nsq.privatefile import open_private
from kemi_nsq.nsq.ways import Outgoing
from kemi_nsq.runtime.page import Fact, Gauge, Page

#: How often the sender looks for new messages, and tries again when nsqd refuses.
LOOK_INTERVAL_S = 0.5
#: How often a lock file that cannot be opened is tried again.
RETRY_S = 60.0
_KEEP = """INSERT INTO message (topic, body, kept, delay_ms) SELECT :topic, :body, :kept, :delay_ms
    FROM used WHERE messages < :max_messages AND bytes + length(:body) <= :max_bytes RETURNING id"""
_OLDEST = "SELECT id, topic, body, kept, delay_ms FROM message ORDER BY id LIMIT 1"
#: By `kept`, too: if another file has taken the place of the one that was read, its message of the same id is another.
_REMOVE = "DELETE FROM message WHERE id = :id AND kept = :kept"
_DEPTH = "SELECT messages, bytes, (SELECT kept FROM message ORDER BY id LIMIT 1) FROM used"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A message of an outbox.

    Attributes:
        row_id: its place in the order.
        kept: second since the epoch at which it was put in.
        message: what to publish now.
    """

    row_id: int
    kept: float
    message: Outgoing


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """How much an outbox holds.

    Attributes:
        messages: how many.
        size: bytes of their bodies.
        oldest: second since the epoch at which the oldest one was put in; 0 if there is none.
    """

    messages: int = 0
    size: int = 0
    oldest: float = 0.0


class Outbox:
    """The messages of one file, for one thread at a time. It is opened at the first use in a process.

    Args:
        path: the SQLite file.
        max_messages: how many it may hold.
        max_bytes: how many bytes of bodies it may hold.
        say: takes a line that the operator shall read.
        clock: tells the time.
    """

    def __init__(
        self,
        path: str,
        *,
        max_messages: int,
        max_bytes: int,
        say: Callable[[str], None],
        clock: Clock = SYSTEM,
    ) -> None:
        self._clock = clock
        self.path = path
        self._limits = {"max_messages": max_messages, "max_bytes": max_bytes}
        self._file = OutboxFile(path, say, clock)

    def keep(self, message: Outgoing) -> None:
        """Put a message in, after all that are there. When this returns it is in the file.

        Raises:
            OutboxError: the outbox or the disk is full, or the file cannot be written.
        """
        if not self._file.may_grow():
            text = f"has less than {SPARED >> 20} MiB left, which sending what it holds may take"
            raise OutboxError(f"the disk of the outbox {self.path} {text}")
        values = {
            "topic": message.topic,
            "body": message.body,
            "kept": self._clock.wall(),
            "delay_ms": message.delay_ms,
            **self._limits,
        }
        # One statement looks for room and takes it: many workers do this at once, and SQLite has one writer at a time.
        if not self._file.execute(_KEEP, values):
            raise OutboxError(f"the outbox {self.path} is full ({self._limits})")

    def oldest(self) -> Kept | None:
        """Return the message that was put in before all others, or None.

        Raises:
            OutboxError: the file cannot be read.
        """
        for row in self._file.execute(_OLDEST, {}):
            return self._read(*row)
        return None

    def remove(self, kept: Kept) -> None:
        """Take a message out.

        Raises:
            OutboxError: the file cannot be written.
        """
        self._file.execute(_REMOVE, {"id": kept.row_id, "kept": kept.kept})

    def depth(self) -> Depth:
        """Return how much it holds.

        Raises:
            OutboxError: the file cannot be read.
        """
        try:
            ((messages, size, oldest),) = self._file.execute(_DEPTH, {})
            return Depth(messages=int(messages), size=int(size), oldest=float(oldest or 0.0))
        except (TypeError, ValueError) as error:
            raise OutboxError(f"the outbox {self.path} does not say how much it holds: move it away") from error

    def _read(self, row_id: int, topic: object, body: object, kept: object, delay_ms: object) -> Kept:
        """Read a row. Whatever else the file is, SQLite lets anything be in a column; it must not stop a consumer."""
        match topic, body, kept, delay_ms:
            case str(), bytes(), float() | int(), int():
                # A clock that was set back makes nothing wait for longer than it was meant to.
                left_ms = int(min(max(0, (kept - self._clock.wall()) * 1000 + delay_ms), delay_ms))
                return Kept(row_id=row_id, kept=kept, message=Outgoing(topic=topic, body=body, delay_ms=left_ms))
        raise OutboxError(f"the outbox {self.path}: row {row_id} of its table `message` is no message: delete it")

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self._file.close()


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
        clock: tells the time.

    Attributes:
        depth: how much the outbox held when it was looked at last.
        trouble: why it does not get empty, and since when; '' while it does.
    """

    def __init__(
        self, outbox: Outbox, publisher: Publishes, emit: Callable[[Report], None], clock: Clock = SYSTEM
    ) -> None:
        self._outbox = outbox
        self._publisher = publisher
        self._emit = emit
        self._clock = clock
        self.depth = Depth()
        self.trouble = ""
        self._holding, self._failing = Lasting(), Lasting()
        self._look_due = -math.inf
        #: What nsqd has, and the file has, too. Nothing else is sent before it is out of the file, however long that
        #: takes: so no more than one message is ever sent twice, by a crash in this moment. Removed first, it would be
        #: lost instead.
        self._taken: Kept | None = None

    def step(self) -> bool:
        """Send the oldest message, or remove the one that was sent last; return whether there may be more to do now."""
        now = self._clock.monotonic()
        try:
            more = self._send(now) if self._taken is None else self._remove(self._taken)
        except OutboxError as error:
            if self._failing.lasts(now):
                self._emit(Report(level=Level.ERROR, text=f"{error}; nothing of it is sent until that is over"))
            self.trouble = self._failing.told(str(error), now, self._clock.wall())
            return False
        if self._failing.over():
            self._emit(Report(level=Level.WARNING, text=f"the outbox {self._outbox.path} can be used again"))
        return more

    def _remove(self, taken: Kept) -> bool:
        self._outbox.remove(taken)
        self._taken = None
        return True

    def _send(self, now: float) -> bool:
        oldest, why = self._outbox.oldest(), ""
        if oldest is not None:
            try:
                self._publisher.publish(oldest.message)
            except NsqdRefused as error:  # it would be refused for ever, and hold up all that come after it
                self._taken = oldest
                text = f"a message of the outbox for {oldest.message.topic} dropped: nsqd said {error}"
                self._emit(Report(level=Level.ERROR, text=text, counter=Counter.OUTBOX_DROPPED))
            except TransientError as error:
                why = f"no nsqd took its oldest message: {error}"
            else:
                self._taken = oldest
                self._emit(Report(counter=Counter.OUTBOX_SENT))
        self._look(oldest, why, now)
        return self._taken is not None

    def _look(self, oldest: Kept | None, why: str, now: float) -> None:
        """See how much there is, and say so when it begins to fill, once a minute, and when it is empty."""
        if oldest is None:
            self.depth, self.trouble = Depth(), ""
            if self._holding.over():
                self._emit(Report(level=Level.WARNING, text=f"the outbox {self._outbox.path} is empty again"))
            return
        if not why and now < self._look_due:
            return
        self._look_due = now + LOOK_INTERVAL_S
        self.depth = self._outbox.depth()
        says = self._holding.lasts(now)
        self.trouble = self._holding.told(why, now, self._clock.wall()) if why else ""
        if says:
            age_s = max(0.0, self._clock.wall() - oldest.kept)
            text = (
                f"the outbox {self._outbox.path} holds {self.depth.messages} messages ({self.depth.size} bytes), the "
                f"oldest for {age_s:.0f} s; {why or 'they are being sent'}"
            )
            self._emit(Report(level=Level.WARNING, text=text))


#: Makes a sender for a thread, given what takes its reports.
MakeSender: TypeAlias = Callable[[Callable[[Report], None]], Sender]


class OutboxSender(Background):
    """Runs a sender as soon as the lock is free. Of several, in several processes, one is at work.

    Args:
        path: the file of the outbox.
        sender: for this thread alone.
        emit: takes what the main thread shall log and count.
        page: shows how much there is.
    """

    def __init__(self, path: str, sender: Sender, emit: Callable[[Report | Broken], None], page: Page) -> None:
        super().__init__("nsq-outbox", emit)
        self._path = path
        self._sender = sender
        self._emit = emit
        self._page = page

    def _work(self) -> None:
        """Wait for the lock, then send."""
        while not self._stopping.is_set():
            self._serve()

    def _serve(self) -> None:
        try:
            lock = open_private(self._path + LOCK)
        except (OSError, OutboxError) as error:
            self._emit(Report(level=Level.ERROR, text=f"the outbox {self._path} cannot be sent: {error}"))
            self._stopping.wait(RETRY_S)
            return
        try:
            while not self._stopping.is_set():
                if not (_locked(lock) and self._step()):
                    self._stopping.wait(LOOK_INTERVAL_S)
        finally:
            os.close(lock)

    def _step(self) -> bool:
        more = self._sender.step()
        self._page.set(Gauge.OUTBOX_MESSAGES, self._sender.depth.messages)
        self._page.set(Gauge.OUTBOX_BYTES, self._sender.depth.size)
        self._page.set(Gauge.OUTBOX_OLDEST, self._sender.depth.oldest)
        if self._page.shown(Fact.OUTBOX) != self._sender.trouble:
            self._page.show(Fact.OUTBOX, self._sender.trouble)
        return more


def _locked(lock: int) -> bool:
    """Take the lock that one process at a time can have; the system frees it when that process ends."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
