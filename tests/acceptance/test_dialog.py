# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls: from an event on NSQ to the lamp of a watcher, with a native and with a Python configuration."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.support.chain import DOMAIN, Chain, Person, event
from tests.support.database import rows
from tests.support.notify import Notify
from tests.support.subscription import Subscription
from tests.support.watcher import Watcher

pytestmark = pytest.mark.usefixtures("chain")


def shows(subscription: Subscription, *states: str) -> Notify:
    """Wait for a NOTIFY whose dialogs have these states, in any order."""
    return subscription.wait(
        lambda notify: sorted(notify.dialog_info.states) == sorted(states), what=f"dialogs that are {states}"
    )


def versions(subscription: Subscription) -> list[int]:
    return [notify.dialog_info.version for notify in subscription.notifies]


def test_who_subscribes_later_gets_the_stored_state(person: Person, watcher: Watcher) -> None:
    person.call("confirmed")
    person.chain.drain()
    first = watcher.subscribe(person.uri, "dialog").wait(lambda notify: True, what="the initial NOTIFY")
    assert first.dialog_info.states == ("confirmed",)
    assert first.dialog_info.entity == person.uri
    assert first.dialog_info.state == "full"


def test_a_call_is_followed_from_early_to_terminated(person: Person, watcher: Watcher) -> None:
    lamp = watcher.subscribe(person.uri, "dialog")
    idle = lamp.wait(lambda notify: True, what="the initial NOTIFY")
    assert idle.dialog_info.states == ("terminated",)  # a document that says "no call", never an empty body
    for state in ("early", "confirmed", "terminated"):
        person.call(state)
        lamp.wait(lambda notify: notify.dialog_info.states == (state,), what=state, after=1)  # noqa: B023  # called now
    assert [notify.dialog_info.entity for notify in lamp.notifies] == [person.uri] * 4
    ids = {notify.dialog_info.dialogs[0].id for notify in lamp.notifies[1:]}
    assert len(ids) == 1


def test_the_version_grows_over_updates_refreshes_and_a_new_subscription(person: Person, watcher: Watcher) -> None:
    lamp = watcher.subscribe(person.uri, "dialog")
    for state in ("early", "confirmed"):
        person.call(state)
        shows(lamp, state)
        before = len(lamp.notifies)
        lamp.refresh()
        lamp.wait(lambda notify: notify.dialog_info.states == (state,), what="a refresh", after=before)  # noqa: B023
    lamp.unsubscribe()
    assert versions(lamp) == [1, 2, 3, 4, 5, 6]
    again = watcher.subscribe(person.uri, "dialog")
    shows(again, "confirmed")
    person.call("terminated")
    shows(again, "terminated")
    assert all(earlier < later for earlier, later in pairwise(versions(again)))


def test_every_watcher_of_a_presentity_is_told(person: Person, watcher: Watcher) -> None:
    lamps = [watcher.subscribe(person.uri, "dialog") for _ in range(3)]
    person.call("early")
    for lamp in lamps:
        shows(lamp, "early")


def test_two_calls_at_once_are_two_dialogs_and_one_ends(person: Person, watcher: Watcher) -> None:
    lamp = watcher.subscribe(person.uri, "dialog")
    person.call("confirmed", Call_ID="one")
    person.call("early", Call_ID="two", To=f"sip:carol@{DOMAIN}")
    both = shows(lamp, "confirmed", "early").dialog_info
    assert {(each.call_id, each.state, each.remote.identity) for each in both.dialogs} == {
        ("one", "confirmed", f"sip:bob@{DOMAIN}"),
        ("two", "early", f"sip:carol@{DOMAIN}"),
    }
    person.call("terminated", Call_ID="one")
    after = shows(lamp, "terminated", "early").dialog_info
    assert {each.call_id: each.state for each in after.dialogs} == {"one": "terminated", "two": "early"}


def test_the_callee_is_the_presentity_when_the_event_says_so(person: Person, watcher: Watcher) -> None:
    callee = Person(chain=person.chain)
    lamp = watcher.subscribe(callee.uri, "dialog")
    person.call(
        "early",
        To=callee.uri,
        Direction="outbound",
        Presentity=callee.uri,
        Presentity_User=callee.user,
        Presentity_Realm=DOMAIN,
    )
    info = shows(lamp, "early").dialog_info
    dialog = info.dialogs[0]
    assert (info.entity, dialog.direction) == (callee.uri, "recipient")
    assert (dialog.local.identity, dialog.remote.identity) == (callee.uri, person.uri)
    assert (dialog.local.target, dialog.remote.target) == (callee.uri, person.uri)


