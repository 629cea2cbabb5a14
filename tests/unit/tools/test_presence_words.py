# SPDX-License-Identifier: GPL-2.0-or-later
"""A row in words: whether it is seen, why not, until when, and where its order key puts it."""

from __future__ import annotations

import pytest

from kemi_nsq.clock import local_time
from kemi_nsq.jsontext import JsonValue
from kemi_nsq.presence.row import (
    Order,
    Row,
    ended_row,
    position_of,
    reset_row,
    tombstone,
    waiting,
)
from kemi_nsq.tools.output import line
from kemi_nsq.tools.presence.words import moment, order_of, state_of
from tests.support.rows import NOW, event_row

FIELDS: dict[str, JsonValue] = {
    "Event-Package": "dialog",
    "From": "sip:alice@example.com",
    "To": "sip:bob@example.com",
    "Call-ID": "c1",
    "State": "early",
}
SENT_NS = NOW * 10**9 + 123_456_789
MESSAGE = "0a1b2c3d4e5f6071"


def row(position: int = SENT_NS, **fields: JsonValue) -> Row:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return event_row(FIELDS | named, Order(position, MESSAGE))


def test_a_row_that_is_seen() -> None:
    state = state_of(row(), NOW)
    assert (state.state, state.shown, state.hidden) == ("early", True, "")
    assert (state.since, state.until) == (NOW, row().expires)
    assert state.order is not None
    assert state.order.position == f"{local_time(NOW)}.123456789 (nsqd's timestamp)"
    assert (state.order.rank, state.order.message_id) == ("3 (early)", MESSAGE)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (tombstone(row(State="terminated")), "over: kept so that a late event does not revive it (NSQ_PUA_TOMBSTONE)"),
        (waiting(row()), "waits until others end (NSQ_PUA_MAX_DIALOGS)"),
        (row()._replace(expires=NOW), "its time is over, and Kamailio will delete it"),
        (row()._replace(expires=0, ruid="uloc-1"), "none of ours, and with startup_mode 1 nobody sees it"),
        (row()._replace(expires=-1), "none of ours, and with startup_mode 1 nobody sees it"),
    ],
)
def test_a_row_that_is_hidden_says_why(made: Row, why: str) -> None:
    state = state_of(made, NOW)
    assert (state.shown, state.hidden) == (False, why)


def test_what_is_hidden_is_kept_until_the_same_second() -> None:
    over = row(State="terminated")
    assert state_of(tombstone(over), NOW).until == over.expires
    assert state_of(waiting(row()), NOW).until == row().expires


@pytest.mark.parametrize("ruid", ["", "uloc-65a1-1", "x" * 64, "é" * 64, "٣" * 64])
def test_a_row_of_another_writer_has_no_order_of_ours(ruid: str) -> None:
    assert state_of(row()._replace(ruid=ruid), NOW).order is None


def test_a_producer_that_counts_by_itself_has_its_own_number_back() -> None:
    order = order_of(row(position_of("Sequence", "12.5")).ruid, "dialog", "Sequence")
    assert order.position == "12.5 (Sequence)"
    assert order_of(row(position_of("Sequence", "1800000000")).ruid, "dialog").position.startswith("1800000000 (by")


def test_what_was_ended_here_says_so_and_names_no_message() -> None:
    end = ended_row(row(), row().body, now=NOW, position=0, tombstone_s=300)
    order = order_of(end.ruid, "dialog")
    assert (order.rank, order.message_id) == ("9 (ended here: expired, or reset)", "")
    reset = order_of(reset_row("sip:x@pbx", position=0, now=NOW, tombstone_s=300).ruid, "reset")
    assert reset.position == "0 (before all others)"


@pytest.mark.parametrize(
    ("fields", "rank"),
    [
        ({"State": "confirmed"}, "4 (confirmed)"),
        ({"State": "terminated"}, "5 (over)"),
        ({"Event-Package": "presence", "State": "busy"}, "0"),
        ({"Event-Package": "reg", "State": "registered", "Contact": "sip:a@192.0.2.1"}, "6 (alive)"),
        ({"Event-Package": "reg", "State": "expired", "Contact": "sip:a@192.0.2.1"}, "5 (over)"),
    ],
)
def test_a_rank_is_a_word(fields: dict[str, str], rank: str) -> None:
    assert order_of(row(SENT_NS, **fields).ruid, fields.get("Event-Package", "dialog")).rank == rank


def test_nonsense_in_the_table_is_shown_and_harms_nobody() -> None:
    assert (moment(0), moment(10**30)) == ("-", "?")
    assert line("a\x1b[2J\nb\x9b") == "a\\x1b[2J\\nb\\x9b"
