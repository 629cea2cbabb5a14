# SPDX-License-Identifier: GPL-2.0-or-later
"""What travels from a worker to the relay: any messages, cut anywhere, come as they were; nonsense is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemi_nsq.relay.frames import FrameReader, Piece, frame

LARGEST = 100
TOPICS = st.from_regex(r"[.a-zA-Z0-9_-]{1,64}(#ephemeral)?", fullmatch=True).filter(lambda name: len(name) <= 64)


@given(st.lists(st.tuples(TOPICS, st.binary(max_size=LARGEST))), st.lists(st.integers(0, 50)))
def test_messages_come_as_they_were(messages: list[tuple[str, bytes]], cuts: list[int]) -> None:
    data, reader, came = b"".join(frame(*each) for each in messages), FrameReader(LARGEST), list[Piece]()
    for cut in [*cuts, len(data)]:
        came += reader.feed(data[:cut])
        data = data[cut:]
    assert came == [Piece(topic, len(body).to_bytes(4) + body) for topic, body in messages]


@pytest.mark.parametrize(
    "data",
    [
        b"\x01t\x00\x00\x00\x65",  # a byte more than allowed
        b"\x01t\xff\xff\xff\xff",
        b"\x00\x00\x00\x00\x01x",
        b"\x02t\n\x00\x00\x00\x01x",
        b"\x02\xc3\xbc\x00\x00\x00\x01x",
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    reader = FrameReader(LARGEST)
    assert reader.feed(frame("t", b"before") + data) == [Piece("t", b"\0\0\0\x06before")]
    assert "0 to 100 for a topic are allowed" in reader.problem


@given(st.binary(max_size=200))
def test_what_is_cut_out_of_any_bytes_was_there(data: bytes) -> None:
    pieces = FrameReader(LARGEST).feed(data)
    written = b"".join(frame(topic, sized[4:]) for topic, sized in pieces)
    assert data.startswith(written)
