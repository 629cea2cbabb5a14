# SPDX-License-Identifier: GPL-2.0-or-later
"""Faults that were mended: each can be put back, to see whether a seed finds it. A check that cannot fail is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

from kemi_nsq.consumer.message import Handled
from kemi_nsq.consumer.verdict import Answers, Verdicts
from kemi_nsq.nsq.outbox import Kept, Sender
from kemi_nsq.presence.expiry import Expiry
from kemi_nsq.presence.search import Search
from kemi_nsq.presence.table import PresentityTable
from kemi_nsq.presence.watchers import Watchers


class Change(NamedTuple):
    """A method of the product, and what it was."""

    owner: type
    name: str
    was: Callable[..., Any]


_again = Verdicts._again


def _count_all_deliveries(self: Verdicts, one: Handled, answers: Answers) -> None:
    self._failed[one.delivery.message.message_id] = one.delivery.message.attempts - 1
    _again(self, one, answers)


def _send_then_remove(self: Sender, taken: Kept) -> bool:
    self._taken = None
    self._outbox.remove(taken)
    return True


def _nothing(*_: object, **__: object) -> None:
    """Do nothing."""


FAULTS: Mapping[str, Sequence[Change]] = {
    "a tombstone is visible": [
        Change(PresentityTable, "hide", _nothing),
        Change(Search, "lingering", lambda *_, **__: []),
    ],
    "an outage costs attempts": [Change(Verdicts, "_again", _count_all_deliveries)],
    "what nsqd has taken is sent again while the outbox cannot be written": [
        Change(Sender, "_remove", _send_then_remove)
    ],
    "a reset forgets its sender": [Change(PresentityTable, "remember_reset", _nothing)],
    "what was refused, or had no answer, is not told again": [Change(Watchers, "doubt", _nothing)],
    "what a dead process had still to tell is told by nobody": [Change(Expiry, "_doubt_what_came_last", _nothing)],
}


@contextmanager
def put_back(fault: str) -> Iterator[None]:
    """Let the product have a fault, '' for none, while the context lasts."""
    with ExitStack() as stack:
        for change in FAULTS[fault] if fault else ():
            stack.enter_context(patch.object(change.owner, change.name, change.was))
        yield
