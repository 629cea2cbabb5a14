# SPDX-License-Identifier: GPL-2.0-or-later
"""Registrations: from an event to what a watcher of the package `reg` is told, natively and in Python."""

from __future__ import annotations

from itertools import pairwise

from tests.support.chain import Chain, Person
from tests.support.notify import Notify
from tests.support.subscription import Subscription
from tests.support.until import until
from tests.support.watcher import Watcher

DESK, MOBILE = "sip:desk@192.0.2.4", "sip:mobile@192.0.2.5;transport=tcp"


def has(watched: Subscription, uri: str, state: str) -> Notify:
    """Wait until a contact is shown in a state, whatever others are."""

    def shows(notify: Notify) -> bool:
        return bool(notify.body) and (uri, state) in {(each.uri, each.state) for each in notify.reginfo.contacts}

    return watched.wait(shows, what=f"{uri} {state}", timeout_s=15)


def grow(numbers: list[int]) -> bool:
    """Whether each number is above the one before."""
    return all(before < after for before, after in pairwise(numbers))


def versions(watched: Subscription) -> list[int]:
    """Return the versions of the documents so far."""
    return [notify.reginfo.version for notify in watched.notifies if notify.body]


def test_a_contact_comes_is_refreshed_and_goes(chain: Chain) -> None:
    person = Person(chain=chain)
    with chain.watcher() as watcher:
        watched = watcher.subscribe(person.uri, "reg")
        watched.wait(lambda notify: not notify.body, what="an empty NOTIFY: nobody is registered")
        person.publish("reg", Contact=DESK, State="registered")
        first = has(watched, DESK, "active").reginfo
        assert first.aors == (person.uri,)
        assert [each.event for each in first.contacts] == ["registered"]
        unchanged = chain.counter("pua_unchanged")
        person.publish("reg", Contact=DESK, State="registered")
        chain.drain()
        assert chain.counter("pua_unchanged") == unchanged + 1
        person.publish("reg", Contact=DESK, State="unregistered")
        assert [each.event for each in has(watched, DESK, "terminated").reginfo.contacts] == ["unregistered"]
        assert len(watched.notifies) == 3, "a contact that is refreshed is no news"


def test_what_is_over_is_shown_once_and_then_no_more(person: Person, watcher: Watcher) -> None:
    watched = watcher.subscribe(person.uri, "reg")
    person.publish("reg", Contact=DESK, State="registered")
    person.publish("reg", Contact=MOBILE, State="registered")
    has(watched, MOBILE, "active")
    person.publish("reg", Contact=MOBILE, State="unregistered")
    has(watched, MOBILE, "terminated")

    def only_the_desk() -> bool:
        with person.chain.watcher() as other:
            notify = other.subscribe(person.uri, "reg").wait(lambda notify: bool(notify.body), what="a document")
        return [each.uri for each in notify.reginfo.contacts] == [DESK]

    until(only_the_desk, what="the contact that is over to be hidden")
    assert versions(watched) == sorted(versions(watched))


def test_a_phone_that_restarts_is_shown_again(person: Person, watcher: Watcher) -> None:
    """At once: a watcher ignores a document whose version is not above the last one's (RFC 3680)."""
    watched = watcher.subscribe(person.uri, "reg")
    contact = f'<{DESK};ob>;+sip.instance="<urn:uuid:0-1>"'
    for state in ("registered", "unregistered", "registered", "unregistered", "registered"):
        person.publish("reg", Contact=contact, State=state)
        shown = watched.wait(
            lambda notify: bool(notify.body) and notify.reginfo.contacts[0].event == state,  # noqa: B023  # called now
            what=state,
            after=len(versions(watched)),
        )
        assert shown.reginfo.contacts[0].uri == f"{DESK};ob"
    assert grow(versions(watched))


def test_a_contact_that_expires_after_another_came_is_news(person: Person, watcher: Watcher) -> None:
    watched = watcher.subscribe(person.uri, "reg")
    person.publish("reg", Contact=DESK, State="registered", Expires=1)
    has(watched, DESK, "active")
    person.publish("reg", Contact=MOBILE, State="registered")
    has(watched, MOBILE, "active")
    has(watched, DESK, "terminated")
    assert grow(versions(watched)[-2:])


def test_a_contact_that_nobody_refreshes_expires(person: Person, watcher: Watcher) -> None:
    watched = watcher.subscribe(person.uri, "reg")
    person.publish("reg", Contact=DESK, State="registered", Expires=1)
    active = has(watched, DESK, "active").reginfo
    over = has(watched, DESK, "terminated").reginfo
    assert [each.event for each in over.contacts] == ["expired"]
    assert over.version > active.version


def test_a_reset_ends_contacts_too(person: Person, watcher: Watcher) -> None:
    watched = watcher.subscribe(person.uri, "reg")
    person.publish("reg", Contact=DESK, State="registered", Sender_URI=f"sip:registrar@{person.user}")
    has(watched, DESK, "active")
    person.chain.publish(
        b'{"Event-Category": "presence", "Event-Name": "reset", "Sender-URI": "sip:registrar@%s"}'
        % person.user.encode()
    )
    assert [each.event for each in has(watched, DESK, "terminated").reginfo.contacts] == ["expired"]
