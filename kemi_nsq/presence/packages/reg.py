# SPDX-License-Identifier: GPL-2.0-or-later
"""The event package `reg` (RFC 3680): the contacts under which a presentity is registered."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from kemi_nsq.presence.packages.state import (
    OVER_RANK,
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
from kemi_nsq.presence.sipuri import SIP_URI, NameAddr, name_addr
from kemi_nsq.presence.values import choice, clean, wrong

NAMESPACE = "urn:ietf:params:xml:ns:reginfo"
#: Of two events of one moment that of a contact that is bound is the later one: a phone that restarts does both.
_LIVES = OVER_RANK + 1
_VERSION = re.compile(rb'(?<= version=")[0-9]+')
#: The events of a contact (RFC 3680 section 5.2), each with its rank: whether the contact is bound after it.
CONTACT_EVENTS = {
    "registered": _LIVES,
    "created": _LIVES,
    "refreshed": _LIVES,
    "shortened": _LIVES,
    "expired": OVER_RANK,
    "deactivated": OVER_RANK,
    "probation": OVER_RANK,
    "unregistered": OVER_RANK,
    "rejected": OVER_RANK,
}
_BRACKETED = re.compile(r'\s*("(?:[^"\\]|\\.)*"\s*|[^<"]*)<([^<>]*)>(.*)', re.DOTALL)
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_STATE = f"one of {', '.join(CONTACT_EVENTS)}"


@dataclass(slots=True, kw_only=True)
class ContactState(State):
    """One contact of an address-of-record, which is the presentity.

    Attributes:
        contact: its address.
        happened: a key of CONTACT_EVENTS.
        call_id: Call-ID of the REGISTER, or ''.
    """

    package: ClassVar[str] = "reg"
    contact: NameAddr
    happened: str
    call_id: str

    @property
    def rank(self) -> int:
        """That a contact is bound wins."""
        return CONTACT_EVENTS[self.happened]

    def source(self) -> tuple[str, ...]:
        """Name the contact."""
        return "contact", str(self.contact.uri)

    def document(self, _wishes: Wishes, version: int) -> bytes:
        """Write reginfo (RFC 3680 section 5). It has no times: what is stored may be sent much later."""
        # Kamailio's presence_reginfo may put the registrations of all rows under a root of its own, with a version for
        # each watcher. Each has an id of its own, or a watcher would take two contacts for one registration that
        # contradicts itself. By default it sends one row as it is, and a watcher ignores a version that does not grow.
        name = digest(self.row_etag())[:16]
        state = "active" if self.rank == _LIVES else "terminated"
        display = f"<display-name>{element_text(self.contact.display)}</display-name>" if self.contact.display else ""
        return declared(
            f'<reginfo xmlns="{NAMESPACE}" version="{version}" state="full">'
            f'<registration{attribute("aor", self.presentity.uri)} id="r{name}" state="{state}">'
            f'<contact id="c{name}" state="{state}" event="{self.happened}"{attribute("callid", self.call_id)}>'
            f"<uri>{element_text(str(self.contact.uri))}</uri>{display}"
            "</contact></registration></reginfo>"
        )


def read(fields: Texts, _wishes: Wishes) -> ContactState:
    """Read the contact that an event announces.

    Raises:
        PayloadError: a field is missing or wrong.
    """
    origin, presentity = origin_of(fields)
    happened = required(fields, "State", _STATE)
    over = choice("State", happened, CONTACT_EVENTS, _STATE) == OVER_RANK
    return ContactState(
        presentity=presentity,
        sender=sender_or(fields, origin.uri.text),
        etag=fields["ETag"],
        # As of a dialog: what is over is kept for a time that is not the producer's to say.
        expires_s=None if over else lifetime_of(fields),
        contact=_contact(required(fields, "Contact", SIP_URI)),
        happened=happened.lower(),
        call_id=clean(fields["Call-ID"]),
    )


def _contact(value: str) -> NameAddr:
    """Read one contact. Its header parameters, such as +sip.instance (RFC 5626), are left out; they may hold `<`."""
    found = _BRACKETED.fullmatch(value)
    outside = _QUOTED.sub("", found[3]) if found else value
    if "," in outside or (found is None and "<" in value) or (found and outside.strip()[:1] not in ("", ";")):
        raise wrong("Contact", value, f"one contact, {SIP_URI},")
    return name_addr("Contact", f"{found[1]}<{found[2]}>" if found else value)


def same(one: bytes, other: bytes) -> bool:
    """Tell whether two documents say the same: their versions tell a watcher nothing."""
    return _VERSION.sub(b"", one, count=1) == _VERSION.sub(b"", other, count=1)


def follows(before: bytes, body: bytes) -> bytes:
    """Return a document with a version above that of the one before, which may be of the same moment."""
    least = _version(before) + 1
    return body if _version(body) >= least else _VERSION.sub(b"%d" % least, body, count=1)


def _version(body: bytes) -> int:
    found = _VERSION.search(body)
    return int(found[0]) if found else 0


def ended(body: bytes, version: int) -> bytes:
    """Return a document whose contacts have expired.

    Raises:
        ValueError: the document is no XML.
    """
    root = parsed(body)
    root.set("version", str(max(version, _version(body) + 1)))
    for registration in root.iter(f"{{{NAMESPACE}}}registration"):
        registration.set("state", "terminated")
    for contact in root.iter(f"{{{NAMESPACE}}}contact"):
        contact.set("state", "terminated")
        contact.set("event", "expired")
    return written(root)


def gist(body: bytes) -> Gist:
    """Return the states of the contacts of a document, and their addresses.

    Raises:
        ValueError: the document is no XML.
    """
    contacts = list(parsed(body).iter(f"{{{NAMESPACE}}}contact"))
    states = [contact.get("state", "") for contact in contacts]
    addresses = [uri.text or "" for contact in contacts for uri in contact.iter(f"{{{NAMESPACE}}}uri")]
    return Gist(", ".join(states) or "no contact", ", ".join(addresses))
