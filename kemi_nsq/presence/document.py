# SPDX-License-Identifier: GPL-2.0-or-later
"""The body that a watcher gets, as the event package has it.

`dialog` has dialog-info (RFC 4235), `presence` PIDF with data model and RPID (RFC 3863, 4479, 4480),
`message-summary` a text of its own (RFC 3842). One broken document of a presentity makes Kamailio send none of its
documents, so each value goes through `_text` or `_attribute`, which clean it of what XML 1.0 does not allow and escape
it. Nothing else writes a value; a tree of lxml would do the same in four times the time, for each event.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple
from xml.sax.saxutils import escape

from kemi_nsq.presence.fields import clean
from kemi_nsq.presence.publication import DialogState, MailboxState, Party, PresenceState, State, source_etag

DIALOG_INFO = "urn:ietf:params:xml:ns:dialog-info"
PIDF = "urn:ietf:params:xml:ns:pidf"
DATA_MODEL = "urn:ietf:params:xml:ns:pidf:data-model"
RPID = "urn:ietf:params:xml:ns:pidf:rpid"

#: Needs neither cleaning nor escaping: printable ASCII without blanks and what XML writes in another way.
_PLAIN = re.compile("[!#-%'-;=?-~]*")


class Document(NamedTuple):
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


def _dialog_info(state: DialogState, *, include_target: bool) -> str:
    dialog = (
        _attribute("id", state.dialog_id),
        _attribute("call-id", state.call_id),
        _attribute("local-tag", state.local.tag),
        _attribute("remote-tag", state.remote.tag),
        _attribute("direction", state.direction),
    )
    # Kamailio's presence_dialoginfo merges the rows under a root of its own, with a version for each watcher.
    return (
        f'<dialog-info xmlns="{DIALOG_INFO}" version="0" state="full"{_attribute("entity", state.presentity.uri)}>'
        f"<dialog{''.join(dialog)}><state>{_text(state.state)}</state>"
        f"<local>{_participant(state.local, include_target=include_target)}</local>"
        f"<remote>{_participant(state.remote, include_target=include_target)}</remote>"
        "</dialog></dialog-info>"
    )


def _participant(party: Party, *, include_target: bool) -> str:
    """Write what is in local or remote (RFC 4235 section 4.1.6)."""
    # `display` as in the RFC's text, its examples and phones; only its schema calls it `display-name`.
    identity = f"<identity{_attribute('display', party.display)}>{_text(party.identity)}</identity>"
    return f"{identity}<target{_attribute('uri', party.target)}/>" if include_target else identity


def _pidf(state: PresenceState) -> str:
    # Ids are of type xs:ID, so they start with a letter; and they stay the same from one NOTIFY to the next.
    digest = hashlib.sha256(source_etag(state).encode()).hexdigest()[:16]
    note, activity = _text(state.meaning.note), state.meaning.activity
    activities = f"<rpid:activities><rpid:{activity}/></rpid:activities>" if activity else ""
    return (
        f'<presence xmlns="{PIDF}" xmlns:dm="{DATA_MODEL}" xmlns:rpid="{RPID}"'
        f"{_attribute('entity', state.presentity.uri)}>"
        f'<tuple id="t{digest}"><status><basic>{_text(state.meaning.basic)}</basic></status></tuple>'
        f"<note>{note}</note>"
        f'<dm:person id="p{digest}">{activities}<dm:note>{note}</dm:note></dm:person>'
        "</presence>"
    )


def _message_summary(state: MailboxState) -> Document:
    """Write the text of RFC 3842 section 5.2; `clean` keeps CR and LF out of the account."""
    lines = (
        f"Messages-Waiting: {'yes' if state.waiting else 'no'}",
        f"Message-Account: {clean(state.account)}",
        f"Voice-Message: {state.new}/{state.saved} ({state.urgent}/{state.urgent_saved})",
    )
    body = "".join(f"{line}\r\n" for line in lines).encode()
    return Document(content_type="application/simple-message-summary", body=body)


def _text(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else escape(clean(value))


def _attribute(name: str, value: str) -> str:
    """Write an attribute and the blank before it; without a value none, because `direction=""` would be invalid."""
    written = value if _PLAIN.fullmatch(value) else escape(clean(value), {'"': "&quot;"})
    return f' {name}="{written}"' if written else ""


def _xml(content_type: str, root: str) -> Document:
    return Document(content_type=content_type, body=f"<?xml version='1.0' encoding='UTF-8'?>\n{root}".encode())
