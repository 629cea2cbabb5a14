# SPDX-License-Identifier: GPL-2.0-or-later
"""The reply desk of a consumer process: knows which queries wait, and hands each reply to who asked.

It lives in the I/O thread. A process registers its query here, by a letter, before it publishes the request; so the
reply cannot come before the query is known. A reply is handed over once; late, second and foreign ones are counted
and dropped, and never reach an event route.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, get_args

import orjson

from kemi_nsq.counters import Counter
from kemi_nsq.errors import ConnectionLost, PayloadError
from kemi_nsq.host import Level, Report, Suspended
from kemi_nsq.names import Subscription
from kemi_nsq.queries.postbox import Postbox
from kemi_nsq.queries.protocol import Pending, Reason, Resume, Waiting, reply_msg_id, reply_subscription
from kemi_nsq.settings import limits

#: One for each consumer process, however many of them NSQ_CONSUMERS starts.
MAX_SLOTS = int(limits("consumers")[1])
#: Says nothing; that it can be sent says that somebody is there.
EMPTY_LETTER = b"{}"


def desk_name(slot: int) -> str:
    """Return the postbox name of a consumer process; all children of one Kamailio agree on it by their parent's pid."""
    return f"kemi-nsq/{os.getppid()}/consumer/{slot}"


class ReplyDesk:
    """Matches replies with queries.

    Args:
        node: NSQ_NODE, part of the reply topic.
        max_size: replies above this many bytes are bad replies.
        emit: takes what the main thread shall do or log.

    Attributes:
        subscription: the reply topic, to be subscribed at every nsqd.
    """

    def __init__(self, node: str, *, max_size: int, emit: Callable[[Report | Resume], None]) -> None:
        slot, self._postbox = _first_free_slot()
        self.subscription: Subscription = reply_subscription(slot, node)
        self._max_size = max_size
        self._emit = emit
        self._pending = Pending()

    def fileno(self) -> int:
        """Return the descriptor that is readable when a letter waits."""
        return self._postbox.fileno()

    def close(self) -> None:
        """Give the slot back."""
        self._postbox.close()

    # Letters come from other processes, so what is in them is checked; replies come from the network. Both are read in
    # the I/O thread: a query inside an event route must get its reply while the main thread waits for it.

    def read_letters(self) -> None:
        """Take the queries that were registered, and those that were given up."""
        while (letter := self._postbox.receive(0)) is not None:
            try:
                self._read(letter)
            except (ValueError, TypeError, LookupError, AttributeError) as error:  # not from this version of us
                self._emit(Report(level=Level.ERROR, text=f"a letter to the reply desk dropped: {error!r}"))

    def take_reply(self, body: bytes) -> None:
        """Hand a reply to who waits for it."""
        try:
            msg_id = reply_msg_id(body)
        except PayloadError as error:
            self._emit(Report(level=Level.ERROR, text=f"reply dropped: {error}", counter=Counter.REPLY_DROPPED))
            return
        waiting = self._pending.take(msg_id)
        if waiting is None:  # its query may have been registered since the last look
            self.read_letters()
            waiting = self._pending.take(msg_id)
        if waiting is None:
            self._emit(Report(counter=Counter.REPLY_DROPPED))
        elif len(body) > self._max_size:
            text = f"the reply to {msg_id} has {len(body)} bytes; NSQ_MAX_REPLY_SIZE allows {self._max_size}"
            self._emit(Report(level=Level.ERROR, text=text, counter=Counter.REPLY_DROPPED))
            self._answer(waiting, b"", "bad reply")
        else:
            self._answer(waiting, body, None)

    def expire(self, now: float) -> None:
        """Give up the queries whose deadline has passed."""
        for waiting in self._pending.expired(now):
            self._resume(waiting, "timeout")

    def next_deadline(self) -> float | None:
        """Return the monotonic second at which `expire` has something to do."""
        return self._pending.next_deadline()

    def _read(self, letter: bytes) -> None:
        said = orjson.loads(letter)
        if not said:
            return
        if reason := said.get("failed"):
            self._give_up(_text(said["msg_id"]), reason if reason in get_args(Reason) else "bad payload")
        else:
            self._register(_waiting(said))

    def _register(self, waiting: Waiting) -> None:
        reason = self._pending.add(waiting)
        if reason is not None:
            self._answer(waiting, b"", reason)

    def _give_up(self, msg_id: str, reason: Reason) -> None:
        waiting = self._pending.take(msg_id)
        if waiting is not None:
            self._resume(waiting, reason)

    def _resume(self, waiting: Waiting, reason: Reason) -> None:
        """Let a suspended transaction go on; a process that waits itself knows already, and may ask anew by now."""
        if waiting.suspended is not None:
            self._answer(waiting, b"", reason)

    def _answer(self, waiting: Waiting, body: bytes, reason: Reason | None) -> None:
        if waiting.suspended is not None:
            self._emit(Resume(suspended=waiting.suspended, reply=body.decode("utf-8", "replace"), reason=reason))
            return
        head = orjson.dumps({"msg_id": waiting.msg_id, "reason": reason})
        try:
            self._postbox.send(waiting.mailbox, head + b"\n" + body)
        except ConnectionLost:  # that process has ended, or does not read: its deadline will tell it
            self._emit(Report(counter=Counter.REPLY_DROPPED))


def _waiting(said: dict[str, Any]) -> Waiting:
    """Read a query that waits. What is remembered of it must not fail later, in the middle of others.

    Raises:
        ValueError, TypeError, LookupError: it is none.
    """
    suspended, deadline = said["suspended"], float(said["deadline"])
    if not math.isfinite(deadline):
        raise ValueError(f"the deadline is {deadline}")
    if suspended is not None:
        index, label = int(suspended["index"]), int(suspended["label"])
        suspended = Suspended(index=index, label=label, route=_text(suspended["route"]))
    mailbox = _text(said["mailbox"])
    return Waiting(msg_id=_text(said["msg_id"]), deadline=deadline, mailbox=mailbox, suspended=suspended)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _first_free_slot() -> tuple[int, Postbox]:
    for slot in range(MAX_SLOTS):
        try:
            return slot, Postbox(desk_name(slot))
        except ConnectionLost:
            continue
    raise ConnectionLost(f"all {MAX_SLOTS} consumer slots are taken")
