# SPDX-License-Identifier: GPL-2.0-or-later
"""SIP URIs and addresses (RFC 3261 sections 19.1 and 25.1): read, checked, escaped, written in one form."""

from __future__ import annotations

import functools
import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import unquote

from kemi_nsq.presence.values import clean, wrong

SIP_URI = "a SIP URI such as sip:user@host"
HOST = "a host name, IPv4 or [IPv6] address without a port"

_MAX_PORT = 65535
_SCHEMES = ("sip", "sips")
_URI = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):)?"
    r"(?:(?P<userinfo>.*)@)?"
    r"(?P<host>\[[^\]@]*\]|[^:;?@\[\]]*)"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<params>(?:;[^?]*)?)"
    r"(?:\?.*)?",  # headers: RFC 3261 table 1 allows none in From and To
    re.DOTALL,
)
# RFC 3261 section 25.1: hostname = *( domainlabel "." ) toplabel [ "." ]; a toplabel starts with a letter.
_LABEL_REST = "(?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOSTNAME = re.compile(rf"(?:[A-Za-z0-9]{_LABEL_REST}\.)*[A-Za-z]{_LABEL_REST}\.?")
_UNRESERVED = "A-Za-z0-9_.!~*'()-"
_NOT_USER = re.compile(rf"%(?![0-9A-Fa-f]{{2}})|[^%&=+$,;?/{_UNRESERVED}]")
_NOT_PARAM = re.compile(rf"%(?![0-9A-Fa-f]{{2}})|[^%=\[\]/:&+${_UNRESERVED}]")


#: The same parties call again and again: their addresses are read once. Bounded, because they come from the network.
_REMEMBERED, _LONGEST_REMEMBERED = 4096, 256


@dataclass(frozen=True, slots=True, kw_only=True)
class SipUri:
    """A SIP URI without password and headers; `str()` writes it.

    Attributes:
        user: escaped user part, '' if the URI has none.
        host: host name, IPv4 address or IPv6 address in brackets, as given.
        port: port number or None.
        params: URI parameters such as `transport=tcp`, escaped.
        scheme: `sip` or `sips`.
        text: the URI as RFC 3261 section 25.1 has it, which `str()` returns.
        name: the user without escapes, for people.
    """

    user: str
    host: str
    port: int | None = None
    params: tuple[str, ...] = ()
    scheme: str = "sip"
    # Made once, because an address that is remembered is written into many documents.
    text: str = field(init=False, repr=False, compare=False)
    name: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Write the URI."""
        at = f"{self.user}@" if self.user else ""
        port = "" if self.port is None else f":{self.port}"
        text = "".join((self.scheme, ":", at, self.host, port, *(f";{param}" for param in self.params)))
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "name", clean(unquote(self.user)))

    def __str__(self) -> str:
        """Return the URI as text."""
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class NameAddr:
    """An address as a From or To header holds it: a display name ('' if there is none) and the URI."""

    uri: SipUri
    display: str = ""


def name_addr(field: str, value: str) -> NameAddr:
    """Read a URI, a bare `user@host` or a name-addr `"Name" <sip:user@host>;tag=x`.

    Args:
        field: name of the event's field, for the error.
        value: its text.

    Raises:
        PayloadError: no SIP URI is in it.
    """
    return _remembered(field, value) if len(value) <= _LONGEST_REMEMBERED else _name_addr(field, value)


def _name_addr(field: str, value: str) -> NameAddr:
    # A URI holds no angle bracket, a display name may: the last one opens the URI.
    display, opening, rest = value.rpartition("<")
    inside, closing, params = rest.partition(">")
    if opening and closing and params.strip()[:1] in ("", ";"):
        return NameAddr(uri=_uri(field, value, inside.strip()), display=_display(display.strip()))
    return NameAddr(uri=_uri(field, value, value))


_remembered = functools.lru_cache(maxsize=_REMEMBERED)(_name_addr)


def is_host(value: str) -> bool:
    """Tell whether the text is a host of RFC 3261: a host name, an IPv4 or a bracketed IPv6 address."""
    if value.startswith("["):
        return value.endswith("]") and _is_ip(ipaddress.IPv6Address, value[1:-1])
    return _HOSTNAME.fullmatch(value) is not None or _is_ip(ipaddress.IPv4Address, value)


def escape_user(value: str) -> str:
    """Escape what RFC 3261 section 25.1 does not allow in `user`; a `%HH` that is there already stays."""
    return _NOT_USER.sub(_percent, value)


def _uri(field: str, value: str, uri: str) -> SipUri:
    found = _URI.fullmatch(uri)
    if found is None:
        raise wrong(field, value, SIP_URI)
    scheme, userinfo, host, port = found.group("scheme", "userinfo", "host", "port")
    known = scheme.lower() in _SCHEMES if scheme else userinfo is not None
    if not known or not is_host(host) or not 0 < int(port or 1) <= _MAX_PORT:
        raise wrong(field, value, SIP_URI)
    params = [param.strip() for param in found["params"].split(";")]
    return SipUri(
        scheme=(scheme or "sip").lower(),
        user=escape_user((userinfo or "").partition(":")[0]),  # a password never leaves the event
        host=host,
        port=int(port) if port else None,
        params=tuple(_NOT_PARAM.sub(_percent, param) for param in params if _is_uri_param(param)),
    )


def _is_uri_param(param: str) -> bool:
    # Without angle brackets `;tag=` belongs to the header, not to the URI (RFC 3261 section 20.10).
    return bool(param) and param.partition("=")[0].lower() != "tag"


def _display(value: str) -> str:
    if len(value) > 1 and value.startswith('"') and value.endswith('"'):
        value = re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL)
    return clean(value)


def _is_ip(kind: type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address], value: str) -> bool:
    try:
        kind(value)
    except ValueError:
        return False
    return "%" not in value  # a zone names an interface of one host


def _percent(found: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in found[0].encode("utf-8", "surrogatepass"))
