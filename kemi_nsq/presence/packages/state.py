# SPDX-License-Identifier: GPL-2.0-or-later
"""What the states of all event packages have in common, and how the fields of an event are read.

Field names and fall-backs follow Kamailio's nsq and kazoo modules (`nsq_pua.c`, `kz_pua.c`). Unlike there, every
value is checked, so that what comes out can always be written as a valid document.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from kemi_nsq.jsontext import JsonObject, field_text
from kemi_nsq.presence.sipuri import HOST, SIP_URI, NameAddr, SipUri, escape_user, is_host, name_addr
from kemi_nsq.presence.values import MAX_INT32, clean, missing, whole, wrong
from kemi_nsq.settingtypes import Meaning

#: The rank of a state that is over because its producer said so; no state that lives has it.
OVER_RANK = 5

_EPOCH_2025 = 1_735_689_600
_LONGEST_ETAG = 100  # the column holds 128; above this, and for odd characters, a hash stands in
_PRINTABLE = re.compile("[!-~]*")
_HASH_DIGITS = 40
_CASE_DIGITS = 16
_LIFETIME = "a whole number of seconds above 0"
#: What the packages ask an event for. A field that is not named here is read all the same, in five times the time.
_ABSENT = dict.fromkeys(
    (
        *("Event-Name", "Event-Package", "ETag", "Expires", "State", "Sender-URI", "Switch-URI"),
        *(
            f"{whose}{part}"
            for whose in ("From", "To", "Presentity")
            for part in ("", "-User", "-Realm", "-URI", "-Tag")
        ),
        *("Call-ID", "Dialog-ID", "Direction", "Contact", "Message-Account", "MWI-Voice-Message"),
        *("Messages-Waiting", "Messages-New", "Messages-Saved", "Messages-Urgent", "Messages-Urgent-Saved"),
    ),
    "",
)


class Presentity(NamedTuple):
    """Whom a watcher subscribes to: escaped user, and domain, as in the Request-URI of the SUBSCRIBE."""

    user: str
    domain: str

    @property
    def uri(self) -> str:
        """The URI that Kamailio's presence module builds from a Request-URI (`uandd_to_uri`)."""
        return f"sip:{self.user}@{self.domain}"


class Gist(NamedTuple):
    """What a document says, for people: the state in a word or two, and whose, or why."""

    state: str
    about: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the operator wants of documents.

    Attributes:
        words: what further values of `State` mean in the package presence, in lower case (NSQ_PUA_STATES).
        include_target: write target URIs, which show where the parties of a dialog can be reached.
    """

    words: Mapping[str, Meaning] = field(default_factory=dict)
    include_target: bool = True


# Not frozen, though nothing changes them: one is made for each event, and a frozen one takes four times as long.
@dataclass(slots=True, kw_only=True)
class State:
    """The state of something of a presentity: a dialog, a mailbox, a registered contact, a presence source.

    Attributes:
        package: name of the event package.
        presentity: whose state it is.
        sender: who says so: Sender-URI, else Switch-URI, else the From URI.
        etag: the event's own ETag, '' if it names none; `row_etag` makes the row's etag.
        expires_s: seconds that the state is valid, 1..2^31-1, or None if the event does not say.
    """

    package: ClassVar[str]
    presentity: Presentity
    sender: str
    etag: str = ""
    expires_s: int | None = None

    @property
    def rank(self) -> int:
        """Order two events of one nanosecond: the greater one is later. OVER_RANK says that the state is over."""
        return 0

    def source(self) -> tuple[str, ...]:
        """Name the kind of thing whose state it is, and what tells it from others of the presentity."""
        raise NotImplementedError

    def document(self, wishes: Wishes, version: int) -> bytes:
        """Write what a watcher gets; it is always valid for the package.

        Args:
            wishes: what the operator wants of it.
            version: `document_version` of now, for packages that count their documents.
        """
        raise NotImplementedError

    def row_etag(self) -> str:
        """Return the etag of a row: one for each source, at most 128 printable ASCII characters.

        It stands for one dialog, mailbox, contact or presence source, so that an update meets the row it changes. It
        starts with the event package and with what it was made from, so that no two kinds ever meet. An ETag that the
        event names wins over everything else that the event says.
        """
        kind, *parts = ("tag", self.etag) if self.etag else self.source()
        readable = f"{self.package}.{kind}.{_joined(parts)}"
        if len(readable) > _LONGEST_ETAG or not _PRINTABLE.fullmatch(readable):
            return f"{self.package}.hash.{digest(readable)[:_HASH_DIGITS]}"
        # Kamailio's tables in MySQL and MariaDB compare without case, but a Call-ID has it (RFC 3261 section 20.8).
        return readable if readable == readable.lower() else f"{readable}.{digest(readable)[:_CASE_DIGITS]}"


def document_version(wall: float) -> int:
    """Return a version for a document of a second since the epoch: tenths since 2025, which fit 31 bits until 2031."""
    return max(0, int((wall - _EPOCH_2025) * 10))


def digest(text: str) -> str:
    """Return 64 hexadecimal digits that stand for a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Texts(dict[str, str]):
    """The fields of an event as texts without blanks around them, by name; missing and null are ''.

    A field that holds an array or an object raises PayloadError when it is asked for: whoever needs it not may have it.

    Args:
        fields: the event's JSON object.

    Attributes:
        given: the same.
    """

    # One look at each field of the event, and then one of C's at each that is asked for: there are many more of these.
    __slots__ = ("given",)

    def __init__(self, fields: JsonObject) -> None:
        super().__init__(_ABSENT)
        self.given = fields
        for name, value in fields.items():
            if name in self:
                if value.__class__ is str:
                    self[name] = value.strip()
                else:
                    del self[name]

    def __missing__(self, name: str) -> str:
        """Return what is no string, or is not in `_ABSENT`."""
        value = self.given.get(name)
        if value is None:
            return ""
        if isinstance(value, list | dict):
            raise wrong(name, field_text(self.given, name), "a text or a number")
        return field_text(self.given, name).strip()


