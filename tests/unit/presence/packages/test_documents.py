# SPDX-License-Identifier: GPL-2.0-or-later
"""Every document is valid for its package, whatever the names in it; and the schemas reject what is not."""

from __future__ import annotations

import re
from copy import copy
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from kemi_nsq.jsontext import JsonValue
from kemi_nsq.presence.packages import from_event
from kemi_nsq.presence.packages.dialog import DIALOG_STATES, DialogState
from kemi_nsq.presence.packages.message_summary import MailboxState
from kemi_nsq.presence.packages.presence import PRESENCE_STATES, PresenceState
from tests.support.rendering import Document, render
from tests.unit import schemas

Fields = dict[str, JsonValue]

NAMES = {
    "d": "urn:ietf:params:xml:ns:dialog-info",
    "p": "urn:ietf:params:xml:ns:pidf",
    "dm": "urn:ietf:params:xml:ns:pidf:data-model",
    "rpid": "urn:ietf:params:xml:ns:pidf:rpid",
}
DIALOG: Fields = {
    "Event-Package": "dialog",
    "From": '"Alice A." <sip:alice@example.com>',
    "To": "sip:bob@example.com",
    "From-URI": "sip:alice@10.0.0.1:5062;transport=tcp",
    "From-Tag": "a1",
    "To-Tag": "b1",
    "Call-ID": "call-1",
    "Direction": "initiator",
    "State": "early",
}
PRESENCE: Fields = {"Event-Package": "presence", "From": "sip:alice@example.com", "State": "busy"}
MAILBOX: Fields = {"Event-Package": "message-summary", "From": "sip:alice@example.com", "Messages-New": 2}
NASTY = [
    "<&\"'>]]>",
    "&lt;!--",
    "\N{PILE OF POO}\N{FAMILY}",
    "ä" * 10_000,
    "&" * 10_000,
    "\x00",
    "a\x00\x01\x1b\x7f\x85\x9fb",
    "\ud800x\udfff",
    "\ufffe\uffff",
    "a\r\nVoice-Message: 9/9\tb",
    "\u2028\u2029\u202e",
    "%00%zz%",
    " ",
]
# Everything a JSON string can decode to, and lone surrogates, which a caller in Python can pass.
TEXTS = st.text(st.characters(exclude_categories=()), max_size=40) | st.sampled_from(NASTY)


def document(fields: Fields, **changes: JsonValue) -> Document:
    return valid(render(from_event(fields | {name.replace("_", "-"): value for name, value in changes.items()})))


def valid(rendered: Document) -> Document:
    assert schemas.problems(rendered.content_type, rendered.body) == []
    assert b"\0" not in rendered.body
    return rendered


def tree(fields: Fields, **changes: JsonValue) -> etree._Element:
    return etree.fromstring(document(fields, **changes).body)


def values(root: etree._Element, path: str) -> list[str]:
    found = root.xpath(path, namespaces=NAMES)
    assert isinstance(found, list)
    return [str(value) for value in found]


def attributes(element: etree._Element) -> dict[str, str]:
    return {str(name): str(value) for name, value in element.items()}


# dialog-info


def test_a_dialog_document_says_it_all() -> None:
    root = tree(DIALOG)
    assert attributes(root) == {"version": "0", "state": "full", "entity": "sip:alice@example.com"}
    (dialog,) = root
    assert attributes(dialog) == {
        "id": "call-1",
        "call-id": "call-1",
        "local-tag": "a1",
        "remote-tag": "b1",
        "direction": "initiator",
    }
    assert values(root, "d:dialog/d:state/text()") == ["early"]
    assert values(root, "//d:local/d:identity/text()") == ["sip:alice@example.com"]
    assert values(root, "//d:local/d:identity/@display") == ["Alice A."]
    assert values(root, "//d:local/d:target/@uri") == ["sip:alice@10.0.0.1:5062;transport=tcp"]
    assert values(root, "//d:remote/d:identity/text()") == ["sip:bob@example.com"]
    assert values(root, "//d:remote/d:identity/@display") == ["bob"]
    assert values(root, "//d:remote/d:target/@uri") == ["sip:bob@example.com"]


def test_a_dialog_document_in_bytes() -> None:
    rendered = document(DIALOG | {"From": "sip:a@h.example", "From-URI": None}, To_Tag="", Direction=None)
    assert rendered.content_type == "application/dialog-info+xml"
    assert rendered.body.splitlines() == [
        b"<?xml version='1.0' encoding='UTF-8'?>",
        b'<dialog-info xmlns="urn:ietf:params:xml:ns:dialog-info" version="0" state="full" entity="sip:a@h.example">'
        b'<dialog id="call-1" call-id="call-1" local-tag="a1"><state>early</state>'
        b'<local><identity display="a">sip:a@h.example</identity><target uri="sip:a@h.example"/></local>'
        b'<remote><identity display="bob">sip:bob@example.com</identity><target uri="sip:bob@example.com"/></remote>'
        b"</dialog></dialog-info>",
    ]


