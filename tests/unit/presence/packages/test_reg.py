# SPDX-License-Identifier: GPL-2.0-or-later
"""Registrations: what an event says, its document, its end, and what counts as the same."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemi_nsq.errors import PayloadError
from kemi_nsq.jsontext import JsonValue
from kemi_nsq.presence.change import Change
from kemi_nsq.presence.packages import PACKAGES, ended, from_event
from kemi_nsq.presence.packages.reg import CONTACT_EVENTS, ContactState
from kemi_nsq.presence.packages.state import OVER_RANK, document_version
from kemi_nsq.presence.row import Order
from kemi_nsq.presence.table import PresentityTable
from tests.support.database import rows
from tests.support.documents import Contact, RegInfo, parse_reginfo
from tests.support.presentity_table import create_presentity_table
from tests.support.rendering import render
from tests.support.rows import event_row
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


@pytest.mark.parametrize(("before", "now", "stored"), [(7, 8, 8), (7, 7, 8), (9, 7, 10)])
def test_each_document_of_a_contact_has_a_version_above_the_one_before(before: int, now: int, stored: int) -> None:
    body = PACKAGES["reg"].follows(document(version=before), document(version=now, State="expired"))
    assert shown(body).version == stored
    assert schemas.problems("application/reginfo+xml", body) == []


def test_versions_grow_with_the_time_and_fit_31_bits_until_2031() -> None:
    day_s = 86400.0
    assert document_version(1_800_000_001) - document_version(1_800_000_000) == 10
    assert document_version(0) == 0
    assert document_version(1_735_689_600 + 6 * 365 * day_s) < 2**31


@pytest.mark.parametrize(
    ("given", "uri", "display"),
    [
        (f"<{CONTACT}>", CONTACT, ""),
        ('<sip:a@192.0.2.4;ob>;+sip.instance="<urn:uuid:0-1>";expires=60', "sip:a@192.0.2.4;ob", ""),
        ('"A \\" <b>" <sip:a@192.0.2.4>;q=0.5', "sip:a@192.0.2.4", 'A " <b>'),
        ("Desk <sip:a@[2001:db8::1]:5060>", "sip:a@[2001:db8::1]:5060", "Desk"),
        ('"a, b" <sip:a@192.0.2.4>;x="1,2"', "sip:a@192.0.2.4", "a, b"),
    ],
)
def test_a_contact_as_a_phone_writes_it(given: str, uri: str, display: str) -> None:
    contact = read(Contact=given).contact
    assert (str(contact.uri), contact.display) == (uri, display)


@pytest.mark.parametrize(
    "several",
    [
        "<sip:a@192.0.2.4>;q=0.5, <sip:a@192.0.2.5>",
        "sip:a@192.0.2.4, sip:b@192.0.2.5",
        "<sip:a@192.0.2.4> <sip:b@c>",
        "a < b",
    ],
)
def test_what_is_not_one_contact_is_refused(several: str) -> None:
    with pytest.raises(PayloadError, match="one contact, a SIP URI such as sip:user@host, is wanted"):
        read(Contact=several)


def test_a_phone_that_restarts_in_one_moment_is_registered_after_it(tmp_path: Path) -> None:
    """As with a field of the producer that counts whole seconds; and each document has a version of its own."""
    path = create_presentity_table(tmp_path / "kamailio.db")
    said = [(100, "registered"), (200, "unregistered"), (200, "registered"), (200, "unregistered")]
    with closing(PresentityTable(f"sqlite+pysqlite:///{path}", "presentity")) as table:
        events = [(REG | {"State": state}, Order(position=position, message_id="0" * 16)) for position, state in said]
        changes = [table.save(event_row(*event)) for event in events]
    assert changes == [*[Change.STORED] * 3, Change.STALE]
    (row,) = rows(path)
    document = shown(bytes(row["body"]))  # type: ignore[arg-type]  # it is bytes
    assert (document.contacts[0].event, document.version) == ("registered", 3)


def test_the_end_is_an_expired_contact_with_a_version_that_a_watcher_takes() -> None:
    body = ended("reg", document(version=7), 3)
    assert schemas.problems("application/reginfo+xml", body) == []
    (contact,) = shown(body).contacts
    assert (contact.state, contact.event, contact.uri) == ("terminated", "expired", CONTACT)
    assert b'<registration aor="sip:alice@example.com"' in body
    assert b'state="active"' not in body
    assert shown(body).version == 8
    assert shown(ended("reg", document(version=7), 9)).version == 9


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
    assert schemas.problems("application/reginfo+xml", ended("reg", body, 8)) == []
