# SPDX-License-Identifier: GPL-2.0-or-later
"""The event package `presence`: PIDF (RFC 3863) with data model and RPID (RFC 4479, 4480)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kemi_nsq.presence.packages.state import (
    Gist,
    State,
    Texts,
    Wishes,
    digest,
    lifetime_of,
    origin_of,
    required,
    sender_or,
)
from kemi_nsq.presence.packages.xml import attribute, declared, element_text, parsed, written
from kemi_nsq.settingtypes import Meaning

PIDF = "urn:ietf:params:xml:ns:pidf"
DATA_MODEL = "urn:ietf:params:xml:ns:pidf:data-model"
RPID = "urn:ietf:params:xml:ns:pidf:rpid"

_AVAILABLE = Meaning(basic="open", note="Available")
_BUSY = Meaning(basic="open", note="Busy", activity="busy")
_OFFLINE = Meaning(basic="closed", note="Offline")

#: What each `State` means, in lower case. early, confirmed, offline and terminated as nsq_pua.c; the rest are words
#: that operators and phones use.
PRESENCE_STATES = {
    "early": _BUSY,
    "confirmed": Meaning(basic="open", note="On the Phone", activity="on-the-phone"),
    "terminated": _AVAILABLE,
    "online": _AVAILABLE,
    "available": _AVAILABLE,
    "open": _AVAILABLE,
    "busy": _BUSY,
    "away": Meaning(basic="open", note="Away", activity="away"),
    "dnd": Meaning(basic="open", note="Do not disturb", activity="busy"),
    "offline": _OFFLINE,
    "closed": _OFFLINE,
    "unavailable": _OFFLINE,
}


@dataclass(slots=True, kw_only=True)
class PresenceState(State):
    """The state of a person; `origin` is the Sender-URI that tells several sources apart, or ''."""

    package: ClassVar[str] = "presence"
    meaning: Meaning
    origin: str = ""

    def source(self) -> tuple[str, ...]:
        """Name the presence source."""
        return "source", self.origin

    def document(self, _wishes: Wishes, _version: int) -> bytes:
        """Write PIDF."""
        # Ids are of type xs:ID, so they start with a letter; and they stay the same from one NOTIFY to the next.
        name = digest(self.row_etag())[:16]
        note, activity = element_text(self.meaning.note), self.meaning.activity
        activities = f"<rpid:activities><rpid:{activity}/></rpid:activities>" if activity else ""
        return declared(
            f'<presence xmlns="{PIDF}" xmlns:dm="{DATA_MODEL}" xmlns:rpid="{RPID}"'
            f"{attribute('entity', self.presentity.uri)}>"
            f'<tuple id="t{name}"><status><basic>{element_text(self.meaning.basic)}</basic></status></tuple>'
            f"<note>{note}</note>"
            f'<dm:person id="p{name}">{activities}<dm:note>{note}</dm:note></dm:person>'
            "</presence>"
        )


def read(fields: Texts, wishes: Wishes) -> PresenceState:
    """Read the presence that an event announces.

    Raises:
        PayloadError: a field is missing or wrong.
    """
    origin, presentity = origin_of(fields)
    state = required(fields, "State", f"a state such as {', '.join(PRESENCE_STATES | dict(wishes.words))}").lower()
    return PresenceState(
        presentity=presentity,
        sender=sender_or(fields, origin.uri.text),
        etag=fields["ETag"],
        expires_s=lifetime_of(fields),
        meaning=wishes.words.get(state) or PRESENCE_STATES.get(state, _AVAILABLE),
        origin=fields["Sender-URI"],
    )


def ended(body: bytes, _version: int) -> bytes:
    """Return a document that says closed.

    Raises:
        ValueError: the document is no XML.
    """
    root = parsed(body)
    for basic in root.iter(f"{{{PIDF}}}basic"):
        basic.text = _OFFLINE.basic
    for note in root.iter(f"{{{PIDF}}}note", f"{{{DATA_MODEL}}}note"):
        note.text = _OFFLINE.note
    for activities in list(root.iter(f"{{{RPID}}}activities")):
        parent = activities.getparent()
        if parent is not None:
            parent.remove(activities)
    return written(root)


def gist(body: bytes) -> Gist:
    """Return open or closed, and the note.

    Raises:
        ValueError: the document is no XML.
    """
    root = parsed(body)
    basics = [basic.text or "" for basic in root.iter(f"{{{PIDF}}}basic")]
    notes = dict.fromkeys(note.text or "" for note in root.iter(f"{{{PIDF}}}note", f"{{{DATA_MODEL}}}note"))
    return Gist(", ".join(basics) or "no tuple", ", ".join(filter(None, notes)))
