# SPDX-License-Identifier: GPL-2.0-or-later
"""Presence, mailboxes and the end of a state's lifetime, with a native and with a Python configuration."""

from __future__ import annotations

import pytest

from tests.support.chain import Chain, Person
from tests.support.database import rows
from tests.support.documents import MessageCounts
from tests.support.notify import LAMPS
from tests.support.until import until
from tests.support.watcher import Watcher


@pytest.mark.parametrize(
    ("state", "basic", "note", "activities"),
    [
        ("busy", "open", "Busy", ("busy",)),
        ("away", "open", "Away", ("away",)),
        ("confirmed", "open", "On the Phone", ("on-the-phone",)),
        ("offline", "closed", "Offline", ()),
        ("available", "open", "Available", ()),
    ],
)
def test_presence(chain: Chain, state: str, basic: str, note: str, activities: tuple[str, ...]) -> None:
    person = Person(chain=chain)
    with chain.watcher() as watcher:
        watched = watcher.subscribe(person.uri, "presence")
        person.publish("presence", State=state)
        pidf = watched.wait(lambda notify: notify.pidf.note == note, what=state).pidf
    assert (pidf.basic, pidf.activities, pidf.entity) == (basic, activities, person.uri)


def test_the_next_presence_state_replaces_the_one_before(person: Person, watcher: Watcher) -> None:
    watched = watcher.subscribe(person.uri, "presence")
    for state in ("Busy", "Away", "Offline"):
        person.publish("presence", State=state)
        pidf = watched.wait(lambda notify: notify.pidf.note == state, what=state).pidf  # noqa: B023  # called now
        assert len(pidf.tuple_ids) == 1
    assert len(rows(person.chain.database, "presence")) >= 1


def test_a_mailbox_fills_and_is_emptied(person: Person, watcher: Watcher) -> None:
    lamp = watcher.subscribe(person.uri, "message-summary")
    person.publish("message-summary", Messages_New=2, Messages_Saved="5", Messages_Urgent=1)
    full = lamp.wait(lambda notify: notify.message_summary.waiting, what="a lit lamp").message_summary
    assert full.voice == MessageCounts(new=2, saved=5, new_urgent=1, saved_urgent=0)
    assert full.account == person.uri
    person.publish("message-summary", Messages_New=0, Messages_Saved=7)
    empty = lamp.wait(lambda notify: not notify.message_summary.waiting, what="a dark lamp").message_summary
    assert empty.voice == MessageCounts(new=0, saved=7)
    stored = [row for row in rows(person.chain.database, "message-summary") if row["username"] == person.user]
    assert len(stored) == 1


def test_packages_do_not_mix(person: Person, watcher: Watcher) -> None:
    lamps = {package: watcher.subscribe(person.uri, package) for package in ("dialog", "presence", "message-summary")}
    for package, lamp in lamps.items():
        lamp.wait(lambda notify: True, what=f"the initial NOTIFY of {package}")
    person.call("early")
    lamps["dialog"].wait(lambda notify: notify.dialog_info.states == ("early",), what="early")
    person.publish("presence", State="busy")
    lamps["presence"].wait(lambda notify: notify.pidf.note == "Busy", what="busy")
    person.publish("message-summary", Messages_New=1)
    lamps["message-summary"].wait(lambda notify: notify.message_summary.waiting, what="a lit lamp")
    assert {package: len(lamp.notifies) for package, lamp in lamps.items()} == dict.fromkeys(lamps, 2)


def test_a_state_that_expires_is_ended_with_a_full_document(person: Person, watcher: Watcher) -> None:
    """Without one a phone keeps its lamp on. It may come up to one sweep, 5 s, before the time."""
    call, presence, mailbox = (watcher.subscribe(person.uri, package) for package in LAMPS)
    ended = person.chain.counter("pua_ended")
    person.call("confirmed", Call_ID="short", Expires=1)
    person.call("confirmed", Call_ID="long")
    person.publish("presence", State="busy", Expires=1)
    person.publish("message-summary", Messages_New=2, Messages_Saved=1, Expires=1)
    call.wait(lambda notify: notify.dialog_info.states == ("confirmed", "confirmed"), what="two calls")
    presence.wait(lambda notify: notify.pidf.note == "Busy", what="busy")
    mailbox.wait(lambda notify: notify.message_summary.waiting, what="a lit lamp")
    left = call.wait(lambda notify: "terminated" in notify.dialog_info.states, what="an end", after=2, timeout_s=15)
    assert {each.call_id: each.state for each in left.dialog_info.dialogs} == {
        "short": "terminated",
        "long": "confirmed",
    }
    closed = presence.wait(lambda notify: notify.pidf.basic == "closed", what="closed", timeout_s=15)
    assert (closed.pidf.entity, closed.pidf.activities) == (person.uri, ())
    dark = mailbox.wait(
        lambda notify: notify.cseq > 2 and not notify.message_summary.waiting, what="a dark lamp", timeout_s=15
    )
    assert dark.message_summary.voice == MessageCounts(new=0, saved=0)
    assert dark.message_summary.account == person.uri
    until(lambda: person.chain.counter("pua_ended") >= ended + 3, what="the ends to be counted")
    assert all(notify.body for lamp in (call, presence, mailbox) for notify in lamp.notifies[1:])
