# SPDX-License-Identifier: GPL-2.0-or-later
"""Who else reads our replies: a stranger is one at once, or after a while, and a dead connection of ours never."""

from __future__ import annotations

import pytest

from kemi_nsq.names import Address, Subscription
from kemi_nsq.nsq.stats import Reader
from kemi_nsq.queries.readers import SETTLED_S, ReplyReaders

TOPIC, CHANNEL = "kamailio-0.n1.abcdefgh.replies#ephemeral", "replies#ephemeral"
A, B = Address("127.0.0.1", 4151), Address("127.0.0.2", 4151)
OURS = "kamailio-7-0a0b0c0d"


def reader(client_id: str = OURS, *, at: float = 100.0, port: int = 1, channel: str = CHANNEL) -> Reader:
    return Reader(channel, client_id, "web1", f"10.0.0.1:{port}", at)


@pytest.fixture
def readers() -> ReplyReaders:
    return ReplyReaders(Subscription(TOPIC, CHANNEL), OURS)


def test_we_alone_are_nobody_else(readers: ReplyReaders) -> None:
    for now in (0.0, SETTLED_S, 10 * SETTLED_S):
        assert readers.look({A, B}, {A: [reader()], B: []}, now) == ""


def test_who_came_after_us_is_a_stranger_at_once(readers: ReplyReaders) -> None:
    said = readers.look({A}, {A: [reader(), reader("thief", at=101)]}, 0.0)
    assert said == f"{TOPIC} is read by thief of host web1, 10.0.0.1:1, on channel {CHANNEL} at nsqd {A}"
    assert readers.look({A}, {A: [reader()]}, 10.0) == ""


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(reader("kamailio-7-older", at=99), id="that was there before us"),
        pytest.param(reader(at=101, port=2), id="that calls itself as we do"),
        pytest.param(reader("thief", at=100), id="that came in the same second"),
    ],
)
def test_who_may_be_a_dead_connection_of_ours_is_one_only_after_nsqd_would_have_closed_that(
    readers: ReplyReaders, other: Reader
) -> None:
    assert readers.look({A}, {A: [reader(), other]}, 0.0) == ""
    assert readers.look({A}, {A: [reader(), other]}, SETTLED_S - 0.1) == ""
    assert readers.look({A}, {A: [other, reader()]}, SETTLED_S) != ""


def test_two_dead_connections_one_after_the_other_are_no_stranger(readers: ReplyReaders) -> None:
    for turn in range(10):
        dead = reader(f"kamailio-{turn}-x", at=50, port=turn)
        assert readers.look({A}, {A: [dead, reader()]}, turn * (SETTLED_S - 1)) == ""


def test_another_channel_reads_along_even_if_nobody_is_there(readers: ReplyReaders) -> None:
    empty = Reader("spy", "", "", "", 0.0)
    assert readers.look({A}, {A: [reader(), empty]}, 0.0) == ""
    said = readers.look({A}, {A: [reader(), empty]}, SETTLED_S)
    assert said == f"{TOPIC} is read by nobody yet, but it has the channel spy at nsqd {A}"


def test_our_channel_without_anybody_is_nothing(readers: ReplyReaders) -> None:
    for now in (0.0, SETTLED_S):
        assert readers.look({A}, {A: [Reader(CHANNEL, "", "", "", 0.0)]}, now) == ""


def test_a_stranger_without_a_name_is_one(readers: ReplyReaders) -> None:
    assert readers.look({A}, {A: [reader(), reader("", at=101)]}, 0.0) != ""


def test_what_is_known_of_a_nsqd_that_does_not_answer_stays_until_nobody_asks_it(readers: ReplyReaders) -> None:
    found = {A: [reader(), reader("thief", at=101)]}
    said = readers.look({A, B}, found, 0.0)
    assert readers.look({A, B}, {}, 10.0) == said
    assert readers.look({B}, {}, 20.0) == ""
    assert readers.look({A, B}, {A: [reader()]}, 30.0) == ""


def test_few_are_named_and_few_are_remembered(readers: ReplyReaders) -> None:
    crowd = [reader("x" * 1000, at=101, port=number) for number in range(1000)]
    said = readers.look({A}, {A: [reader(), *crowd]}, 0.0)
    assert said.endswith("; and 97 more")
    assert len(said) < 1000
