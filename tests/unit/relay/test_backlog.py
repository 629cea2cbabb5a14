# SPDX-License-Identifier: GPL-2.0-or-later
"""What the relay holds: in order, bounded, a batch at a time."""

from __future__ import annotations

import pytest

from kemi_nsq.nsq.ways import Batch
from kemi_nsq.relay import backlog as module
from kemi_nsq.relay.backlog import Backlog, Room
from kemi_nsq.relay.frames import Piece


def piece(topic: str, body: bytes) -> Piece:
    return Piece(topic, len(body).to_bytes(4) + body)


def filled(*pieces: Piece, room: Room | None = None) -> Backlog:
    backlog = Backlog(room or Room())
    backlog.add(pieces)
    return backlog


def bodies(batch: Batch | None) -> list[bytes]:
    assert batch is not None
    return [sized[4:] for sized in batch.sized]


def test_a_batch_has_the_messages_of_one_topic_in_order() -> None:
    backlog = filled(piece("a", b"1"), piece("b", b"2"), piece("a", b"3"))
    first = backlog.first()
    assert first is not None
    assert (first.topic, bodies(first)) == ("a", [b"1", b"3"])
    assert backlog.first() is first
    backlog.done(2)
    assert bodies(backlog.first()) == [b"2"]
    backlog.done(1)
    assert backlog.first() is None
    assert (backlog.messages, backlog.size) == (0, 0)


def test_what_was_not_done_of_a_batch_stays_first() -> None:
    backlog = filled(*(piece("a", b"%d" % number) for number in range(4)))
    backlog.first()
    backlog.add([piece("a", b"4")])
    backlog.done(3)
    assert bodies(backlog.first()) == [b"3"]
    backlog.done(1)
    assert bodies(backlog.first()) == [b"4"]


def test_a_split_batch_leaves_one_by_one_before_all_others() -> None:
    backlog = filled(piece("a", b"1"), piece("b", b"x"), piece("a", b"2"))
    backlog.first()
    backlog.split()
    for body in (b"1", b"2", b"x"):
        assert bodies(backlog.first()) == [body]
        backlog.done(1)
    assert backlog.messages == 0


@pytest.mark.parametrize("room", [Room(messages=3), Room(size=15)])
def test_it_is_full_with_so_many_messages_or_bytes(room: Room) -> None:
    backlog = filled(piece("a", b"1"), piece("a", b"2"), room=room)
    assert not backlog.full
    backlog.add([piece("a", b"3")])
    assert backlog.full
    backlog.first()
    backlog.done(1)
    assert not backlog.full


def test_a_batch_has_so_many_messages_and_bytes_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_MESSAGES", 3)
    monkeypatch.setattr(module, "BATCH_BYTES", 100)
    backlog = filled(*(piece("a", b"%d" % number) for number in range(4)), piece("a", b"x" * 100), piece("a", b"y"))
    sizes = []
    while (batch := backlog.first()) is not None:
        sizes.append(len(batch.sized))
        backlog.done(len(batch.sized))
    assert sizes == [3, 1, 1, 1], "a large one goes by itself"
