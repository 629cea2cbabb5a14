# SPDX-License-Identifier: GPL-2.0-or-later
"""What is published: the state of a dialog, of a person or of a mailbox; and the etag that names its source.

The etag stands for one dialog, one mailbox or one presence source, so that an update meets the row it changes.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeAlias

from kemi_nsq.setting_types import Meaning

_LONGEST_ETAG = 100  # the column holds 128; above this, and for odd characters, a hash stands in
_PRINTABLE = re.compile("[!-~]*")
_HASH_DIGITS = 40
_CASE_DIGITS = 16

# RFC 4235 section 3.7.1, in the order in which a dialog passes them.
DIALOG_STATES = {"trying": 1, "proceeding": 2, "early": 3, "confirmed": 4, "terminated": 5}


class Presentity(NamedTuple):
    """Whom a watcher subscribes to: escaped user, and domain, as in the Request-URI of the SUBSCRIBE."""

    user: str
    domain: str

    @property
    def uri(self) -> str:
        """The URI that Kamailio's presence module builds from a Request-URI (`uandd_to_uri`)."""
        return f"sip:{self.user}@{self.domain}"


# Not frozen, though nothing changes them: one is made for each event, and a frozen one takes four times as long.
@dataclass(slots=True, kw_only=True)
class Publication:
    """What the states of all packages have in common.

    Attributes:
        presentity: whose state it is.
        sender: who says so: Sender-URI, else Switch-URI, else the From URI.
        etag: the event's own ETag, '' if it names none; `source_etag` makes the row's etag.
        expires_s: seconds that the state is valid, 1..2^31-1, or None if the event does not say.
    """

    event: ClassVar[str]
    presentity: Presentity
    sender: str
    etag: str = ""
    expires_s: int | None = None


class Party(NamedTuple):
    """One side of a dialog (RFC 4235 section 4.1.6): identity and target URI, display name, dialog tag."""

    identity: str
    target: str
    display: str = ""
    tag: str = ""


@dataclass(slots=True, kw_only=True)
class DialogState(Publication):
    """One dialog as its presentity sees it (RFC 4235).

    Attributes:
        dialog_id: Dialog-ID, else Call-ID, else a hash of the presentity.
        call_id: Call-ID, '' only in a terminated dialog.
        state: a key of DIALOG_STATES.
        direction: `initiator`, `recipient` or '' for unknown.
        side: `from` or `to`, the address that is the presentity's.
        local: the presentity's side.
        remote: the other side.
    """

    event: ClassVar[str] = "dialog"
    dialog_id: str
    call_id: str
    state: str
    direction: str
    side: str
    local: Party
    remote: Party


@dataclass(slots=True, kw_only=True)
class PresenceState(Publication):
    """The state of a person; `source` is the Sender-URI that tells several sources apart, or ''."""

    event: ClassVar[str] = "presence"
    meaning: Meaning
    source: str = ""


@dataclass(slots=True, kw_only=True)
class MailboxState(Publication):
    """The messages that wait in one mailbox (RFC 3842); `account` is the mailbox's URI."""

    event: ClassVar[str] = "message-summary"
    account: str
    waiting: bool
    new: int
    saved: int
    urgent: int
    urgent_saved: int


State: TypeAlias = DialogState | PresenceState | MailboxState


def source_etag(state: State) -> str:
    """Return the etag of a row: one for each source, at most 128 printable ASCII characters.

    It starts with the event package and with what it was made from, so that no two kinds ever meet. An ETag that
    the event names wins over everything else that the event says.
    """
    kind, *parts = ("tag", state.etag) if state.etag else _source(state)
    readable = f"{state.event}.{kind}.{'/'.join(map(_escaped, parts))}"
    if len(readable) > _LONGEST_ETAG or not _PRINTABLE.fullmatch(readable):
        return f"{state.event}.hash.{_digest(readable)[:_HASH_DIGITS]}"
    # Kamailio's tables in MySQL and MariaDB compare without case, but a Call-ID has it (RFC 3261 section 20.8).
    return readable if readable == readable.lower() else f"{readable}.{_digest(readable)[:_CASE_DIGITS]}"


def _source(state: State) -> tuple[str, ...]:
    match state:
        case DialogState():
            # The legs of a call to oneself, and forks, share the Call-ID: side and id tell them apart.
            return "call", state.side, state.dialog_id, state.call_id
        case MailboxState():
            return "box", state.account
        case PresenceState():
            return "source", state.source


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _escaped(part: str) -> str:
    # Only what separates: the joined parts must differ when the parts differ, and stay readable.
    return part.replace("%", "%25").replace("/", "%2F")
