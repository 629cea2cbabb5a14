# SPDX-License-Identifier: GPL-2.0-or-later
"""The document that says that a published state is over, made from the document of that state.

A row that just vanishes tells watchers nothing, or sends them an empty body, and lamps stay on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lxml import etree

from kemi_nsq.presence.document import DATA_MODEL, DIALOG_INFO, PIDF, RPID
from kemi_nsq.presence.reading import PRESENCE_STATES

_OFFLINE = PRESENCE_STATES["offline"]


def ended(event: str, body: bytes) -> bytes:
    """Return the document with its dialogs terminated, its presence closed, or its mailbox empty.

    Args:
        event: event package.
        body: a document of ours, of that package.

    Raises:
        ValueError: the package is none of ours, or the body is not one of its documents.
    """
    if event not in _ENDINGS:
        raise ValueError(f"event package {event!r} is none of ours")
    return _ENDINGS[event](body)


def _dialog(body: bytes) -> bytes:
    root = _parse(body)
    for state in root.iter(f"{{{DIALOG_INFO}}}state"):
        state.text = "terminated"
    return _written(root)


def _presence(body: bytes) -> bytes:
    root = _parse(body)
    for basic in root.iter(f"{{{PIDF}}}basic"):
        basic.text = _OFFLINE.basic
    for note in root.iter(f"{{{PIDF}}}note", f"{{{DATA_MODEL}}}note"):
        note.text = _OFFLINE.note
    for activities in list(root.iter(f"{{{RPID}}}activities")):
        parent = activities.getparent()
        if parent is not None:
            parent.remove(activities)
    return _written(root)


def _mailbox(body: bytes) -> bytes:
    kept = [line for line in body.splitlines() if line.startswith(b"Message-Account:")]
    lines = [b"Messages-Waiting: no", *kept, b"Voice-Message: 0/0 (0/0)"]
    return b"".join(line + b"\r\n" for line in lines)


_ENDINGS: Mapping[str, Callable[[bytes], bytes]] = {
    "dialog": _dialog,
    "presence": _presence,
    "message-summary": _mailbox,
}


def _parse(body: bytes) -> etree._Element:
    # The table may have rows of others: nothing in them is expanded or fetched.
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        return etree.fromstring(body, parser)
    except etree.XMLSyntaxError as error:
        raise ValueError(f"the stored document is no XML: {error}") from error


def _written(root: etree._Element) -> bytes:
    return etree.tostring(root, encoding="UTF-8", xml_declaration=True)
