# SPDX-License-Identifier: GPL-2.0-or-later
"""How values get into XML documents, and how stored documents are read again.

One broken document of a presentity makes Kamailio send none of its documents, so each value goes through `element_text`
or `attribute`, which clean it of what XML 1.0 does not allow and escape it, or through what `writers` has found to need
neither. Nothing else writes a value; a tree of lxml would do the same in four times the time, for each event.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias
from xml.sax.saxutils import escape

from lxml import etree

from kemi_nsq.presence.values import clean

#: Needs neither cleaning nor escaping: printable ASCII without blanks and what XML writes in another way.
_PLAIN = re.compile("[!#-%'-;=?-~]*")


def element_text(value: str) -> str:
    """Write the text of an element."""
    return value if _PLAIN.fullmatch(value) else escape(clean(value))


def attribute(name: str, value: str) -> str:
    """Write an attribute and the blank before it; without a value none, because `direction=""` would be invalid."""
    written = value if _PLAIN.fullmatch(value) else escape(clean(value), {'"': "&quot;"})
    return _plain_attribute(name, written)


Writers: TypeAlias = tuple[Callable[[str], str], Callable[[str, str], str]]


def writers(*values: str) -> Writers:
    """Return `element_text` and `attribute` for a document that has just these values.

    One look at all of them is enough where all are plain, as nearly always.
    """
    return (str, _plain_attribute) if _PLAIN.fullmatch("".join(values)) else (element_text, attribute)


def _plain_attribute(name: str, value: str) -> str:
    return f' {name}="{value}"' if value else ""


def declared(root: str) -> bytes:
    """Return the document of a root element."""
    return f"<?xml version='1.0' encoding='UTF-8'?>\n{root}".encode()


def parsed(body: bytes) -> etree._Element:
    """Read a stored document.

    Raises:
        ValueError: it is no XML.
    """
    # The table may have rows of others: nothing in them is expanded or fetched.
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        return etree.fromstring(body, parser)
    except etree.XMLSyntaxError as error:
        raise ValueError(f"the stored document is no XML: {error}") from error


def written(root: etree._Element) -> bytes:
    """Write what `parsed` has read."""
    return etree.tostring(root, encoding="UTF-8", xml_declaration=True)
