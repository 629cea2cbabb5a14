# SPDX-License-Identifier: GPL-2.0-or-later
"""The events of the presence measures, and the rows that they should end in."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from kemi_nsq import event
from kemi_nsq.presence.row import Order, Row
from tests.support.chain import DOMAIN
from tests.support.chain import event as chain_event
from tests.support.rows import event_row

PRESENTITIES = 500
STATES = ("early", "confirmed", "terminated")
URIS = tuple(f"sip:user{number}@{DOMAIN}" for number in range(PRESENTITIES))


def call(number: int, state: str, **fields: str | int) -> bytes:
    """Write the event of one call; its presentities take turns."""
    user = f"user{number % PRESENTITIES}"
    called = {"To": f"sip:bob{number % 97}@{DOMAIN}", "Call_ID": f"call{number}", "Direction": "inbound"}
    return chain_event("dialog", user, **called, State=state, **fields)


def waves(numbers: Sequence[int], **fields: str | int) -> Iterator[bytes]:
    """Write the events of some calls, by their numbers: all begin, then all are answered, then all end."""
    for state in STATES:
        for number in numbers:
            yield call(number, state, **fields)


def rounds(count: int) -> Iterator[bytes]:
    """Write the events of some rounds: in each, every presentity has one call, so never two of one live at once."""
    for start in range(0, count * PRESENTITIES, PRESENTITIES):
        yield from waves(range(start, start + PRESENTITIES))


def row(body: bytes, number: int) -> Row:
    """Return the row of an event, by the functions that the product uses."""
    _, fields = event.decode(body, max_size=len(body))
    order = Order(position=number, message_id=f"{number:016x}")
    return event_row(fields, order, now=int(time.time()), tombstone_s=3600)