def test_the_callee_sees_himself_as_local() -> None:
    root = tree(DIALOG, Presentity="sip:bob@example.com", Presentity_User="bob", Presentity_Realm="example.com")
    assert root.get("entity") == "sip:bob@example.com"
    assert values(root, "//d:local/d:identity/text()") == ["sip:bob@example.com"]
    assert values(root, "d:dialog/@local-tag") == ["b1"]
    assert values(root, "d:dialog/@remote-tag") == ["a1"]


def test_targets_can_be_left_out() -> None:
    rendered = valid(render(from_event(DIALOG), include_target=False))
    assert values(etree.fromstring(rendered.body), "//d:target") == []
    assert b"10.0.0.1" not in rendered.body


@pytest.mark.parametrize("state", sorted(DIALOG_STATES))
def test_every_dialog_state_is_valid(state: str) -> None:
    assert values(tree(DIALOG, State=state), "//d:state/text()") == [state]


def test_a_terminated_dialog_without_call_id_has_an_id_alone() -> None:
    root = tree(DIALOG, State="terminated", Call_ID=None)
    assert values(root, "d:dialog/@call-id") == []
    assert values(root, "d:dialog/@id") == values(tree(DIALOG, State="terminated", Call_ID=""), "d:dialog/@id")


# PIDF


def test_a_presence_document_says_it_all() -> None:
    root = tree(PRESENCE)
    assert document(PRESENCE).content_type == "application/pidf+xml"
    assert attributes(root) == {"entity": "sip:alice@example.com"}
    assert values(root, "p:tuple/p:status/p:basic/text()") == ["open"]
    assert values(root, "p:note/text()") == values(root, "dm:person/dm:note/text()") == ["Busy"]
    assert len(root.findall("dm:person/rpid:activities/rpid:busy", NAMES)) == 1


@pytest.mark.parametrize("state", [*PRESENCE_STATES, "unheard of"])
def test_every_presence_state_is_valid(state: str) -> None:
    root = tree(PRESENCE, State=state)
    meaning = PRESENCE_STATES.get(state, PRESENCE_STATES["available"])
    assert values(root, "//p:basic/text()") == [meaning.basic]
    activities = [etree.QName(element).localname for element in root.iterfind(".//rpid:activities/*", NAMES)]
    assert activities == ([meaning.activity] if meaning.activity else [])


def test_ids_name_the_source_and_stay() -> None:
    first, later = tree(PRESENCE, State="busy"), tree(PRESENCE, State="offline")
    assert values(first, "//@id") == values(later, "//@id")
    assert len(set(values(first, "//@id"))) == 2
    other = tree(PRESENCE, Sender_URI="sip:pbx2@example.com")
    assert set(values(first, "//@id")).isdisjoint(values(other, "//@id"))


# Message summary


def test_a_message_summary_in_bytes() -> None:
    rendered = document(MAILBOX, Messages_Saved="5", Messages_Urgent_Saved=1)
    assert rendered.content_type == "application/simple-message-summary"
    assert rendered.body == (
        b"Messages-Waiting: yes\r\nMessage-Account: sip:alice@example.com\r\nVoice-Message: 2/5 (0/1)\r\n"
    )
    assert document(MAILBOX, Messages_New=0).body.startswith(b"Messages-Waiting: no\r\n")


def test_no_line_can_be_slipped_into_a_message_summary() -> None:
    state = from_event(MAILBOX)
    assert isinstance(state, MailboxState)
    body = render(replace(state, account="sip:a@b\r\n\r\nVoice-Message: 9/9\x00")).body
    assert body.count(b"\r\n") == 3
    assert b"\0" not in body
    for name in NASTY:
        document(MAILBOX, From_User=f"x{name}", Message_Account=f"1{name[:50]}".replace("<", "").replace(":", ""))


# Anything in a name


@pytest.mark.parametrize("name", NASTY, ids=ascii)
@pytest.mark.parametrize("package", [DIALOG, PRESENCE, MAILBOX], ids=lambda fields: fields["Event-Package"])
def test_documents_stand_nasty_names(package: Fields, name: str) -> None:
    document(
        package,
        From=f'"{name}" <sip:alice@example.com>',
        From_User=f"u{name}",
        To_User=name,
        Call_ID=f"c{name}",
        Dialog_ID=name,
        From_Tag=name,
        To_Tag=name,
        ETag=name,
        Sender_URI=name,
    )


