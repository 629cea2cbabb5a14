# SPDX-License-Identifier: GPL-2.0-or-later
"""The body that a watcher gets, as the event package has it.

`dialog` has dialog-info (RFC 4235), `presence` PIDF with data model and RPID (RFC 3863, 4479, 4480),
`message-summary` a text of its own (RFC 3842). XML is built as a tree by lxml, never from strings. One broken
document of a presentity makes Kamailio send none of its documents, so each text is cleaned of what XML 1.0 does
not allow.
"""

from __future__ import annotations

import copy
import functools
import hashlib
from dataclasses import dataclass

from lxml import etree

from kemi_nsq.fields import clean
from kemi_nsq.publication import DialogState, MailboxState, Party, PresenceState, State, source_etag

DIALOG_INFO = "urn:ietf:params:xml:ns:dialog-info"
PIDF = "urn:ietf:params:xml:ns:pidf"
DATA_MODEL = "urn:ietf:params:xml:ns:pidf:data-model"
RPID = "urn:ietf:params:xml:ns:pidf:rpid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A NOTIFY body: its media type and its bytes, UTF-8."""

    content_type: str
    body: bytes


def render(state: State, *, include_target: bool = True) -> Document:
    """Write the document of a state; it is always valid for its package.

    Args:
        state: what to write.
        include_target: write the target URIs of a dialog too, which show where the parties can be reached.
    """
    match state:
        case DialogState():
            return _xml("application/dialog-info+xml", _dialog_info(state, include_target=include_target))
        case PresenceState():
            return _xml("application/pidf+xml", _pidf(state))
        case MailboxState():
            return _message_summary(state)


def _dialog_info(state: DialogState, *, include_target: bool) -> etree._Element:
    root = copy.deepcopy(_empty_dialog_info(include_target))
    _attributes(root, entity=state.presentity.uri)
    dialog = root[0]
    name, local, remote = dialog
    dialog.set("id", clean(state.dialog_id))
    optional = {
        "call-id": state.call_id,
        "local-tag": state.local.tag,
        "remote-tag": state.remote.tag,
        "direction": state.direction,
    }
    _attributes(dialog, **optional)
    name.text = state.state
    _fill_participant(local, state.local)
    _fill_participant(remote, state.remote)
    return root


@functools.cache
def _empty_dialog_info(include_target: bool) -> etree._Element:
    """Return the elements that every document has, in their order, without values; copying them is fast."""
    root = _root(DIALOG_INFO, "dialog-info", {None: DIALOG_INFO})
    # Kamailio's presence_dialoginfo merges the rows under a root of its own, with a version for each watcher.
    _attributes(root, version="0", state="full")
    dialog = _child(root, DIALOG_INFO, "dialog")
    _child(dialog, DIALOG_INFO, "state")
    for side in ("local", "remote"):
        participant = _child(dialog, DIALOG_INFO, side)
        _child(participant, DIALOG_INFO, "identity")
        if include_target:
            _child(participant, DIALOG_INFO, "target")
    return root


def _fill_participant(participant: etree._Element, party: Party) -> None:
    """Write local or remote (RFC 4235 section 4.1.6)."""
    identity, *target = participant
    identity.text = clean(party.identity)
    # `display` as in the RFC's text, its examples and phones; only its schema calls it `display-name`.
    _attributes(identity, display=party.display)
    for element in target:
        _attributes(element, uri=party.target)


def _pidf(state: PresenceState) -> etree._Element:
    # Ids are of type xs:ID, so they start with a letter; and they stay the same from one NOTIFY to the next.
    digest = hashlib.sha256(source_etag(state).encode()).hexdigest()[:16]
    root = _root(PIDF, "presence", {None: PIDF, "dm": DATA_MODEL, "rpid": RPID})
    _attributes(root, entity=state.presentity.uri)
    service = _child(root, PIDF, "tuple")
    _attributes(service, id=f"t{digest}")
    _child(_child(service, PIDF, "status"), PIDF, "basic", state.meaning.basic)
    _child(root, PIDF, "note", state.meaning.note)
    person = _child(root, DATA_MODEL, "person")
    _attributes(person, id=f"p{digest}")
    if state.meaning.activity:
        _child(_child(person, RPID, "activities"), RPID, state.meaning.activity)
    _child(person, DATA_MODEL, "note", state.meaning.note)
    return root


def _message_summary(state: MailboxState) -> Document:
    """Write the text of RFC 3842 section 5.2; `clean` keeps CR and LF out of the account."""
    lines = (
        f"Messages-Waiting: {'yes' if state.waiting else 'no'}",
        f"Message-Account: {clean(state.account)}",
        f"Voice-Message: {state.new}/{state.saved} ({state.urgent}/{state.urgent_saved})",
    )
    body = "".join(f"{line}\r\n" for line in lines).encode()
    return Document(content_type="application/simple-message-summary", body=body)


def _root(namespace: str, name: str, prefixes: dict[str | None, str]) -> etree._Element:
    # None is lxml's key for the default namespace, which its stubs do not know.
    return etree.Element(f"{{{namespace}}}{name}", nsmap=prefixes)  # type: ignore[arg-type]


def _child(parent: etree._Element, namespace: str, name: str, value: str = "") -> etree._Element:
    child = etree.SubElement(parent, f"{{{namespace}}}{name}")
    if value:
        child.text = clean(value)
    return child


def _attributes(element: etree._Element, **values: str) -> None:
    """Set the attributes that have a value; an empty one says nothing, `direction=""` would be invalid."""
    for name, value in values.items():
        if cleaned := clean(value):
            element.set(name, cleaned)


def _xml(content_type: str, root: etree._Element) -> Document:
    return Document(content_type=content_type, body=etree.tostring(root, encoding="UTF-8", xml_declaration=True))
