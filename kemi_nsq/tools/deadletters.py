# SPDX-License-Identifier: GPL-2.0-or-later
"""The dead letters that wait at nsqd, taken in hand for a moment: to be seen, or to be finished one by one.

They wait in a channel of their own, `CHANNEL`. nsqd has no way to look at a channel but to take messages from it, so
whoever looks takes them, and gives all of them back: nsqd hands out `--max-rdy-count` (2,500) of a channel at most, and
what is given back goes behind the others. Who is killed in between leaves them in flight; nsqd has them again after
`MSG_TIMEOUT_S`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from kemi_nsq.errors import DeadlineExceeded, PayloadError, TransientError, UsageError
from kemi_nsq.names import Subscription
from kemi_nsq.nsq import stats
from kemi_nsq.nsq.protocol import Message
from kemi_nsq.tools.letters import Letter, Wanted, read
from kemi_nsq.tools.nsqds import TIMEOUT_S, Nsqd
from kemi_nsq.tools.reader import Reader

CHANNEL = "kemi-nsq-dead-letters"
#: How long nsqd leaves them with one who says nothing.
MSG_TIMEOUT_S = 30.0
#: nsqd has handed out what it may when nothing came for so long; of 2,500 letters each needs some microseconds.
_QUIET_S = 1.0
_COLLECT_S = 10.0
#: On its way from the queue of the topic to that of the channel a message is in neither, and not counted: wait for it.
_STRAGGLERS_S = 0.2
#: Bytes that are kept. What comes beyond is given back unread.
MOST_BYTES = 64 * 1024 * 1024
#: Those in hand are touched, and heartbeats answered, so often while they are finished one by one.
_KEEP_S = 5.0

#: What is done with a letter before it is finished. A PayloadError leaves it at nsqd, a TransientError those after it,
#: too.
Act = Callable[[Letter], object]


@dataclass(slots=True, kw_only=True)
class Found:
    """What there was.

    Attributes:
        topics: how many nsqd have the topic.
        letters: those that were meant, the oldest first.
        seen: how many were looked at.
        ids: of all that were looked at, their own and those of their messages.
        waiting: how many there were, those in other hands not included.
        elsewhere: how many were in other hands.
        missed: the topic had channels, and not ours: what came before is in those alone.
        done: how many of `letters` are finished.
        left: why some of them could not be, each by its id.
        again: how many could not be finished, because they had timed out: they come again.
        problems: what went wrong.
    """

    topics: int = 0
    letters: list[Letter] = field(default_factory=list)
    seen: int = 0
    ids: set[str] = field(default_factory=set)
    waiting: int = 0
    elsewhere: int = 0
    missed: bool = False
    done: int = 0
    left: dict[str, str] = field(default_factory=dict)
    again: int = 0
    problems: list[str] = field(default_factory=list)


def look(nsqds: Iterable[Nsqd], topic: str, wanted: Wanted) -> Found:
    """Look at the letters of all nsqd; all of them wait there afterwards."""
    found = Found()
    for nsqd in nsqds:
        _visit(nsqd, topic, found, lambda hand: found.letters.extend(hand.letters))
    found.letters = wanted.of(found.letters)
    return found


def rehearse(nsqds: Iterable[Nsqd], topic: str, wanted: Wanted, check: Act) -> Found:
    """Find which letters `finish` would leave, and why; all of them wait there afterwards."""
    found = look(nsqds, topic, wanted)
    for letter in found.letters:
        try:
            check(letter)
        except PayloadError as error:
            found.left[letter.letter_id] = str(error)
    return found


def finish(nsqds: Iterable[Nsqd], topic: str, wanted: Wanted, act: Act, found: Found | None = None) -> Found:
    """Do something with each letter that is meant, the oldest of each nsqd first, and have nsqd forget it.

    What goes wrong, Ctrl-C among it, ends that: `done` says how far it came, and the others wait as before. Who looks
    at it meanwhile gives a `found` of his own, which is returned.
    """
    found = found or Found()

    def finish_those_of(hand: _Hand) -> None:
        letters = wanted.of(hand.letters)
        letters = letters[: wanted.limit - len(found.letters)] if wanted.limit else letters
        found.letters += letters
        for letter in letters:
            try:
                hand.finish(letter, act)
                found.done += 1
            except PayloadError as error:
                found.left[letter.letter_id] = str(error)

    try:
        for nsqd in nsqds:
            if not found.problems:
                _visit(nsqd, topic, found, finish_those_of)
    except KeyboardInterrupt:
        found.problems.append("interrupted")
    found.done -= found.again
    return found


def refuse_others(nsqds: Iterable[Nsqd], topic: str) -> None:
    """Refuse a topic where nobody has looked for letters yet: the look would leave a channel there that fills for ever.

    Raises:
        UsageError: there is such a topic, and no nsqd that answers has our channel in it.
    """
    found = []
    for nsqd in nsqds:
        with suppress(TransientError):  # who looks is told
            found.append(stats.topic(nsqd.http, topic, timeout_s=TIMEOUT_S))
    there = [each for each in found if each is not None]
    if there and not any(CHANNEL in each.channels for each in there):
        raise UsageError(
            f"topic {topic} is not NSQ_DEAD_LETTER_TOPIC and has no channel {CHANNEL}: to look would make one there, "
            "which fills for ever"
        )


def _visit(nsqd: Nsqd, topic: str, found: Found, use: Callable[[_Hand], None]) -> None:
    """Take the letters of a nsqd in hand, and give back those that were not finished, whatever happens."""
    try:
        there = stats.topic(nsqd.http, topic, timeout_s=TIMEOUT_S)
    except TransientError as error:
        found.problems.append(f"nsqd {error}; see NSQ_NSQD_ADDRESS")
        return
    if there is None:  # who subscribes would make it
        return
    found.topics += 1
    found.missed |= bool(there.channels) and CHANNEL not in there.channels
    try:
        reader = Reader(nsqd.tcp, Subscription(topic, CHANNEL), ready=0, msg_timeout_s=MSG_TIMEOUT_S)
        try:
            hand = _Hand(nsqd, reader)
            waiting, elsewhere, _ = stats.channel(nsqd.http, Subscription(topic, CHANNEL), timeout_s=TIMEOUT_S)
            hand.collect(waiting)
            found.seen += len(hand.letters)
            found.ids.update(each for letter in hand.letters for each in (letter.letter_id, letter.message_id))
            found.waiting += waiting
            found.elsewhere += elsewhere
            use(hand)
        finally:
            again = reader.leave()
            found.again += again or 0
            if again is None:
                found.problems.append(f"nsqd {nsqd} did not hear all answers: what is done may come again")
    except TransientError as error:
        where = "" if str(nsqd) in str(error) else f"{nsqd}: "
        found.problems.append(f"nsqd {where}{error}; see NSQ_NSQD_TCP_ADDRESS")


class _Hand:
    """The letters of one nsqd that are in our hands."""

    def __init__(self, nsqd: Nsqd, reader: Reader) -> None:
        self.letters: list[Letter] = []
        self.came = 0
        self._nsqd = nsqd
        self._reader = reader
        self._messages: dict[str, Message] = {}
        self._kept_at = time.monotonic()

    def collect(self, waiting: int) -> None:
        """Take what nsqd hands out, of so many that wait there."""
        size, deadline = 0, time.monotonic() + _COLLECT_S
        if not waiting:
            return
        self._reader.take(self._reader.max_rdy)
        with suppress(DeadlineExceeded):
            while self.came < self._reader.max_rdy:
                quiet_s = _QUIET_S if self.came < waiting else _STRAGGLERS_S
                for message in self._reader.messages(min(deadline, time.monotonic() + quiet_s)):
                    self.came += 1
                    size += len(message.body)
                    if size <= MOST_BYTES:
                        letter = read(message, str(self._nsqd))
                        self.letters.append(letter)
                        self._messages[letter.letter_id] = message._replace(body=b"")
        self._reader.take(0)

    def finish(self, letter: Letter, act: Act) -> None:
        """Do something with a letter, then have nsqd forget it."""
        if time.monotonic() - self._kept_at > _KEEP_S:
            self._kept_at = time.monotonic()
            self._reader.keep()
        act(letter)
        self._reader.finish(self._messages[letter.letter_id])
