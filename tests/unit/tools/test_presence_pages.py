# SPDX-License-Identifier: GPL-2.0-or-later
"""The lines of an explanation: because of what a state is, as far as somebody remembers, and what is gone."""

from __future__ import annotations

from typing import Any

import pytest

from kemi_nsq.jsontext import JsonValue
from kemi_nsq.presence.row import Order, Row, ended_row
from kemi_nsq.tools.presence.explain import Explained, explain
from kemi_nsq.tools.presence.pages import explanation
from kemi_nsq.tools.presence.source import DecisionSaid, HistorySaid, Source
from tests.support.rows import NOW, event_row

URI = "sip:alice@example.com"
FIELDS: dict[str, JsonValue] = {
    "Event-Package": "dialog",
    "From": URI,
    "To": "sip:bob@example.com",
    "Call-ID": "c1",
    "State": "early",
}
ROW = event_row(FIELDS, Order(NOW * 10**9, "0a1b2c3d4e5f6071"))
END = ended_row(ROW, ROW.body, now=NOW, position=0, tombstone_s=300)


class Looked:
    """Has these rows, and nobody who watches."""

    def __init__(self, *rows: Row) -> None:
        self._rows = rows

    def rows(self, **_chosen: object) -> list[Row]:
        return [*self._rows]

    def subscriptions(self, _keys: object) -> list[object]:
        return []


class Remembered(Source):
    """Consumers that remember these decisions."""

    def histories(self, _uri: str, _package: str, most: int = 0) -> tuple[dict[int, HistorySaid], list[str]]:
        return {pid: DECISIONS[pid] for pid in self.consumers}, []


DECISIONS: dict[int, HistorySaid] = {}


def decided(row: Row, what: str = "stored", *, topic: str = "t", at: float = NOW) -> DecisionSaid:
    sent_at = NOW - 1.0 if topic else 0.0
    return DecisionSaid(
        at=at, what=what, uri=URI, package=row.event, etag=row.etag, ruid=row.ruid, state="early", about="", sender=URI,
        topic=topic, sent_at=sent_at, redelivered=False,
    )  # fmt: skip


def explained(row: Row | None, *decisions: DecisionSaid) -> Explained:
    DECISIONS[7] = HistorySaid(noted=9, kept=9, oldest=NOW, logs=False, decisions=decisions, told=[])
    look: Any = Looked(*([row] if row else []))
    folder: Any = None
    return explain(Remembered(look=look, order_field="", in_memory=False, consumers=[7], folder=folder), URI, "", NOW)


@pytest.mark.parametrize(
    ("row", "decisions", "because"),
    [
        (ROW, [decided(ROW)], "message 0a1b2c3d4e5f6071 of topic t said so, which nsqd took at "),
        (ROW, [decided(ROW, topic="")], "a route said so, without an event of NSQ"),
        (ROW, [decided(END, "expired")], "message 0a1b2c3d4e5f6071 said so; no consumer remembers its topic"),
        (ROW, [], "message 0a1b2c3d4e5f6071 said so; no consumer remembers its topic"),
        (END, [decided(END, "expired", topic="")], "it was ended here at "),
        (END, [], "it was ended here, or published without NSQ; no consumer remembers more"),
        (ROW._replace(ruid="uloc-1"), [], "another writer stored it"),
    ],
)
def test_a_state_is_because_of_something(row: Row, decisions: list[DecisionSaid], because: str) -> None:
    (line,) = [line for line in explanation(explained(row, *decisions)) if line.startswith("  because")]
    assert line.removeprefix("  because     ").startswith(because)


def test_what_the_table_has_no_more_is_told_with_its_package() -> None:
    lines = [*explanation(explained(None, decided(ROW), decided(ROW, "stale", topic="")))]
    assert "The table has no state of it." in lines
    first, second = lines[lines.index("  what came") + 1 :][:2]
    assert " stored    dialog early, message 0a1b2c3d4e5f6071 of t, sent " in first
    assert second.endswith(" stale     dialog early, no message")


def test_what_was_on_another_day_has_its_date() -> None:
    lines = [*explanation(explained(ROW, decided(ROW), decided(ROW, "stale", at=NOW - 86400 * 3)))]
    old, new = lines[lines.index("  what came") + 1 :][:2]
    assert (len(old.split()[0]), len(new.split()[0])) == (len("2000-01-01"), len("00:00:00.000"))


def test_only_the_last_decisions_are_told() -> None:
    found = explained(ROW, *(decided(ROW, "stale", at=NOW + number) for number in range(100)))
    ((_, told),) = found.states
    assert [each.said.at for each in told] == [NOW + number for number in range(80, 100)]
