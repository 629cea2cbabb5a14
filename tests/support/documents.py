# SPDX-License-Identifier: GPL-2.0-or-later
"""What a watcher reads in a NOTIFY: dialog-info, PIDF, message summary, reginfo. Bytes in, frozen objects out.

It shares no code with the package, which writes them: a mistake in one must not hide in the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lxml import etree

NAMESPACES = {
    "di": "urn:ietf:params:xml:ns:dialog-info",
    "pidf": "urn:ietf:params:xml:ns:pidf",
    "dm": "urn:ietf:params:xml:ns:pidf:data-model",
    "rpid": "urn:ietf:params:xml:ns:pidf:rpid",
    "reg": "urn:ietf:params:xml:ns:reginfo",
}

#: `Voice-Message: 2/8 (0/2)` (RFC 3842 section 5.2, `msg-summary-line`).
_COUNTS = re.compile(r"\s*(\d+)\s*/\s*(\d+)(?:\s*\(\s*(\d+)\s*/\s*(\d+)\s*\))?\s*$")


class DocumentError(ValueError):
    """A document that breaks the rules of its format; the text says which one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """One side of a dialog (RFC 4235 section 4.1.6), with '' for what is absent.

    Attributes:
        identity: its URI.
        display: its display name.
        target: the URI of its device.
    """

    identity: str
    display: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialog:
    """A `dialog` element (RFC 4235 section 4.1.2), with '' for what is absent.

    Attributes:
        id: names the dialog in the document.
        call_id: the call's Call-ID.
        direction: `initiator` or `recipient`.
        state: `trying`, `proceeding`, `early`, `confirmed` or `terminated`.
        local: the presentity's side.
        remote: the other side.
    """

    id: str
    call_id: str
    direction: str
    state: str
    local: Party
    remote: Party


