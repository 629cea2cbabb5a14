# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a document is what its RFC says: XML by the schemas of this folder, the message summary by its grammar."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from lxml import etree

_SCHEMAS = {
    "application/dialog-info+xml": "dialog-info.xsd",
    "application/pidf+xml": "pidf.xsd",
    "application/reginfo+xml": "reginfo.xsd",
}
_MESSAGE_SUMMARY = "application/simple-message-summary"

# RFC 3842 section 5.2 with HCOLON, SLASH, LPAREN and RPAREN of RFC 3261 section 25.1, without folding.
_SP = "[ \t]*"
_URI = r"[A-Za-z][A-Za-z0-9+.-]*:(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+"
_STATUS = re.compile(f"Messages-Waiting{_SP}:{_SP}(?:yes|no)", re.IGNORECASE)
_ACCOUNT = re.compile(f"Message-Account{_SP}:{_SP}{_URI}", re.IGNORECASE)
_CLASS = "(?:voice|fax|pager|multimedia|text|none)-message"  # RFC 3458, as RFC 3842 section 3.5 names them
_COUNTS = rf"([0-9]+){_SP}/{_SP}([0-9]+)"
_SUMMARY = re.compile(
    rf"{_CLASS}{_SP}:{_SP}{_COUNTS}(?:{_SP}\({_SP}{_COUNTS}{_SP}\){_SP})?",
    re.IGNORECASE,
)
_MAX_COUNT = 2**32 - 1


def problems(content_type: str, body: bytes) -> list[str]:
    """Say what is wrong with a document; nothing for a valid one."""
    if content_type == _MESSAGE_SUMMARY:
        return message_summary_problems(body)
    schema = _schema(_SCHEMAS[content_type])
    try:
        schema.assertValid(etree.fromstring(body))
    except (etree.XMLSyntaxError, etree.DocumentInvalid) as error:
        return [str(error)]
    return []


def message_summary_problems(body: bytes) -> list[str]:
    """Check a body by the grammar of RFC 3842 section 5.2, without message headers, which we never write."""
    lines = body.decode().split("\r\n")
    found = [f"{line!r} holds a control character" for line in lines if re.search("[\x00-\x08\n-\x1f\x7f]", line)]
    if lines.pop() != "":
        found.append("the last line does not end in CRLF")
    if not lines or not _STATUS.fullmatch(lines.pop(0)):
        found.append("the first line is no msg-status-line")
    if lines and lines[0].lower().startswith("message-account") and not _ACCOUNT.fullmatch(lines.pop(0)):
        found.append("the msg-account holds no URI")
    return found + [problem for line in lines for problem in _summary_problems(line)]


def _summary_problems(line: str) -> list[str]:
    match = _SUMMARY.fullmatch(line)
    if match is None:
        return [f"{line!r} is no msg-summary-line"]
    return [f"{count} is above 2^32-1" for count in match.groups("0") if int(count) > _MAX_COUNT]


@cache
def _schema(name: str) -> etree.XMLSchema:
    return etree.XMLSchema(etree.parse(str(Path(__file__).with_name(name))))
