# SPDX-License-Identifier: GPL-2.0-or-later
"""What comes on a topic, as it comes, beside those who consume it.

A channel has a copy of each message, so a channel of our own takes nothing from anybody. It is ephemeral: nsqd forgets
it with its last reader, and keeps no more than `--mem-queue-size` messages (10,000) for a reader that is slow. But the
first channel of a topic takes all that waits there; so a topic that has none is refused.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

from kemi_nsq.errors import ConnectionLost, PayloadError, TransientError, UsageError
from kemi_nsq.jsontext import lookup
from kemi_nsq.names import Subscription
from kemi_nsq.nsq import stats
from kemi_nsq.nsq.protocol import Message
from kemi_nsq.tools.nsqds import TIMEOUT_S, Nsqd
from kemi_nsq.tools.reader import Reader

#: Messages that nsqd may hand out before they are shown.
READY = 100
#: What nsqd has sent is read within this time, once there is something.
_READ_S = 5.0


class Seen(NamedTuple):
    """A message, and the nsqd that it came from."""

    nsqd: str
    message: Message

    @property
    def text(self) -> str:
        """What it says; bytes that are no UTF-8 as escapes."""
        return self.message.body.decode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which messages are shown: those that match all of it.

    Attributes:
        fields: pairs of a JSON path, as `nsq_json` has it, and the value there as text.
        text: a part of the payload, in any case.
    """

    fields: Sequence[tuple[str, str]] = ()
    text: str = ""

    def matches(self, payload: str) -> bool:
        """Whether a payload is to be shown. One that is no JSON has no fields."""
        if self.text.casefold() not in payload.casefold():
            return False
        try:
            return all(lookup(path, payload) == value for path, value in self.fields)
        except PayloadError:
            return False


def field_filter(text: str) -> tuple[str, str]:
    """Read `Name=value`.

    Raises:
        UsageError: it has no `=`, or the name is no path.
    """
    path, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--field {text!r} is no Name=value")
    lookup(path, "{}")
    return path, value


def places(nsqds: Iterable[Nsqd], topic: str, say: Callable[[str], None]) -> list[Nsqd]:
    """Return the nsqd where a channel may be added to a topic; `say` takes a line for each that is left out.

    Raises:
        UsageError: there is none.
        ConnectionLost: there is none, and some do not answer.
    """
    found, left_out, silent = [], [], []
    for nsqd in nsqds:
        try:
            there = stats.topic(nsqd.http, topic, timeout_s=TIMEOUT_S)
        except TransientError as error:
            silent.append(f"nsqd {error}; see NSQ_NSQD_ADDRESS")
            continue
        if there is not None and there.channels:
            found.append(nsqd)
        elif there is not None:
            left_out.append(
                f"topic {topic} has no channel at nsqd {nsqd}: the first one would take all that waits there "
                f"({there.depth}), and who only looks must not"
            )
    if not found and silent:
        raise ConnectionLost("; ".join(silent))
    if not found:
        raise UsageError("; ".join(left_out) or f"no nsqd has a topic {topic}; see NSQ_NSQD_ADDRESS")
    for line in (*left_out, *silent):
        say(line)
    return found


def watch(nsqds: Iterable[Nsqd], subscription: Subscription, *, until: float | None) -> Generator[Seen, None, None]:
    """Return what comes, for ever, or until `time.monotonic()` is `until`.

    A message is finished when the next one is asked for.

    Raises:
        TransientError: a nsqd does not answer, or went away.
    """
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for nsqd in nsqds:
            reader = Reader(nsqd.tcp, subscription, ready=READY)
            stack.callback(reader.leave)
            selector.register(reader, selectors.EVENT_READ, (nsqd, reader))
        while until is None or time.monotonic() < until:
            for key, _ in selector.select(None if until is None else max(0, until - time.monotonic())):
                yield from _what_came(*key.data)


def _what_came(nsqd: Nsqd, reader: Reader) -> Generator[Seen, None, None]:
    try:
        messages = reader.messages(time.monotonic() + _READ_S)
        for message in messages:
            yield Seen(str(nsqd), message)
            reader.finish(message)
    except TransientError as error:
        raise ConnectionLost(f"nsqd {nsqd}: {error}; see NSQ_NSQD_TCP_ADDRESS") from error
