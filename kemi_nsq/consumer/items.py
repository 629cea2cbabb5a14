# SPDX-License-Identifier: GPL-2.0-or-later
"""What the threads of a consumer process hand to each other."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from kemi_nsq.names import Address, Subscription
from kemi_nsq.nsq.protocol import Message
from kemi_nsq.queries.protocol import Resume
from kemi_nsq.reports import Broken, Report


class Target(NamedTuple):
    """One connection that should exist: an nsqd and what to consume there."""

    address: Address
    subscription: Subscription


class Delivery(NamedTuple):
    """A message and the connection that must answer for it."""

    connection_id: int
    subscription: Subscription
    message: Message

    @property
    def message_id(self) -> str:
        """The id of the message, as text."""
        return self.message.message_id.decode("ascii", "replace")


Item: TypeAlias = Delivery | Report | Resume | Broken