def test_a_name_comes_back_as_it_was() -> None:
    for name in ("<&\"'>]]>", "\N{PILE OF POO}", "ä" * 10_000, "a  b"):
        assert values(tree(DIALOG, To_User=name), "//d:remote/d:identity/@display") == [name]
    assert values(tree(DIALOG, To_User="a\x00\x1bb\ud800c\nd"), "//d:remote/d:identity/@display") == ["ab\ufffdc d"]
    assert values(tree(DIALOG, To_User="\x00\x1b", To="sip:example.com"), "//d:remote/d:identity/@display") == []


@given(
    st.lists(TEXTS, min_size=6, max_size=6),
    st.sampled_from(sorted(DIALOG_STATES)),
    st.sampled_from(["", "initiator", "outbound"]),
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_every_dialog_document_is_valid(texts: list[str], state: str, direction: str, include_target: bool) -> None:
    name, user, call_id, dialog_id, from_tag, to_tag = texts
    fields = DIALOG | {
        "From": f'"{name}" <sip:alice@example.com>',
        "From-User": user,
        # Angle brackets would make it a name-addr, `?` opens headers, and the last `@` ends the user.
        "To": f"sip:{re.sub('[<>]', '', user)}@[::1]:5060;{re.sub('[<>?@]', '', name)}",
        "Call-ID": f"c{call_id}",
        "Dialog-ID": dialog_id,
        "From-Tag": from_tag,
        "To-Tag": to_tag,
        "State": state,
        "Direction": direction,
    }
    valid(render(from_event(fields), include_target=include_target))


@given(user=TEXTS, state=TEXTS, etag=TEXTS, sender=TEXTS)
@settings(max_examples=80, deadline=None)
def test_every_presence_document_is_valid(*, user: str, state: str, etag: str, sender: str) -> None:
    document(PRESENCE, From_User=user, State=f"x{state}", ETag=etag, Sender_URI=sender)


@given(user=TEXTS, counts=st.lists(st.integers(0, 2**31 - 1), min_size=4, max_size=4))
@settings(max_examples=80, deadline=None)
def test_every_message_summary_is_valid(*, user: str, counts: list[int]) -> None:
    new, saved, urgent, urgent_saved = counts
    document(MAILBOX, From_User=user, MWI_Voice_Message=f"{new}/{saved} ({urgent}/{urgent_saved})", Messages_New=None)


def test_states_made_by_hand_are_cleaned_too() -> None:
    dialog, presence = from_event(DIALOG), from_event(PRESENCE)
    assert isinstance(dialog, DialogState)
    assert isinstance(presence, PresenceState)
    for name in NASTY:
        party = dialog.remote._replace(display=name, tag=name)
        valid(render(replace(dialog, dialog_id=f"d{name}", call_id=name, remote=party)))
        valid(render(replace(presence, origin=name, etag=name)))
        note = replace(presence, meaning=replace(presence.meaning, note=name))
        valid(render(note))


# The schemas themselves

GOOD_DIALOG = render(from_event(DIALOG)).body.decode()
GOOD_PIDF = render(from_event(PRESENCE)).body.decode()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('version="0"', ""),
        ('version="0"', 'version="-1"'),
        ('version="0"', 'version="x"'),
        ('state="full"', ""),
        ('state="full"', 'state="most"'),
        ('entity="sip:alice@example.com"', ""),
        ('entity="sip:alice@example.com"', 'entity="alice"'),
        ('entity="sip:alice@example.com"', 'entity="sip:a lice@example.com"'),
        ('<dialog id="call-1"', "<dialog"),
        ('<dialog id="call-1"', '<dialog id=""'),
        ('direction="initiator"', 'direction=""'),
        ('direction="initiator"', 'direction="inbound"'),
        ('local-tag="a1"', 'local_tag="a1"'),
        ("<state>early</state>", ""),
        ("<state>early</state>", "<state>ringing</state>"),
        ("<state>early</state>", "<state>early</state><state>early</state>"),
        ("<state>early</state>", '<state code="99">early</state>'),
        ("<state>early</state>", '<state event="bored">early</state>'),
        ("<state>early</state>", "<duration>3</duration><state>early</state>"),
        ("<local>", "<local><what/>"),
        ('uri="sip:bob@example.com"', ""),
        (">sip:bob@example.com<", ">bob<"),
        (">sip:bob@example.com<", ">sip:b%zzb@example.com<"),
        ("urn:ietf:params:xml:ns:dialog-info", "urn:ietf:params:xml:ns:dialog"),
        ("</dialog>", ""),
        ("Alice A.", "Alice & A."),
        ("Alice A.", "Alice < A."),
    ],
)
def test_the_dialog_schema_rejects(old: str, new: str) -> None:
    assert schemas.problems("application/dialog-info+xml", GOOD_DIALOG.encode()) == []
    assert old in GOOD_DIALOG
    assert schemas.problems("application/dialog-info+xml", GOOD_DIALOG.replace(old, new, 1).encode())


