# SPDX-License-Identifier: GPL-2.0-or-later
"""What the threads of a consumer process hand to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from kemi_nsq.connection import Message
from kemi_nsq.counters import Counter
from kemi_nsq.host import Level
from kemi_nsq.names import Address, Subscription
from kemi_nsq.query import Reason, Suspended


class Target(NamedTuple):
    """One connection that should exist: an nsqd and what to consume there."""

    address: Address
    subscription: Subscription


class Delivery(NamedTuple):
    """A message and the connection that must answer for it."""

    link_id: int
    subscription: Subscription
    message: Message

    @property
    def message_id(self) -> str:
        """The id of the message, as text."""
        return self.message.message_id.decode("ascii", "replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Something for the log, if it has text, and the counters, which only the main thread may write."""

    level: Level = Level.DEBUG
    text: str = ""
    counter: Counter | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """A suspended transaction that goes on: with the reply, or with the reason why there is none."""

    suspended: Suspended
    reply: str = ""
    reason: Reason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A thread ended by an error of ours; the main thread must start anew."""

    trace: str


Item: TypeAlias = Delivery | Report | Resume | Broken
