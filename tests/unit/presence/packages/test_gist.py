# SPDX-License-Identifier: GPL-2.0-or-later
"""What a document says in a few words, whoever has written it, and that none of them does any harm."""

from __future__ import annotations

import time

import pytest

from kemi_nsq.jsontext import JsonValue
from kemi_nsq.presence.packages import PACKAGES, ended, from_event, gist
from kemi_nsq.presence.packages.state import Gist, Wishes

FIELDS: dict[str, JsonValue] = {
    "From": "sip:alice@example.com",
    "To": "sip:bob@example.com",
    "Call-ID": "c1",
    "Contact": "<sip:alice@192.0.2.7>",
    "Messages-New": 2,
    "Messages-Saved": 5,
}
BOMB = b"""<?xml version="1.0"?><!DOCTYPE d [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;"><!ENTITY d "&c;&c;&c;&c;&c;&c;&c;&c;&c;&c;">
<!ENTITY e "&d;&d;&d;&d;&d;&d;&d;&d;&d;&d;"><!ENTITY f "&e;&e;&e;&e;&e;&e;&e;&e;&e;&e;">
<!ENTITY g "&f;&f;&f;&f;&f;&f;&f;&f;&f;&f;"><!ENTITY h "&g;&g;&g;&g;&g;&g;&g;&g;&g;&g;">]>
<dialog-info xmlns="urn:ietf:params:xml:ns:dialog-info"><dialog%s><state>%s</state></dialog></dialog-info>"""


def document(package: str, state: str) -> bytes:
    return from_event(FIELDS | {"Event-Package": package, "State": state}).document(Wishes(), 1)


@pytest.mark.parametrize(
    ("package", "state", "said"),
    [
        ("dialog", "confirmed", ("confirmed", "with sip:bob@example.com, call c1")),
        ("presence", "busy", ("open", "Busy")),
        ("presence", "offline", ("closed", "Offline")),
        ("message-summary", "", ("waiting yes, 2/5 (0/0)", "sip:alice@example.com")),
        ("reg", "registered", ("active", "sip:alice@192.0.2.7")),
    ],
)
def test_a_document_of_ours_says_its_state(package: str, state: str, said: tuple[str, str]) -> None:
    assert gist(package, document(package, state)) == said


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_says_what_an_end_is(package: str) -> None:
    state = {"reg": "registered"}.get(package, "confirmed")
    said = gist(package, ended(package, document(package, state), 2))
    assert said.state in ("terminated", "closed", "waiting no, 0/0 (0/0)")


@pytest.mark.parametrize(
    ("package", "body"),
    [
        ("dialog", b"no XML"),
        ("dialog", b""),
        ("dialog", b"x" * 300_000),
        ("sla", b"<x/>"),
        ("presence", b"\xff\xfe"),
    ],
)
def test_what_cannot_be_read_is_told_so(package: str, body: bytes) -> None:
    assert gist(package, body).state == "?"


def test_a_phone_says_several_things_in_one_document() -> None:
    dialog = b"<dialog call-id='%d'><state>%s</state></dialog>"
    both = dialog % (1, b"early") + dialog % (2, b"confirmed")
    body = b"<dialog-info xmlns='urn:ietf:params:xml:ns:dialog-info'>" + both + b"</dialog-info>"
    assert gist("dialog", body) == Gist("early, confirmed", "call 1, call 2")
    assert gist("dialog", b"<dialog-info xmlns='urn:ietf:params:xml:ns:dialog-info'/>").state == "no dialog"


@pytest.mark.parametrize("where", [(b"", b"&h;"), (b" call-id='&h;'", b"early")], ids=["text", "attribute"])
def test_a_document_that_wants_to_grow_stays_small(where: tuple[bytes, bytes]) -> None:
    began = time.monotonic()
    said = gist("dialog", BOMB % where)
    assert time.monotonic() - began < 2
    assert len(said.state) + len(said.about) < 1000


def test_a_file_of_the_machine_is_not_read() -> None:
    body = b"""<!DOCTYPE d [<!ENTITY a SYSTEM "file:///etc/hostname">]>
    <dialog-info xmlns="urn:ietf:params:xml:ns:dialog-info"><dialog><state>&a;</state></dialog></dialog-info>"""
    with open("/etc/hostname", encoding="utf-8") as file:
        assert file.read().strip() not in gist("dialog", body).state


def test_control_characters_and_what_is_long_do_not_come_out() -> None:
    lines = b"Messages-Waiting: \x1b[31myes\x07\r\nMessage-Account: " + b"a" * 5000
    said = gist("message-summary", lines)
    assert said.state == "waiting [31myes"
    assert len(said.about) == 300
