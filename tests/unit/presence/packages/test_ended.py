# SPDX-License-Identifier: GPL-2.0-or-later
"""Documents that say that a state is over: valid, full, and about the same thing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from kemi_nsq.errors import PayloadError
from kemi_nsq.jsontext import JsonValue
from kemi_nsq.presence.packages import ended, from_event
from kemi_nsq.presence.packages.dialog import DIALOG_STATES
from kemi_nsq.presence.packages.presence import PRESENCE_STATES
from kemi_nsq.presence.packages.state import Wishes
from kemi_nsq.presence.row import MAX_BODY
from kemi_nsq.settingtypes import Meaning
from tests.support.documents import MessageCounts, parse_dialog_info, parse_message_summary, parse_pidf
from tests.support.rendering import Document, render
from tests.unit import schemas

Fields = dict[str, JsonValue]

DIALOG: Fields = {
    "Event-Package": "dialog",
    "From": '"Alice A." <sip:alice@example.com>',
    "To": "sip:bob@example.com",
    "From-Tag": "a1",
    "Call-ID": "call-1",
    "Direction": "initiator",
    "State": "confirmed",
}
PRESENCE: Fields = {"Event-Package": "presence", "From": "sip:alice@example.com", "State": "confirmed"}
MAILBOX: Fields = {"Event-Package": "message-summary", "From": "sip:alice@example.com", "Messages-New": 2}
TEXTS = st.text(max_size=20) | st.sampled_from(["<&\"'>", "\r\nVoice-Message: 9/9", "💩", "a\x00b", "%00"])


def over(fields: Fields) -> tuple[Document, bytes]:
    document = render(from_event(fields))
    return document, ended(str(fields["Event-Package"]), document.body, 1)


@settings(max_examples=60, deadline=None)
@given(state=st.sampled_from(sorted(DIALOG_STATES)), name=TEXTS, call_id=TEXTS, tag=TEXTS)
def test_a_call_is_terminated_and_nothing_else_changes(state: str, name: str, call_id: str, tag: str) -> None:
    fields = DIALOG | {"State": state, "To-User": name, "Call-ID": f"c{call_id}", "From-Tag": tag}
    document, body = over(fields)
    assert schemas.problems(document.content_type, body) == []
    same = render(from_event(fields | {"State": "terminated"})).body
    assert etree.tostring(etree.fromstring(body), method="c14n") == etree.tostring(
        etree.fromstring(same), method="c14n"
    )


@settings(max_examples=30, deadline=None)
@given(state=st.sampled_from(sorted(PRESENCE_STATES)), source=TEXTS)
def test_presence_is_closed_with_no_activity(state: str, source: str) -> None:
    document, body = over(PRESENCE | {"State": state, "Sender-URI": source})
    assert schemas.problems(document.content_type, body) == []
    before, after = parse_pidf(document.body), parse_pidf(body)
    assert (after.basic, after.note, after.activities) == ("closed", "Offline", ())
    assert (after.entity, after.tuple_ids) == (before.entity, before.tuple_ids)


@settings(max_examples=60, deadline=None)
@given(new=st.integers(0, 2**31 - 1), urgent=st.integers(0, 9), account=TEXTS)
def test_a_mailbox_is_empty(new: int, urgent: int, account: str) -> None:
    fields = MAILBOX | {"Messages-New": new, "Messages-Urgent": urgent, "Message-Account": account}
    try:
        document, body = over(fields)
    except PayloadError:
        return  # no account
    assert schemas.problems(document.content_type, body) == []
    before, after = parse_message_summary(document.body), parse_message_summary(body)
    assert not after.waiting
    assert after.voice == MessageCounts(new=0, saved=0)
    assert after.account == before.account


@pytest.mark.parametrize("fields", [DIALOG, PRESENCE, MAILBOX], ids=lambda fields: str(fields["Event-Package"]))
def test_what_is_over_stays_as_it_is(fields: Fields) -> None:
    document, body = over(fields)
    assert body != document.body
    assert ended(str(fields["Event-Package"]), body, 1) == body


@settings(max_examples=60, deadline=None)
@given(state=st.sampled_from(sorted(DIALOG_STATES)), name=TEXTS)
def test_the_end_of_the_longest_document_fits_the_column(state: str, name: str) -> None:
    """Else a database that is strict about it would refuse the ends of all states, at each sweep."""
    blob, short = 65535, {"short": Meaning(basic="open", note="x")}
    for fields in (DIALOG | {"State": state, "To-User": name}, PRESENCE | {"State": "short"}, MAILBOX):
        body = render(from_event(fields, Wishes(words=short))).body
        assert MAX_BODY + len(ended(str(fields["Event-Package"]), body, 1)) - len(body) <= blob


def test_all_dialogs_of_a_document_are_terminated() -> None:
    two = render(from_event(DIALOG)).body.decode()
    start, stop = two.index("<dialog "), two.index("</dialog>") + len("</dialog>")
    two = two[:stop] + two[start:stop].replace("call-1", "call-2") + two[stop:]
    body = ended("dialog", two.encode(), 1)
    assert parse_dialog_info(body).states == ("terminated", "terminated")


@pytest.mark.parametrize(
    ("event", "body", "problem"),
    [
        ("dialog", b"", "is no XML"),
        ("dialog", b"no xml", "is no XML"),
        ("presence", b"<presence>", "is no XML"),
        ("dialog", b"\x00", "is no XML"),
        ("conference", b"<conference-info/>", "'conference' is none of ours"),
        ("", b"", "'' is none of ours"),
    ],
)
def test_what_is_not_ours_is_refused(event: str, body: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        ended(event, body, 1)


def test_entities_are_neither_expanded_nor_fetched() -> None:
    hostile = (
        b'<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/hostname"><!ENTITY y "yyyy">]>'
        b'<dialog-info xmlns="urn:ietf:params:xml:ns:dialog-info"><dialog id="1"><state>&x;&y;</state></dialog>'
        b"<note>&x;&y;</note></dialog-info>"
    )
    try:
        body = ended("dialog", hostile, 1)
    except ValueError:
        return
    assert b"yyyy</note>" not in body
    assert b"<note>&x;&y;</note>" in body
