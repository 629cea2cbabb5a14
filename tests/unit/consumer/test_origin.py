# SPDX-License-Identifier: GPL-2.0-or-later
"""The envelope of a replay: what was put in comes out, and nothing else is taken for one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemi_nsq.consumer.origin import Origin, opened, sealed
from kemi_nsq.errors import PayloadError

TOLD = {"Topic": "t", "Channel": "c", "Message-ID": "0" * 16, "Timestamp": 1, "Replays": 1}
NAMES = st.from_regex(r"\A[.a-zA-Z0-9_-]{1,64}\Z")


@given(
    origin=st.builds(
        Origin,
        topic=NAMES,
        channel=NAMES,
        message_id=st.from_regex(r"\A[0-9a-f]{16}\Z"),
        timestamp_ns=st.integers(0, 2**63 - 1),
        body=st.binary(max_size=80) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace")),
        replays=st.integers(1, 10**6),
    )
)
def test_what_was_sealed_is_opened_again(origin: Origin) -> None:
    assert opened(sealed(origin)) == origin


@pytest.mark.parametrize(
    ("envelope", "why"),
    [
        (b"", "the body is empty"),
        (b"[]", "the body is a JSON array"),
        (b'{"Payload": "{}"}', "it has no Replay-Of"),
        (json.dumps({"Replay-Of": TOLD}).encode(), "it has neither Payload nor Payload-Base64"),
        (json.dumps({"Replay-Of": TOLD, "Payload": 1}).encode(), "it has neither Payload nor Payload-Base64"),
        (json.dumps({"Replay-Of": TOLD, "Payload-Base64": "ä"}).encode(), "its Payload-Base64 is none"),
        *(
            (json.dumps({"Replay-Of": {**TOLD, name: value}, "Payload": "{}"}).encode(), f"its {name}")
            for name, value in (
                ("Topic", None),
                ("Topic", "a b"),
                ("Channel", 1),
                ("Message-ID", "0" * 15),
                ("Message-ID", 0),
                ("Timestamp", -1),
                ("Timestamp", 2**63),
                ("Timestamp", "1"),
                ("Timestamp", 1.5),
                ("Replays", 0),
                ("Replays", True),
            )
        ),
    ],
)
def test_what_is_no_envelope_is_refused_with_a_reason(envelope: bytes, why: str) -> None:
    with pytest.raises(PayloadError, match=why):
        opened(envelope)
