# SPDX-License-Identifier: GPL-2.0-or-later
"""The row of an event, by the functions that the package uses for it."""

from __future__ import annotations

from kemi_nsq.jsontext import JsonObject
from kemi_nsq.presence.packages import from_event
from kemi_nsq.presence.packages.state import Wishes
from kemi_nsq.presence.row import Order, Row, row_of

#: When an event came of which a test says nothing else.
NOW = 1_700_000_000


def event_row(
    fields: JsonObject, order: Order, *, now: int = NOW, tombstone_s: int = 300, body: bytes | None = None
) -> Row:
    """Return the row of an event with these fields; with another document than its own if one is given."""
    state = from_event(fields)
    return row_of(
        state,
        state.document(Wishes(), 1) if body is None else body,
        order=order,
        now=now,
        tombstone_s=tombstone_s,
        default_expires_s=3600,
    )