@dataclass(frozen=True, slots=True, kw_only=True)
class DialogInfo:
    """A dialog-info document (RFC 4235 section 4.1.1).

    Attributes:
        entity: URI of the presentity.
        version: number of the document in its subscription.
        state: `full` or `partial`.
        dialogs: in the order of the document.
    """

    entity: str
    version: int
    state: str
    dialogs: tuple[Dialog, ...]

    @property
    def states(self) -> tuple[str, ...]:
        """The states of the dialogs, in the order of the document."""
        return tuple(dialog.state for dialog in self.dialogs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pidf:
    """A presence document (RFC 3863, with RFC 4479 and RFC 4480), with '' for what is absent.

    Attributes:
        entity: URI of the presentity.
        tuple_ids: the ids of the tuples, in the order of the document.
        basic: `open` or `closed`: of the first tuple, Kamailio's newest.
        note: the first note, of whatever element.
        activities: names of the RPID activities, such as `on-the-phone`.
    """

    entity: str
    tuple_ids: tuple[str, ...]
    basic: str
    note: str
    activities: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageCounts:
    """Numbers of messages of one class (RFC 3842 section 5.2); the urgent ones are among the others."""

    new: int
    saved: int
    new_urgent: int = 0
    saved_urgent: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageSummary:
    """A message summary (RFC 3842 section 5.2).

    Attributes:
        waiting: whether the lamp is on.
        account: URI of the mailbox, '' when absent.
        counts: message class in lower case (`voice-message`, `fax-message`...) to its numbers.
    """

    waiting: bool
    account: str
    counts: Mapping[str, MessageCounts]

    @property
    def voice(self) -> MessageCounts | None:
        """The numbers of voice messages, None when the document has none."""
        return self.counts.get("voice-message")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """A `contact` element (RFC 3680 section 5.2).

    Attributes:
        id: names the contact in the document.
        uri: its URI.
        state: `active` or `terminated`.
        event: what happened to it.
    """

    id: str
    uri: str
    state: str
    event: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RegInfo:
    """A registration document (RFC 3680 section 5).

    Attributes:
        version: number of the document; it grows.
        aors: the addresses-of-record of its registrations, in the order of the document.
        contacts: of all registrations, in the order of the document.
    """

    version: int
    aors: tuple[str, ...]
    contacts: tuple[Contact, ...]


def parse_dialog_info(body: bytes) -> DialogInfo:
    """Read a dialog-info document.

    Raises:
        DocumentError: it is no XML, another document, or lacks a mandatory attribute.
    """
    root = _root(body, "{urn:ietf:params:xml:ns:dialog-info}dialog-info")
    return DialogInfo(
        entity=_attribute(root, "entity"),
        version=_version(root),
        state=_attribute(root, "state"),
        dialogs=tuple(_dialog(element) for element in root.findall("di:dialog", NAMESPACES)),
    )


def parse_pidf(body: bytes) -> Pidf:
    """Read a presence document.

    Raises:
        DocumentError: it is no XML, another document, or lacks a mandatory attribute.
    """
    root = _root(body, "{urn:ietf:params:xml:ns:pidf}presence")
    notes = [element for element in root.iter() if etree.QName(element).localname == "note"]
    activities = root.findall(".//rpid:activities/*", NAMESPACES)
    return Pidf(
        entity=_attribute(root, "entity"),
        tuple_ids=tuple(_attribute(each, "id") for each in root.findall("pidf:tuple", NAMESPACES)),
        basic=_text(root, "pidf:tuple/pidf:status/pidf:basic"),
        note=(notes[0].text or "") if notes else "",
        activities=tuple(etree.QName(activity).localname for activity in activities),
    )


def parse_reginfo(body: bytes) -> RegInfo:
    """Read a registration document.

    Raises:
        DocumentError: it is no XML, another document, or lacks a mandatory attribute.
    """
    root = _root(body, "{urn:ietf:params:xml:ns:reginfo}reginfo")
    return RegInfo(
        version=_version(root),
        aors=tuple(_attribute(each, "aor") for each in root.findall("reg:registration", NAMESPACES)),
        contacts=tuple(
            Contact(
                id=_attribute(each, "id"),
                uri=_text(each, "reg:uri"),
                state=_attribute(each, "state"),
                event=_attribute(each, "event"),
            )
            for each in root.findall("reg:registration/reg:contact", NAMESPACES)
        ),
    )


def parse_message_summary(body: bytes) -> MessageSummary:
    """Read a message summary.

    Raises:
        DocumentError: it breaks the grammar, or does not begin with the status line.
    """
    lines = body.decode("utf-8").split("\r\n")
    pairs = [_summary_line(line) for line in lines if line]
    if not pairs or pairs[0][0] != "messages-waiting" or pairs[0][1] not in {"yes", "no"}:
        raise DocumentError(f"no status line `Messages-Waiting: yes|no` at the beginning: {body!r}")
    rest = dict(pairs[1:])
    account = rest.pop("message-account", "")
    return MessageSummary(
        waiting=pairs[0][1] == "yes",
        account=account,
        counts={name: _counts(name, value) for name, value in rest.items()},
    )


def _dialog(element: etree._Element) -> Dialog:
    return Dialog(
        id=_attribute(element, "id"),
        call_id=element.get("call-id", ""),
        direction=element.get("direction", ""),
        state=_text(element, "di:state"),
        local=_party(element, "local"),
        remote=_party(element, "remote"),
    )


def _party(dialog: etree._Element, side: str) -> Party:
    identity = dialog.find(f"di:{side}/di:identity", NAMESPACES)
    target = dialog.find(f"di:{side}/di:target", NAMESPACES)
    return Party(
        identity=_text(dialog, f"di:{side}/di:identity"),
        display="" if identity is None else identity.get("display", ""),
        target="" if target is None else target.get("uri", ""),
    )


def _root(body: bytes, name: str) -> etree._Element:
    try:
        root = etree.fromstring(body, etree.XMLParser(resolve_entities=False, no_network=True, remove_comments=True))
    except etree.XMLSyntaxError as error:
        raise DocumentError(f"no XML: {error}, in {body!r}") from error
    if root.tag != name:
        raise DocumentError(f"the root element is {root.tag}, not {name}")
    return root


def _version(root: etree._Element) -> int:
    version = _attribute(root, "version")
    if not version.strip().isdecimal():
        raise DocumentError(f"the version is no number: {version!r}")
    return int(version)


def _attribute(element: etree._Element, name: str) -> str:
    value = element.get(name)
    if not value:
        raise DocumentError(f"{etree.QName(element).localname} has no {name}")
    return value


def _text(element: etree._Element, path: str) -> str:
    return element.findtext(path, default="", namespaces=NAMESPACES)


def _summary_line(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon:
        raise DocumentError(f"no message summary line: {line!r}")
    return name.strip().lower(), value.strip()


def _counts(name: str, value: str) -> MessageCounts:
    found = _COUNTS.match(value)
    if found is None:
        raise DocumentError(f"{name} has no counts: {value!r}")
    new, saved, new_urgent, saved_urgent = (int(number or 0) for number in found.groups())
    return MessageCounts(new=new, saved=saved, new_urgent=new_urgent, saved_urgent=saved_urgent)
