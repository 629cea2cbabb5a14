# SPDX-License-Identifier: GPL-2.0-or-later
"""SIP messages as the watcher needs them: strict reading, exact writing (RFC 3261 section 7). No socket, no clock."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

Headers = tuple[tuple[str, str], ...]

#: Headers that every request and response must have (RFC 3261 section 8.1.1); `Max-Forwards` is of requests alone.
MANDATORY = ("Via", "From", "To", "Call-ID", "CSeq")

#: One-letter names (RFC 3261 section 7.3.3, RFC 6665 section 8.2.1).
COMPACT_NAMES = {
    "c": "content-type",
    "e": "content-encoding",
    "f": "from",
    "i": "call-id",
    "k": "supported",
    "l": "content-length",
    "m": "contact",
    "o": "event",
    "s": "subject",
    "t": "to",
    "u": "allow-events",
    "v": "via",
}

#: A comma outside quotes and angle brackets (RFC 3261 section 7.3.1).
_LIST_COMMA = re.compile(r""",(?=(?:[^"]*"[^"]*")*[^"]*$)(?![^<]*>)""")
_NAME_ADDR = re.compile(
    r'\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^<"]*?))\s*<(?P<uri>[^>]+)>(?P<params>.*)$', re.S
)
_CSEQ = re.compile(r"(\d{1,10})\s+(\S+)$")


class SipError(ValueError):
    """A message that breaks the rules of SIP; the text says which one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """The value of From, To, Contact, Route (RFC 3261 section 20.10).

    Attributes:
        uri: the URI alone.
        display: the display name, empty when there is none.
        params: parameters of the header field, names in lower case.
    """

    uri: str
    display: str = ""
    params: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, value: str) -> Self:
        """Read a header value.

        Raises:
            SipError: it is neither a name-addr nor an addr-spec.
        """
        if found := _NAME_ADDR.match(value):
            display = re.sub(r"\\(.)", r"\1", found["quoted"]) if found["quoted"] else found["plain"] or ""
            return cls(uri=found["uri"], display=display, params=parameters(found["params"]))
        # Without angle brackets, parameters belong to the header field and not to the URI.
        uri, _, rest = value.strip().partition(";")
        if ":" not in uri or "<" in uri:
            raise SipError(f"no address: {value!r}")
        return cls(uri=uri.strip(), params=parameters(rest))


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What requests and responses have in common.

    Attributes:
        headers: names in lower case and long form, and values, in the order of the message.
        body: the bytes after the empty line, Content-Length of them.
    """

    headers: Headers
    body: bytes = b""

    def get(self, name: str) -> str | None:
        """Return the first value of a header, None when it is absent."""
        return next((value for key, value in self.headers if key == name.lower()), None)

    def require(self, name: str) -> str:
        """Return the first value of a header that must be there.

        Raises:
            SipError: it is absent or empty.
        """
        if not (value := self.get(name)):
            raise SipError(f"no {name} header")
        return value

    def every(self, name: str) -> list[str]:
        """Return all values of a header that is a list, in order, whether comma separated or in lines of their own."""
        lines = [value for key, value in self.headers if key == name.lower()]
        return [part.strip() for line in lines for part in _LIST_COMMA.split(line)]

    @property
    def call_id(self) -> str:
        """The Call-ID."""
        return self.require("Call-ID")

    @property
    def cseq(self) -> tuple[int, str]:
        """CSeq number and method (RFC 3261 section 20.16)."""
        found = _CSEQ.match(self.require("CSeq"))
        if found is None:
            raise SipError(f"no CSeq: {self.get('CSeq')!r}")
        return int(found[1]), found[2]

    @property
    def branch(self) -> str:
        """The branch of the topmost Via, which names the transaction (RFC 3261 section 17.1.3)."""
        branch = parameters(self.every("Via")[0].partition(";")[2]).get("branch", "")
        if not branch.startswith("z9hG4bK"):
            raise SipError(f"the topmost Via has no branch of RFC 3261: {self.get('Via')!r}")
        return branch

    def tag(self, name: str) -> str | None:
        """Return the tag of From or To, None when it has none."""
        return Address.parse(self.require(name)).params.get("tag")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Message):
    """A SIP request.

    Attributes:
        method: in capitals.
        uri: the Request-URI.
    """

    method: str
    uri: str

    def encode(self) -> bytes:
        """Write the request, with its Content-Length."""
        return _encode(f"{self.method} {self.uri} SIP/2.0", self.headers, self.body)

    def response(self, status: int, reason: str, *, contact: str | None = None) -> Response:
        """Answer the request: headers copied as RFC 3261 sections 8.2.6.2 and 12.1.1 (Record-Route) say."""
        copied = ("via", "record-route", "from", "to", "call-id", "cseq")
        headers = tuple((name, value) for name, value in self.headers if name in copied)
        if contact is not None:
            headers += (("contact", contact),)
        return Response(status=status, reason=reason, headers=headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response(Message):
    """A SIP response.

    Attributes:
        status: the status code.
        reason: the reason phrase.
    """

    status: int
    reason: str

    def encode(self) -> bytes:
        """Write the response, with its Content-Length."""
        return _encode(f"SIP/2.0 {self.status} {self.reason}", self.headers, self.body)


def parse(datagram: bytes) -> Request | Response:
    """Read one message from one datagram.

    Raises:
        SipError: it is no SIP message, a mandatory header is missing, or the body is shorter than Content-Length.
    """
    head, separator, rest = datagram.partition(b"\r\n\r\n")
    if not separator:
        raise SipError("no empty line after the headers")
    try:
        start_line, *lines = re.sub(r"\r\n[ \t]+", " ", head.decode("utf-8")).split("\r\n")
    except UnicodeDecodeError as error:
        raise SipError(f"the headers are not UTF-8: {error}") from error
    message = _message(start_line, tuple(_header(line) for line in lines), rest)
    for name in MANDATORY:
        message.require(name)
    if isinstance(message, Request):
        message.require("Max-Forwards")
        if message.cseq[1] != message.method:
            raise SipError(f"CSeq names another method than {message.method}: {message.get('CSeq')!r}")
    return message


def parameters(text: str) -> dict[str, str]:
    """Read `;name=value;flag`, names in lower case, quotes removed, flags with an empty value."""
    pairs = (part.partition("=") for part in text.split(";") if part.strip())
    return {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}


def _message(start_line: str, headers: Headers, rest: bytes) -> Request | Response:
    body = _body(headers, rest)
    match start_line.split(" ", 2):
        case ["SIP/2.0", status, reason] if status.isdecimal():
            return Response(status=int(status), reason=reason, headers=headers, body=body)
        case [method, uri, "SIP/2.0"] if method.isupper():
            return Request(method=method, uri=uri, headers=headers, body=body)
    raise SipError(f"no start line of SIP: {start_line!r}")


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    name = name.strip().lower()
    if not colon or not name:
        raise SipError(f"no header: {line!r}")
    return COMPACT_NAMES.get(name, name), value.strip()


def _body(headers: Headers, rest: bytes) -> bytes:
    """Cut the body to Content-Length: bytes after it are discarded, too few are an error (RFC 3261 section 18.3)."""
    length = dict(headers).get("content-length", str(len(rest)))
    if not length.isdecimal() or int(length) > len(rest):
        raise SipError(f"Content-Length {length!r}, but {len(rest)} bytes follow")
    return rest[: int(length)]


def _encode(start_line: str, headers: Iterable[tuple[str, str]], body: bytes) -> bytes:
    lines = [start_line, *(f"{_wire_name(name)}: {value}" for name, value in headers), f"Content-Length: {len(body)}"]
    return "\r\n".join((*lines, "", "")).encode() + body


def _wire_name(name: str) -> str:
    return {"call-id": "Call-ID", "cseq": "CSeq"}.get(name, name.title())