def required(fields: Texts, name: str, wanted: str) -> str:
    """Return a field's text; `wanted` says in the error what belongs there.

    Raises:
        PayloadError: the field is missing or blank.
    """
    value = fields[name]
    if not value:
        raise missing(name, wanted)
    return value


def sender_of(fields: JsonObject) -> str:
    """Return who publishes an event: Sender-URI, else Switch-URI, else the From URI.

    Raises:
        PayloadError: it names nobody.
    """
    texts = Texts(fields)
    return sender_or(texts, "") or origin_of(texts)[0].uri.text


def sender_or(fields: Texts, origin: str) -> str:
    """Return who publishes an event, whose From URI is known."""
    sender, switch = fields["Sender-URI"], fields["Switch-URI"]
    return (sender and clean(sender)) or (switch and clean(switch)) or origin


def origin_of(fields: Texts) -> tuple[NameAddr, Presentity]:
    """Read the From address, and the presentity that From-User and From-Realm, else the address, name.

    Raises:
        PayloadError: neither is there, or one is none.
    """
    user, realm, given = fields["From-User"], realm_of(fields, "From-Realm"), fields["From"]
    if not given and not (user and realm):
        raise missing("From", f"{SIP_URI}, or From-User and From-Realm,")
    user = escape_user(user) if user else ""
    origin = name_addr("From", given) if given else NameAddr(uri=SipUri(user=user, host=realm))
    presentity = Presentity(user or origin.uri.user, realm or origin.uri.host)
    if not presentity.user:
        raise wrong("From", given, f"{SIP_URI} with a user")
    return origin, presentity


def realm_of(fields: Texts, name: str) -> str:
    """Read a field that holds a host, '' for none.

    Raises:
        PayloadError: it is no host.
    """
    realm = fields[name]
    # Present but blank is an error of the producer; absent, null and '' mean "take it from the URI".
    if (realm or fields.given.get(name)) and not is_host(realm):
        raise wrong(name, realm, HOST)
    return realm


def lifetime_of(fields: Texts) -> int | None:
    """Read Expires: seconds, or None if the event does not say.

    Raises:
        PayloadError: it is no whole number above 0.
    """
    given = fields["Expires"]
    return min(whole("Expires", given, least=1, wanted=_LIFETIME), MAX_INT32) if given else None


def _joined(parts: Sequence[str]) -> str:
    """Join parts by what separates them: what is joined differs when the parts differ, and stays readable."""
    text = "/".join(parts)
    if "%" not in text and text.count("/") < len(parts):
        return text
    return "/".join(part.replace("%", "%25").replace("/", "%2F") for part in parts)
