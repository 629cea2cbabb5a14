# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether tables and lamps are what the model says. Nothing of the package is used here.

A call that has ended may be shown as ended or not be shown at all, and its row may be there, hidden, or its document
without a dialog: that is one thing for a lamp. But within the time of a tombstone there must be a row.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.chaos.ledger import Ledger, Record
from tests.chaos.traffic import ENDED, Thing
from tests.support.documents import parse_dialog_info, parse_message_summary, parse_pidf
from tests.support.notify import Notify

#: A tombstone stays for 300 s; its row may be gone some time later.
TOMBSTONE_S = 250.0
_TRAILING_CALL = re.compile(r"[^/]*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the table `presentity`.

    Attributes:
        thing: what it is about.
        state: what it says.
        visible: whether watchers are shown it.
    """

    thing: Thing
    state: str
    visible: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What a table says of the accepted events of one phase.

    Attributes:
        lost: events without an effect.
        dead: events that became dead letters of this node.
        wrong: what is wrong, in words, by thing.
    """

    lost: Sequence[Record]
    dead: Sequence[Record]
    wrong: Mapping[Thing, str]


def read_row(user: str, package: str, etag: str, expires: int, body: bytes) -> Row:
    """Read a row. A call's etag ends with its Call-ID, which a document without a dialog does not tell."""
    match package:
        case "dialog":
            found = _TRAILING_CALL.search(etag)
            name = found[0] if found else ""
            dialogs = parse_dialog_info(body).dialogs
            state = dialogs[0].state if dialogs else ENDED
        case "presence":
            name, state = "", parse_pidf(body).note
        case _:
            name, state = "", _counts(body)
    return Row(thing=Thing(user=user, package=package, name=name), state=state, visible=expires > 0)


def judge_table(ledger: Ledger, rows: Iterable[Row], dead: Collection[int], *, now: float) -> Stored:
    """Compare a table with the model.

    Args:
        ledger: what was said.
        rows: the table.
        dead: the sequences of the events that became dead letters of this node.
        now: seconds of `time.monotonic()`.
    """
    found = {row.thing: row for row in rows}
    lost: list[Record] = []
    wrong: dict[Thing, str] = {}
    for thing, records in ledger.things.items():
        row = found.get(thing)
        if error := _error(ledger, thing, row, now):
            wrong[thing] = error
            lost += _without_effect(records, row)
    for row in found.values():
        if row.thing not in ledger.things and row.visible and _alive(row):
            wrong[row.thing] = f"{row.thing} came back: {row.state}"
    fresh = [record for records in ledger.things.values() for record in records if record.accepted]
    fresh = [record for record in fresh if ledger.fresh(record)]
    return Stored(
        lost=[record for record in lost if record.said.sequence not in dead],
        dead=[record for record in fresh if record.said.sequence in dead],
        wrong=wrong,
    )


def lamp_error(ledger: Ledger, user: str, package: str, notify: Notify | None) -> str:
    """Return in words what is wrong with a lamp after its last NOTIFY, '' if it is right."""
    things = ledger.of(user, package)
    if package == "dialog":
        return _calls_error(ledger, user, things, notify)
    if not things:
        return ""
    allowed = ledger.allowed(things[0])
    shown = _shown(notify)
    return "" if shown in allowed else f"{things[0]}: shows {shown or 'nothing'}, not {_words(allowed)}"


def _calls_error(ledger: Ledger, user: str, things: Sequence[Thing], notify: Notify | None) -> str:
    dialogs = notify.dialog_info.dialogs if notify is not None and notify.body else ()
    shown = {dialog.call_id: dialog.state for dialog in dialogs if dialog.state != ENDED and dialog.call_id}
    wrong = [
        f"{thing}: shows {shown.get(thing.name, 'nothing')}, not {_words(ledger.allowed(thing))}"
        for thing in things
        if shown.get(thing.name, ENDED) not in ledger.allowed(thing)
    ]
    known = {thing.name for thing in things}
    wrong += [f"{user} {name}: shows {state}, but has ended" for name, state in shown.items() if name not in known]
    if notify is None:
        wrong.append(f"{user}: no NOTIFY came")
    return "; ".join(wrong)


def _error(ledger: Ledger, thing: Thing, row: Row | None, now: float) -> str:
    """Return in words what is wrong with a row, '' if it is right."""
    allowed, records = ledger.allowed(thing), ledger.things[thing]
    if row is None:
        known = any(record.accepted for record in records)
        if not known or (allowed == {ENDED} and now - records[-1].at > TOMBSTONE_S):
            return ""
        return f"{thing} has no row, not {_words(allowed)}"
    if not row.visible and _alive(row):
        return f"{thing} is hidden, and {row.state}"
    return "" if row.state in allowed else f"{thing} is {row.state}, not {_words(allowed)}"


def _without_effect(records: Sequence[Record], row: Row | None) -> list[Record]:
    """Return the accepted events that came after what the row says; all of them if it says what nobody said."""
    states = [record.said.state for record in records]
    if row is None or row.state not in states:
        return [record for record in records if record.accepted]
    last = len(states) - 1 - states[::-1].index(row.state)
    return [record for record in records[last + 1 :] if record.accepted]


def _alive(row: Row) -> bool:
    return row.thing.package != "dialog" or row.state != ENDED


def _shown(notify: Notify | None) -> str:
    if notify is None or not notify.body:
        return ""
    return notify.pidf.note if notify.event == "presence" else _counts(notify.body)


def _counts(body: bytes) -> str:
    voice = parse_message_summary(body).voice
    return f"{voice.new}/{voice.saved}" if voice else ""


def _words(states: Collection[str]) -> str:
    return " or ".join(sorted(states)) or "nothing"
