# SPDX-License-Identifier: GPL-2.0-or-later
"""The reply desk of a consumer process: knows which queries wait, and hands each reply to who asked.

It lives in the I/O thread. A process registers its query here, by a letter, before it publishes the request; so the
reply cannot come before the query is known. A reply is handed over once; late, second and foreign ones are counted
and dropped, and never reach an event route.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, get_args

import orjson

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.counters import Counter
from kemi_nsq.errors import ConnectionLost, NsqError, PayloadError
from kemi_nsq.host import Level, Report, Suspended
from kemi_nsq.names import Subscription
from kemi_nsq.queries.postbox import Postbox
from kemi_nsq.queries.protocol import Pending, Reason, Resume, Waiting, consumer_subscription, reply_msg_id
from kemi_nsq.runtime.place import SETTING, SOCKET, Place
from kemi_nsq.settings import limits

#: One for each consumer process, however many of them NSQ_CONSUMERS starts.
MAX_SLOTS = int(limits("consumers")[1])
#: Says nothing; that it can be sent says that somebody is there.
EMPTY_LETTER = b"{}"
#: Of a transaction: a C int.
_LARGEST_INDEX = 2**31 - 1
#: The desk looks this often whether its socket is still there.
LOOK_S = 1.0


def desk_name(slot: int) -> str:
    """Return the postbox name of a consumer process."""
    return f"consumer-{slot}{SOCKET}"


class ReplyDesk:
    """Matches replies with queries.

    Without a socket, because there is no folder for it, no query is registered; `keep_open` says so, and tries again.

    Args:
        node: NSQ_NODE, part of the reply topic.
        place: the runtime folder; None where there is none.
        max_size: replies above this many bytes are bad replies.
        emit: takes what the main thread shall do or log.
        clock: gives an instance without a folder its chance to be the only one of its name.

    Attributes:
        slot: the number of this consumer process among those of its Kamailio, from 0.
        subscription: the reply topic, to be subscribed at every nsqd.

    Raises:
        ConnectionLost: there are too many consumer processes.
    """

    def __init__(
        self,
        node: str,
        place: Place | None,
        *,
        max_size: int,
        emit: Callable[[Report | Resume], None],
        clock: Clock = SYSTEM,
    ) -> None:
        self._place = place
        self.slot, instance = (place.claim(MAX_SLOTS), place.instance) if place else (0, clock.entropy(4).hex())
        self.subscription: Subscription = consumer_subscription(self.slot, node, instance)
        self._postbox = Postbox(place, desk_name(self.slot), self._drop_stranger) if place else None
        self._look_due = 0.0
        self._opened = False
        self._problem = ""
        self._last_stranger = -1
        self._max_size = max_size
        self._emit = emit
        self._pending = Pending()

    def fileno(self) -> int:
        """Return the descriptor that is readable when a letter waits; another one after `keep_open`, -1 for none."""
        return self._postbox.fileno() if self._postbox else -1

    def close(self) -> None:
        """Give the name of the socket back."""
        if self._postbox:
            self._postbox.close()

    def keep_open(self, now: float) -> None:
        """See, once a second, that others find the socket: somebody may have removed it, or the folder around it."""
        if self._place is None or self._postbox is None or now < self._look_due:
            return
        self._look_due = now + LOOK_S
        try:
            moved = self._place.restore()
            if not self._postbox.is_there:
                self.read_letters()  # the last that came
                self._postbox.open()
                if self._opened or moved:
                    text = f"{SETTING} {self._place.path} or a socket in it was gone, and is there again"
                    self._emit(Report(level=Level.WARNING, text=text, counter=Counter.RUN_FOLDER_LOST))
            self._opened, self._problem = True, ""
        except NsqError as error:
            if str(error) != self._problem:
                text = f"{error}; until that changes no query gets a reply here"
                self._emit(Report(level=Level.ERROR, text=text, counter=Counter.RUN_FOLDER_LOST))
            self._problem = str(error)

    # Letters come from other processes, so what is in them is checked; replies come from the network. Both are read in
    # the I/O thread: a query inside an event route must get its reply while the main thread waits for it.

    def read_letters(self) -> None:
        """Take the queries that were registered, and those that were given up."""
        while self._postbox and (letter := self._postbox.receive(0)) is not None:
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
        if self._postbox is None:
            return
        head = orjson.dumps({"msg_id": waiting.msg_id, "reason": reason})
        try:
            self._postbox.send(waiting.mailbox, head + b"\n" + body)
        except ConnectionLost:  # that process has ended, or does not read: its deadline will tell it
            self._emit(Report(counter=Counter.REPLY_DROPPED))

    def _drop_stranger(self, user: int) -> None:
        text = f"a letter of user {user} to the reply desk dropped: only Kamailio's own user may write there"
        new, self._last_stranger = user != self._last_stranger, user
        self._emit(Report(level=Level.WARNING, text=text if new else "", counter=Counter.REPLY_DROPPED))


def _waiting(said: dict[str, Any]) -> Waiting:
    """Read a query that waits. What is remembered of it must not fail later, in the middle of others.

    Raises:
        ValueError, TypeError, LookupError: it is none.
    """
    suspended, deadline = said["suspended"], float(said["deadline"])
    if not math.isfinite(deadline):
        raise ValueError(f"the deadline is {deadline}")
    if suspended is not None:
        index, label, route = int(suspended["index"]), int(suspended["label"]), _text(suspended["route"])
        # KEMI takes no integer of more bits and no text with a NUL: it would raise when the transaction is resumed.
        if not (0 <= index <= _LARGEST_INDEX and route.isprintable()):
            raise ValueError(f"{index} of {route!r} is no transaction")
        suspended = Suspended(index=index, label=label, route=route)
    mailbox = _text(said["mailbox"])
    return Waiting(msg_id=_text(said["msg_id"]), deadline=deadline, mailbox=mailbox, suspended=suspended)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