def test_odd_names_arrive_as_they_were(person: Person, watcher: Watcher) -> None:
    name = "<Zoë> & \"Söhne\" 'x' 😀"
    lamp = watcher.subscribe(person.uri, "dialog")
    person.call("early", To=f'"{name.replace(chr(34), chr(92) + chr(34))}" <sip:bob@{DOMAIN}>', Call_ID='<&">@x')
    dialog = shows(lamp, "early").dialog_info.dialogs[0]
    assert (dialog.remote.display, dialog.call_id) == (name, '<&">@x')


def test_an_event_for_somebody_without_watchers_is_stored(person: Person) -> None:
    before = person.chain.counters()
    person.call("early")
    person.chain.drain()
    stored = [row for row in rows(person.chain.database, "dialog") if row["username"] == person.user]
    assert len(stored) == 1
    assert person.chain.counter("pua_stored") == before.get("pua_stored", 0) + 1
    assert person.chain.counter("refresh_failed") == 0


def test_a_duplicate_event_causes_no_second_notify(person: Person, watcher: Watcher) -> None:
    unchanged = person.chain.counter("pua_unchanged")
    lamp = watcher.subscribe(person.uri, "dialog")
    for _ in range(3):
        person.call("early")
        person.chain.drain()
    person.call("confirmed")
    shows(lamp, "confirmed")
    assert [notify.dialog_info.states[0] for notify in lamp.notifies] == ["terminated", "early", "confirmed"]
    assert person.chain.counter("pua_unchanged") == unchanged + 2


def test_a_late_early_never_overwrites_terminated(person: Person, watcher: Watcher) -> None:
    """A deferred message keeps the timestamp of its publishing: it is older than what overtook it."""
    chain = person.chain
    stale = chain.counter("pua_stale")
    lamp = watcher.subscribe(person.uri, "dialog")
    body = event("dialog", person.user, **person.call_fields("early"))
    chain.nsqd.http("POST", "/pub", body=body, topic="kamailio", defer="300")
    for state in ("confirmed", "terminated"):
        person.call(state)
        lamp.wait(lambda notify: notify.dialog_info.states == (state,), what=state, after=1)  # noqa: B023  # called now
    chain.drain()
    assert chain.counter("pua_stale") == stale + 1
    lamp.refresh()
    last = lamp.wait(lambda notify: True, what="the NOTIFY of the refresh", after=3)
    assert last.dialog_info.states == ("terminated",)
    assert len(lamp.notifies) == 4


@pytest.mark.alone
def test_events_that_come_at_once_end_in_the_latest_state(person: Person, watcher: Watcher) -> None:
    """They may share a NOTIFY, so a state that was over at once need not be seen; the last one must be."""
    lamp = watcher.subscribe(person.uri, "dialog")
    calls = [f"{person.user}-{number}" for number in range(10)]
    person.chain.nsqd.publish_many(
        "kamailio",
        [
            event("dialog", person.user, **person.call_fields(state, Call_ID=call))
            for state in ("early", "confirmed", "terminated")
            for call in calls
        ],
    )
    info = shows(lamp, *["terminated"] * len(calls)).dialog_info
    assert sorted(dialog.call_id for dialog in info.dialogs) == sorted(calls)
    person.chain.drain()
    assert lamp.notifies[-1].dialog_info == info
    assert len(lamp.notifies) <= 1 + 3 * len(calls)


def test_a_thousand_presentities_get_a_thousand_notifies(chain: Chain, watcher: Watcher) -> None:
    people = [Person(chain=chain) for _ in range(1000)]
    lamps = watcher.subscribe_many((person.uri for person in people), "dialog")
    chain.nsqd.publish_many(
        "kamailio", [event("dialog", person.user, **person.call_fields("early")) for person in people]
    )
    for person, lamp in zip(people, lamps, strict=True):
        info = lamp.wait(lambda notify: notify.dialog_info.states == ("early",), what="early", timeout_s=30).dialog_info
        assert (info.entity, info.dialogs[0].call_id) == (person.uri, f"{person.user}-call")
        assert [notify.cseq for notify in lamp.notifies] == [1, 2]
