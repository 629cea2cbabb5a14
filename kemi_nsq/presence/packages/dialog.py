# SPDX-License-Identifier: GPL-2.0-or-later
"""The event package `dialog` (RFC 4235): the calls of a presentity, shown by lamps (BLF)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple
from urllib.parse import unquote_to_bytes

from kemi_nsq.presence.packages.state import (
    OVER_RANK,
    Gist,
    Presentity,
    State,
    Texts,
    Wishes,
    digest,
    lifetime_of,
    origin_of,
    realm_of,
    required,
    sender_or,
)
from kemi_nsq.presence.packages.xml import Writers, declared, parsed, writers, written
from kemi_nsq.presence.sipuri import SIP_URI, NameAddr, SipUri, escape_user, name_addr
from kemi_nsq.presence.values import choice, clean, missing

NAMESPACE = "urn:ietf:params:xml:ns:dialog-info"
#: RFC 4235 section 3.7.1, in the order in which a dialog passes them.
DIALOG_STATES = {"trying": 1, "proceeding": 2, "early": 3, "confirmed": 4, "terminated": OVER_RANK}
#: A media server names the direction of its own leg: what comes in to it, the presentity has initiated.
DIRECTIONS = {
    "initiator": "initiator",
    "recipient": "recipient",
    "inbound": "initiator",
    "outbound": "recipient",
}
_STATE = f"one of {', '.join(DIALOG_STATES)}"
_DIRECTION = f"one of {', '.join(DIRECTIONS)}"


class Party(NamedTuple):
    """One side of a dialog (RFC 4235 section 4.1.6): identity and target URI, display name, dialog tag."""

    identity: str
    target: str
    display: str = ""
    tag: str = ""


class _Names(NamedTuple):
    """The fields that tell of a party, besides its address."""

    target: str
    user: str
    tag: str


_FROM, _TO = _Names("From-URI", "From-User", "From-Tag"), _Names("To-URI", "To-User", "To-Tag")


@dataclass(slots=True, kw_only=True)
class DialogState(State):
    """One dialog as its presentity sees it.

    Attributes:
        dialog_id: Dialog-ID, else Call-ID, else a hash of the presentity.
        call_id: Call-ID, '' only in a terminated dialog.
        state: a key of DIALOG_STATES.
        direction: `initiator`, `recipient` or '' for unknown.
        side: `from` or `to`, the address that is the presentity's.
        local: the presentity's side.
        remote: the other side.
    """

    package: ClassVar[str] = "dialog"
    dialog_id: str
    call_id: str
    state: str
    direction: str
    side: str
    local: Party
    remote: Party

    @property
    def rank(self) -> int:
        """The later state of the dialog wins."""
        return DIALOG_STATES[self.state]

    def source(self) -> tuple[str, ...]:
        """Name the dialog. The legs of a call to oneself, and forks, share the Call-ID: side and id tell them apart."""
        return "call", self.side, self.dialog_id, self.call_id

    def document(self, wishes: Wishes, _version: int) -> bytes:
        """Write dialog-info (RFC 4235 section 4)."""
        entity, local, remote = self.presentity.uri, self.local, self.remote
        use = writers(entity, self.dialog_id, self.call_id, self.direction, *local, *remote)
        _, attribute = use
        # Kamailio's presence_dialoginfo merges the rows under a root of its own, with a version for each watcher.
        return declared(
            f'<dialog-info xmlns="{NAMESPACE}" version="0" state="full"{attribute("entity", entity)}>'
            f"<dialog{attribute('id', self.dialog_id)}{attribute('call-id', self.call_id)}"
            f"{attribute('local-tag', local.tag)}{attribute('remote-tag', remote.tag)}"
            f"{attribute('direction', self.direction)}><state>{self.state}</state>"
            f"<local>{_participant(local, wishes, use)}</local>"
            f"<remote>{_participant(remote, wishes, use)}</remote>"
            "</dialog></dialog-info>"
        )


def read(fields: Texts, _wishes: Wishes) -> DialogState:
    """Read the dialog that an event announces.

    Raises:
        PayloadError: a field is missing or wrong.
    """
    caller, from_user = origin_of(fields)
    callee = name_addr("To", required(fields, "To", SIP_URI))
    state = required(fields, "State", _STATE)
    choice("State", state, DIALOG_STATES, _STATE)
    state = state.lower()
    presentity = _named_presentity(fields) or from_user
    direction = _direction(fields)
    side = _side(fields, presentity, caller=from_user, callee=callee.uri, direction=direction)
    ours, theirs = _party(fields, _FROM, caller), _party(fields, _TO, callee)
    if side == "to":
        ours, theirs = theirs, ours
    call_id = clean(fields["Call-ID"])
    if not call_id and state != "terminated":
        raise missing("Call-ID", f"one (only State terminated does without, not {state})")
    return DialogState(
        presentity=presentity,
        sender=sender_or(fields, caller.uri.text),
        etag=fields["ETag"],
        # A terminated dialog is kept as a tombstone for a time that is not the producer's to say.
        expires_s=None if state == "terminated" else lifetime_of(fields),
        dialog_id=clean(fields["Dialog-ID"]) or call_id or _anonymous_id(presentity),
        call_id=call_id,
        state=state,
        direction=direction or ("recipient" if side == "to" else ""),
        side=side,
        local=ours,
        remote=theirs,
    )


def ended(body: bytes, _version: int) -> bytes:
    """Return a document with its dialogs terminated.

    Raises:
        ValueError: the document is no XML.
    """
    root = parsed(body)
    for state in root.iter(f"{{{NAMESPACE}}}state"):
        state.text = "terminated"
    return written(root)


def gist(body: bytes) -> Gist:
    """Return the states of the dialogs of a document, and with whom they are.

    Raises:
        ValueError: the document is no XML.
    """
    root = parsed(body)
    states = [state.text or "" for state in root.iter(f"{{{NAMESPACE}}}state")]
    others = root.iterfind(f".//{{{NAMESPACE}}}remote/{{{NAMESPACE}}}identity")
    calls = [dialog.get("call-id", "") for dialog in root.iter(f"{{{NAMESPACE}}}dialog")]
    about = [*(f"with {each.text}" for each in others if each.text), *(f"call {each}" for each in calls if each)]
    return Gist(", ".join(states) or "no dialog", ", ".join(about))


def _participant(party: Party, wishes: Wishes, use: Writers) -> str:
    """Write what is in local or remote (RFC 4235 section 4.1.6)."""
    element_text, attribute = use
    # `display` as in the RFC's text, its examples and phones; only its schema calls it `display-name`.
    identity = f"<identity{attribute('display', party.display)}>{element_text(party.identity)}</identity>"
    return f"{identity}<target{attribute('uri', party.target)}/>" if wishes.include_target else identity


def _named_presentity(fields: Texts) -> Presentity | None:
    """Read the three Presentity fields, which count only together (`nsq_pua.c`)."""
    if not (given := fields["Presentity"]):
        return None
    user, realm = fields["Presentity-User"], realm_of(fields, "Presentity-Realm")
    if not (user and realm):
        return None
    name_addr("Presentity", given)
    return Presentity(user=escape_user(user), domain=realm)


def _direction(fields: Texts) -> str:
    given = fields["Direction"]
    return choice("Direction", given, DIRECTIONS, _DIRECTION) if given else ""


def _side(fields: Texts, presentity: Presentity, *, caller: Presentity, callee: SipUri, direction: str) -> str:
    """Tell which address is the presentity's; in a call to oneself both are, and the direction decides."""
    user = fields["To-User"]
    to = Presentity(escape_user(user) if user else callee.user, fields["To-Realm"] or callee.host)
    if _same(presentity, to) and (not _same(presentity, caller) or direction == "recipient"):
        return "to"
    return "from"


def _same(one: Presentity, other: Presentity) -> bool:
    """Compare as RFC 3261 section 19.1.4: users unescaped, hosts in any case."""
    if one == other:
        return True
    if one.domain.lower() != other.domain.lower():
        return False
    if "%" not in one.user and "%" not in other.user:
        return one.user == other.user
    return unquote_to_bytes(one.user) == unquote_to_bytes(other.user)


def _party(fields: Texts, names: _Names, given: NameAddr) -> Party:
    target, user, tag = fields[names.target], fields[names.user], fields[names.tag]
    return Party(
        given.uri.text,
        (name_addr(names.target, target) if target else given).uri.text,
        given.display or (user and clean(user)) or given.uri.name,
        tag and clean(tag),
    )


def _anonymous_id(presentity: Presentity) -> str:
    return f"none-{digest(presentity.uri)[:16]}"
