# SPDX-License-Identifier: GPL-2.0-or-later
"""What a nsqlookupd may name, and what becomes of entries that name nothing."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemi_nsq.errors import ProtocolError
from kemi_nsq.names import Address
from kemi_nsq.nsq.nodes import MORE, MOST_ENTRIES, MOST_TOLD, Listed, in_turns, read

LOOKUPD = Address("lookupd", 4161)
GOOD = {"broadcast_address": "nsqd", "tcp_port": 4150, "http_port": 4151, "topics": ["t"], "version": "1.3.0"}


def listed(*entries: object, port: str = "tcp_port") -> Listed:
    return read(json.dumps({"producers": entries}).encode(), LOOKUPD, port)


def test_each_port_is_an_address() -> None:
    assert listed(GOOD) == ([Address("nsqd", 4150)], [])
    assert listed(GOOD, port="http_port") == ([Address("nsqd", 4151)], [])


def test_nobody_is_named() -> None:
    assert listed() == ([], [])


def test_an_ipv6_address_is_one() -> None:
    assert listed({"broadcast_address": "::1", "tcp_port": 1}).addresses == [Address("::1", 1)]


def test_each_is_named_once_in_the_order_of_the_answer() -> None:
    other = GOOD | {"broadcast_address": "a"}
    assert listed(GOOD, other, GOOD).addresses == [Address("nsqd", 4150), Address("a", 4150)]


BAD: list[object] = [
    None,
    5,
    [],
    {},
    {"broadcast_address": "a"},
    {"broadcast_address": "a", "tcp_port": "x"},
    {"broadcast_address": "a", "tcp_port": None},
    {"broadcast_address": "a", "tcp_port": True},
    {"broadcast_address": "a", "tcp_port": 1.5},
    {"broadcast_address": "a", "tcp_port": 0},
    {"broadcast_address": "a", "tcp_port": 70000},
    {"broadcast_address": "", "tcp_port": 4150},
    {"broadcast_address": "a b", "tcp_port": 4150},
    {"broadcast_address": "a\nb", "tcp_port": 4150},
    {"broadcast_address": "a/../b?", "tcp_port": 4150},
    {"broadcast_address": ["a"], "tcp_port": 4150},
    {"broadcast_address": "x" * 100_000 + "!", "tcp_port": 4150},
    {"broadcast_address": json.loads("[" * 900 + "]" * 900), "tcp_port": 4150},
]


@pytest.mark.parametrize("entry", BAD, ids=range(len(BAD)))
def test_an_entry_that_is_no_address_is_told_in_a_line_and_hides_no_other(entry: object) -> None:
    addresses, (line,) = listed(GOOD, entry, GOOD | {"broadcast_address": "b"})
    assert addresses == [Address("nsqd", 4150), Address("b", 4150)]
    assert line.endswith(" is no address")
    assert len(line) < 200
    assert line.isprintable()


def test_of_many_bad_entries_the_same_few_are_told_in_any_order() -> None:
    bad = [{"broadcast_address": f"a {number}", "tcp_port": 1} for number in range(50)]
    told = listed(*bad).refused
    assert len(told) == MOST_TOLD + 1
    assert told[-1] == MORE
    assert listed(*reversed(bad)).refused == told


def test_of_very_many_entries_the_first_are_looked_at() -> None:
    many = [{"broadcast_address": "n", "tcp_port": 1 + number} for number in range(MOST_ENTRIES + 10)]
    assert len(listed(*many).addresses) == MOST_ENTRIES


NO_ANSWERS = [
    b"",
    b"<html>",
    b"[]",
    b"null",
    b'"x"',
    b"{}",
    b'{"producers": null}',
    b'{"producers": 5}',
    b'{"producers": {}}',
    b'{"producers": [{"broadcast_address": "a", "tcp_port": 1e400}]}',
    b"\xff\xfe",
    b"[" * 100_000,
]


@pytest.mark.parametrize("body", NO_ANSWERS, ids=range(len(NO_ANSWERS)))
def test_what_is_no_answer_is_said(body: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"^lookupd:4161: /nodes answered without any$"):
        read(body, LOOKUPD, "tcp_port")


LISTS = st.lists(st.lists(st.integers(1, 60).map(lambda port: Address("n", port)), unique=True), max_size=5)


@given(LISTS, st.integers(1, 100))
def test_who_names_many_takes_no_room_from_the_others(lists: list[list[Address]], most: int) -> None:
    joined = in_turns(lists, most=most)
    everything = set(itertools.chain.from_iterable(lists))
    assert len(joined) == len(set(joined)) == min(most, len(everything))
    share = most // max(1, len(lists))
    for each in lists:
        assert set(each[:share]) <= set(joined)