def test_the_dialog_schema_rejects_remote_before_local() -> None:
    root = etree.fromstring(GOOD_DIALOG.encode())
    dialog = root[0]
    dialog.append(dialog[1])
    assert [etree.QName(part).localname for part in dialog] == ["state", "remote", "local"]
    assert schemas.problems("application/dialog-info+xml", etree.tostring(root))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (' entity="sip:alice@example.com"', ""),
        (' entity="sip:alice@example.com"', ' entity="alice"'),
        (' entity="sip:alice@example.com"', ' entity="sip:a b@example.com"'),
        ("<basic>open</basic>", "<basic>busy</basic>"),
        ("<basic>open</basic>", "<basic>open</basic><basic>open</basic>"),
        ("<status>", "<contact>sip:a@b</contact><status>"),
        ("<status><basic>open</basic></status>", ""),
        ('<tuple id="t', '<tuple id="7'),
        ('<tuple id="t', '<tuple id="a b'),
        ('<tuple id="t', '<tuple name="t'),
        ('<dm:person id="p', '<dm:person name="p'),
        ('<dm:person id="p', '<dm:person id="1'),
        ("<rpid:busy/>", ""),
        ("<rpid:busy/>", "<rpid:bored/>"),
        ("<rpid:busy/>", "<rpid:busy>very</rpid:busy>"),
        ("<rpid:busy/>", "<rpid:busy/><rpid:unknown/>"),
        ("<rpid:activities>", "<dm:note>Busy</dm:note><rpid:activities>"),
        ("<note>Busy</note>", "<remark>Busy</remark>"),
        ("<note>Busy</note>", '<note lang="en">Busy</note>'),
        ("</presence>", '<tuple id="t2"><status/></tuple></presence>'),
        ("</presence>", "<dm:nobody/></presence>"),
        ("</presence>", "&</presence>"),
        ("pidf:data-model", "pidf:data"),
    ],
)
def test_the_presence_schema_rejects(old: str, new: str) -> None:
    assert schemas.problems("application/pidf+xml", GOOD_PIDF.encode()) == []
    assert old in GOOD_PIDF
    assert schemas.problems("application/pidf+xml", GOOD_PIDF.replace(old, new, 1).encode())


def test_the_presence_schema_rejects_one_id_twice() -> None:
    root = etree.fromstring(GOOD_PIDF.encode())
    root.append(copy(root[0]))
    root.insert(1, root[-1])
    assert schemas.problems("application/pidf+xml", etree.tostring(root))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\r\n",
        b"Messages-Waiting: true\r\n",
        b"Messages-Waiting:\r\n",
        b"Messages-Waiting: yes",
        b"Messages-Waiting: yes\n",
        b"Messages-Waiting: yes\nMessage-Account: sip:a@b\n",
        b"Messages-Waiting: yes\r\n\r\n",
        b"Message-Account: sip:a@b\r\nMessages-Waiting: yes\r\n",
        b"Messages-Waiting: yes\r\nMessage-Account: \r\n",
        b"Messages-Waiting: yes\r\nMessage-Account: alice\r\n",
        b"Messages-Waiting: yes\r\nMessage-Account: sip:a b@c\r\n",
        b"Messages-Waiting: yes\r\nVoice-Message: 1/ (/)\r\n",
        b"Messages-Waiting: yes\r\nVoice-Message: 1/2 (0)\r\n",
        b"Messages-Waiting: yes\r\nVoice-Message: -1/2\r\n",
        b"Messages-Waiting: yes\r\nVoice-Message: 4294967296/0\r\n",
        b"Messages-Waiting: yes\r\nSmoke-Message: 1/2\r\n",
        b"Messages-Waiting: yes\r\nVoice-Message: 1/2\r\nMessage-Account: sip:a@b\r\n",
        b"Messages-Waiting: yes\r\nVoice-Message: 1/2\x00\r\n",
    ],
)
def test_the_message_summary_grammar_rejects(body: bytes) -> None:
    assert schemas.message_summary_problems(body)


@pytest.mark.parametrize(
    "body",
    [
        b"Messages-Waiting: no\r\n",
        b"messages-waiting : NO\r\nVoice-Message: 0/8\r\n",
        b"Messages-Waiting: yes\r\nMessage-Account: tel:+1\r\nVoice-Message: 2/8 (0/2)\r\nFax-Message: 4294967295/0"
        b"\r\n",
    ],
)
def test_the_message_summary_grammar_accepts(body: bytes) -> None:
    assert schemas.message_summary_problems(body) == []
