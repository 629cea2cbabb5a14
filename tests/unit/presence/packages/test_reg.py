# SPDX-License-Identifier: GPL-2.0-or-later
"""Registrations: what an event says, its document, its end, and what counts as the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemi_nsq.errors import PayloadError
from kemi_nsq.jsontext import JsonValue
from kemi_nsq.presence.packages import PACKAGES, ended, from_event
from kemi_nsq.presence.packages.reg import CONTACT_EVENTS, ContactState
from kemi_nsq.presence.packages.state import OVER_RANK
from tests.support.documents import Contact, RegInfo, parse_reginfo
from tests.support.rendering import render
from tests.unit import schemas

CONTACT = "sip:alice@192.0.2.4:5060;transport=tcp"
REG: dict[str, JsonValue] = {
    "Event-Package": "reg",
    "From": "sip:alice@example.com",
    "Contact": CONTACT,
    "State": "registered",
    "Expires": 600,
}


def read(**changes: JsonValue) -> ContactState:
    state = from_event(REG | {name.replace("_", "-"): value for name, value in changes.items()})
    assert isinstance(state, ContactState)
    return state


def document(version: int = 7, **changes: JsonValue) -> bytes:
    rendered = render(read(**changes), version=version)
    assert schemas.problems(rendered.content_type, rendered.body) == []
    return rendered.body


def shown(body: bytes) -> RegInfo:
    return parse_reginfo(body)


def test_a_contact_is_read_with_its_address_of_record() -> None:
    state = read(Call_ID="r-1", Sender_URI="sip:registrar@example.com")
    assert (state.presentity.uri, state.sender) == ("sip:alice@example.com", "sip:registrar@example.com")
    assert (str(state.contact.uri), state.happened, state.call_id, state.expires_s) == (
        CONTACT,
        "registered",
        "r-1",
        600,
    )


@pytest.mark.parametrize("event", CONTACT_EVENTS)
def test_the_event_of_a_contact_says_whether_it_is_bound(event: str) -> None:
    state = read(State=event.upper())
    (contact,) = shown(document(State=event)).contacts
    over = state.rank == OVER_RANK
    assert (contact.event, contact.state) == (event, "terminated" if over else "active")
    assert state.expires_s == (None if over else 600)


def test_a_document_says_it_all() -> None:
    body = document(Contact=f'"Desk & Co" <{CONTACT}>', Call_ID="r-1")
    (contact,) = shown(body).contacts
    assert shown(body) == RegInfo(version=7, aors=("sip:alice@example.com",), contacts=(contact,))
    assert contact == Contact(id=contact.id, uri=CONTACT, state="active", event="registered")
    assert b"<display-name>Desk &amp; Co</display-name>" in body
    assert b'callid="r-1"' in body


def test_a_contact_has_its_own_row_and_keeps_its_id() -> None:
    other = "sip:alice@192.0.2.5"
    assert read().row_etag() == read(State="expired", Call_ID="new").row_etag()
    assert read().row_etag() != read(Contact=other).row_etag()
    documents = [document(), document(State="expired"), document(Contact=other)]
    ids = [shown(each).contacts[0].id for each in documents]
    assert ids[0] == ids[1] != ids[2]


def test_a_refreshed_contact_says_the_same_and_a_new_event_does_not() -> None:
    same = PACKAGES["reg"].same
    assert document(version=7) != document(version=8)
    assert same(document(version=7), document(version=8))
    assert not same(document(version=7), document(version=7, State="refreshed"))
    assert not same(document(version=7), document(version=7, Call_ID=' version="7"'))


def test_the_end_is_an_expired_contact_with_a_version_that_a_watcher_takes() -> None:
    body = ended("reg", document(version=7))
    assert schemas.problems("application/reginfo+xml", body) == []
    (contact,) = shown(body).contacts
    assert (contact.state, contact.event, contact.uri) == ("terminated", "expired", CONTACT)
    assert b'<registration aor="sip:alice@example.com"' in body
    assert b'state="active"' not in body
    assert shown(body).version == 8


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"Contact": None}, "Contact is missing; a SIP URI such as sip:user@host is wanted"),
        ({"Contact": "*"}, "Contact is '*'; a SIP URI such as sip:user@host is wanted"),
        ({"State": None}, f"State is missing; one of {', '.join(CONTACT_EVENTS)} is wanted"),
        ({"State": "active"}, f"State is 'active'; one of {', '.join(CONTACT_EVENTS)} is wanted"),
        ({"Expires": 0}, "Expires is '0'; a whole number of seconds above 0 is wanted"),
    ],
)
def test_what_is_wrong_is_one_line(changes: dict[str, JsonValue], line: str) -> None:
    with pytest.raises(PayloadError) as refused:
        read(**changes)
    assert str(refused.value) == line


@given(user=st.text(min_size=1, max_size=40), display=st.text(max_size=40), call_id=st.text(max_size=40))
def test_every_document_is_valid_whatever_the_names(user: str, display: str, call_id: str) -> None:
    quoted = display.replace("\\", "").replace('"', "")
    try:
        body = document(Contact=f'"{quoted}" <sip:{user}@192.0.2.4>', Call_ID=call_id)
    except PayloadError:
        return  # no URI
    assert schemas.problems("application/reginfo+xml", ended("reg", body)) == []
