# SPDX-License-Identifier: GPL-2.0-or-later
"""What a process remembers of its decisions: which, for whom, how many, and in which words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kemi_nsq.clock import Clock
from kemi_nsq.errors import DatabaseError, RowRefused
from kemi_nsq.host import Level
from kemi_nsq.jsontext import JsonValue
from kemi_nsq.presence.change import Change
from kemi_nsq.presence.history import MOST, Cause, History, What
from kemi_nsq.presence.row import Order, Row
from kemi_nsq.presence.table import PresentityTable
from kemi_nsq.testing import FakeHost
from tests.support.doubles import PickyTable
from tests.support.rows import event_row
from tests.support.settings import settings
from tests.support.wired import wired

NOW = 1_800_000_000.0
URI = "sip:alice@example.com"
FIELDS: dict[str, JsonValue] = {
    "Event-Package": "dialog",
    "From": URI,
    "To": "sip:bob@example.com",
    "Call-ID": "c1",
    "State": "early",
}


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
def history(host: FakeHost) -> History:
    made = History(host, Clock(wall=lambda: NOW))
    made.begin()
    return made


def row(position: int = 5, **fields: JsonValue) -> Row:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return event_row(FIELDS | named, Order(position, "0" * 15 + "7", "kamailio", NOW - 1))


def decisions(history: History, **chosen: Any) -> list[Any]:
    found = history.as_json(**chosen)["decisions"]
    assert isinstance(found, list)
    return found


def whats(history: History) -> list[str]:
    return [each["what"] for each in decisions(history)]


def test_a_decision_is_told_with_all_that_an_operator_asks(history: History) -> None:
    history.committed([row()], [Change.STORED], Cause.EVENT)
    assert decisions(history) == [
        {
            "at": NOW, "what": "stored", "uri": URI, "package": "dialog", "etag": "dialog.call.from/c1/c1",
            "ruid": row().ruid, "state": "early", "about": "with sip:bob@example.com, call c1", "sender": URI,
            "topic": "kamailio", "sent_at": NOW - 1, "redelivered": False,
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "cause", "told"),
    [
        (Change.STORED, Cause.EVENT, ["stored"]),
        (Change.UNCHANGED, Cause.EVENT, ["unchanged"]),
        (Change.HIDDEN, Cause.EVENT, ["hidden"]),
        (Change.STALE, Cause.EVENT, ["stale"]),
        (None, Cause.EVENT, []),
        (Change.STORED, Cause.EXPIRY, ["expired"]),
        (Change.UNCHANGED, Cause.RESET, ["reset"]),
        (Change.STALE, Cause.EXPIRY, []),
    ],
)
def test_each_change_has_a_word(history: History, change: Change | None, cause: Cause, told: Sequence[str]) -> None:
    history.committed([row()], [change], cause)
    assert whats(history) == told


def test_it_has_an_end_and_says_how_much_there_was(history: History) -> None:
    history.committed([row()] * MOST, [Change.STORED] * MOST, Cause.EVENT)
    history.committed([row()] * 10, [Change.STALE] * 10, Cause.EVENT)
    said = history.as_json()
    assert (said["noted"], said["kept"], said["oldest"]) == (MOST + 10, MOST, NOW)
    assert whats(history)[-10:] == ["stale"] * 10
    assert len(decisions(history, most=3)) == 3
    assert decisions(history, most=0) == []


def test_a_process_that_nobody_can_ask_keeps_nothing(host: FakeHost) -> None:
    history = History(host)
    history.committed([row()], [Change.STORED], Cause.EVENT)
    history.told((URI, "dialog"), True)
    said = history.as_json()
    assert (said["noted"], said["kept"], said["told"]) == (1, 0, [])


def test_a_process_with_ticks_is_one_that_can_be_asked(table: PresentityTable) -> None:
    parts = wired(FakeHost(), settings(), table)
    parts.watchers.begin_ticking()
    parts.writer._history.committed([row()], [Change.STORED], Cause.EVENT)
    assert parts.writer._history.as_json()["kept"] == 1


def test_a_large_document_is_not_kept(history: History) -> None:
    history.committed([row()._replace(body=b"x" * 60_000)], [Change.STORED], Cause.EVENT)
    assert history._decisions[0][2].body == b""
    assert decisions(history)[0]["about"] == "its document was too large to be kept here"


def test_only_who_is_asked_for_is_told_in_whatever_case(history: History) -> None:
    rows = [row(), row(From="sip:carol@example.com"), row(Event_Package="presence")]
    history.committed(rows, [Change.STORED] * 3, Cause.EVENT)
    history.told((URI, "dialog"), True)
    history.told(("sip:carol@example.com", "dialog"), False)
    assert len(decisions(history, uri="SIP:Alice@example.com")) == 2
    assert len(decisions(history, uri=URI, package="presence")) == 1
    assert history.as_json(URI)["told"] == [{"uri": URI, "package": "dialog", "at": NOW, "accepted": True}]


def test_the_last_notify_of_each_is_kept_and_no_more_than_so_many(history: History) -> None:
    for number in range(MOST + 5):
        history.told((f"sip:{number}@example.com", "dialog"), True)
    history.told((f"sip:{MOST}@example.com", "dialog"), False)
    told = history.as_json()["told"]
    assert isinstance(told, list)
    assert len(told) == MOST
    assert told[-1] == {"uri": f"sip:{MOST}@example.com", "package": "dialog", "at": NOW, "accepted": False}


def test_a_line_is_logged_only_while_it_is_wanted(history: History, host: FakeHost) -> None:
    history.dropped(row(), What.TOO_OLD)
    assert host.lines == []
    host.log_policy.events = True
    history.dropped(row(), What.TOO_OLD)
    history.committed([row()._replace(topic="")], [Change.STALE], Cause.EVENT)
    assert [text for _, text in host.lines] == [
        f"too old: dialog of {URI} early (with sip:bob@example.com, call c1), message 0000000000000007 of kamailio, "
        f"sender {URI}",
        f"stale: dialog of {URI} early (with sip:bob@example.com, call c1), no message, sender {URI}",
    ]


def test_a_notify_is_told_of_each_message_that_it_speaks_for(history: History, host: FakeHost) -> None:
    host.log_policy.events = host.log_policy.as_json = True
    first, second = row(), row()._replace(ruid=row().ruid.replace("0000000000000007", "0000000000000008"))
    history.committed([first, second], [Change.STORED, Change.STORED], Cause.EVENT)
    history.committed([row()], [Change.STALE], Cause.EVENT)
    host.lines.clear()
    history.told((URI, "dialog"), False)
    history.told((URI, "dialog"), True)
    history.told((URI, "dialog"), True)
    lines = [json.loads(text) for _, text in host.lines]
    assert [(each["step"], each.get("message_id"), each["presentity"], each["package"]) for each in lines] == [
        ("not told", "0000000000000007", URI, "dialog"),
        ("not told", "0000000000000008", URI, "dialog"),
        ("told", "0000000000000007", URI, "dialog"),
        ("told", "0000000000000008", URI, "dialog"),
        ("told", None, URI, "dialog"),
    ]


def test_that_nobody_watches_is_told(history: History, host: FakeHost) -> None:
    history.unwatched([(URI, "dialog")])
    assert host.lines == []
    host.log_policy.events = True
    history.committed([row()], [Change.STORED], Cause.EVENT)
    history.unwatched([(URI, "dialog")])
    assert host.lines[-1] == (
        Level.INFO,
        f"not told: dialog of {URI}, message 0000000000000007: nobody watches it",
    )


# What notes it


class Stage:
    """A writer, and what its history says."""

    def __init__(self, table: PresentityTable) -> None:
        self.wall = NOW
        self.host = FakeHost()
        parts = wired(self.host, settings(max_event_age="60"), table, Clock(wall=lambda: self.wall))
        self.writer, self.expiry, self.watchers = parts.writer, parts.expiry, parts.watchers
        self.history = self.writer._history
        self.history.begin()

    def publish(self, position: int = 5, *, sent_at: float = NOW, **fields: JsonValue) -> None:
        order = Order(position, "0" * 16, "kamailio", sent_at)
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        if made := self.writer.row(FIELDS | named, order, sent_at=sent_at):
            self.writer.commit([made])

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(each["what"], each["state"]) for each in decisions(self.history)]


def test_events_that_are_stored_stale_and_too_old_are_noted(table: PresentityTable) -> None:
    stage = Stage(table)
    stage.publish(5, State="confirmed")
    stage.publish(4, State="early")
    stage.publish(6, State="early", sent_at=NOW - 100)
    assert stage.told == [("stored", "confirmed"), ("stale", "early"), ("too old", "early")]
    assert stage.history.as_json()["told"] == [{"uri": URI, "package": "dialog", "at": NOW, "accepted": True}]


def test_a_notify_that_is_refused_is_noted(table: PresentityTable, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(table)
    monkeypatch.setattr(stage.host, "refresh_watchers", lambda _uri, _package: False)
    stage.publish()
    told = stage.history.as_json()["told"]
    assert isinstance(told, list)
    assert told == [{"uri": URI, "package": "dialog", "at": NOW, "accepted": False}]


def test_what_ends_is_noted_with_its_reason(table: PresentityTable) -> None:
    stage = Stage(table)
    stage.publish(Expires=60)
    stage.publish(Expires=60, Call_ID="c2")
    stage.expiry.reset("all", position=9, spare_later=False)
    stage.publish(Expires=60, Call_ID="c3")
    stage.wall += 1000
    stage.expiry.sweep()
    assert [what for what, _ in stage.told] == ["stored", "stored", "reset", "reset", "stored", "expired"]


def test_a_row_that_is_refused_is_noted_and_one_that_the_world_fails_is_not(path: Path) -> None:
    table = PickyTable(path, "alice", failure=RowRefused("no"))
    stage = Stage(table)
    with pytest.raises(RowRefused):
        stage.publish()
    table.failure = DatabaseError("away")
    with pytest.raises(DatabaseError):
        stage.publish()
    assert [what for what, _ in stage.told] == ["refused"]


def test_a_page_of_a_reset_goes_on_where_the_one_before_ended(
    table: PresentityTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(table)
    for number in range(5):
        stage.publish(number + 1, Call_ID=f"c{number}")
    find = table.search.find
    monkeypatch.setattr(table.search, "find", lambda below, **columns: find(below, **columns)[:2])
    ended, below, counts = 0, 2**62, []
    while below:
        ended, below = stage.expiry.reset_page("all", position=9, below_id=below)
        counts.append(ended)
    assert counts == [2, 2, 1, 0]
