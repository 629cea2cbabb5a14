# SPDX-License-Identifier: GPL-2.0-or-later
"""Outboxes on real files, with room enough, and messages for them."""

from __future__ import annotations

from pathlib import Path

from kemi_nsq.nsq.outbox import Outbox
from kemi_nsq.nsq.ways import Outgoing


def opened(path: Path) -> Outbox:
    """Return an outbox that does not fill up."""
    return Outbox(str(path), max_messages=100_000, max_bytes=10**8, say=print)


def message(text: str, topic: str = "t") -> Outgoing:
    """Return a message with a body of its own."""
    return Outgoing(topic=topic, body=text.encode())
