# SPDX-License-Identifier: GPL-2.0-or-later
"""From an event's fields to a publication: the state of a dialog, of a person or of a mailbox.

Field names and fall-backs follow Kamailio's nsq and kazoo modules (`nsq_pua.c`, `kz_pua.c`). Unlike there, every
value is checked, so that what comes out can always be written as a valid document.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from urllib.parse import unquote, unquote_to_bytes

from kemi_nsq.jsontext import JsonObject
from kemi_nsq.presence.fields import MAX_INT32, choice, clean, missing, required, text, whole, wrong
from kemi_nsq.presence.publication import (
    DIALOG_STATES,
    DialogState,
    MailboxState,
    Party,
    PresenceState,
    Presentity,
    State,
)
from kemi_nsq.presence.sipuri import HOST, SIP_URI, NameAddr, SipUri, escape_user, is_host, name_addr
from kemi_nsq.setting_types import Meaning

# A media server names the direction of its own leg: what comes in to it, the presentity has initiated.
DIRECTIONS = {
    "initiator": "initiator",
    "recipient": "recipient",
    "inbound": "initiator",
    "outbound": "recipient",
}

_AVAILABLE = Meaning(basic="open", note="Available")
_BUSY = Meaning(basic="open", note="Busy", activity="busy")
_OFFLINE = Meaning(basic="closed", note="Offline")

# early, confirmed, offline and terminated as nsq_pua.c; the rest are words that operators and phones use.
PRESENCE_STATES = {
    "early": _BUSY,
    "confirmed": Meaning(basic="open", note="On the Phone", activity="on-the-phone"),
    "terminated": _AVAILABLE,
    "online": _AVAILABLE,
    "available": _AVAILABLE,
    "open": _AVAILABLE,
    "busy": _BUSY,
    "away": Meaning(basic="open", note="Away", activity="away"),
    "dnd": Meaning(basic="open", note="Do not disturb", activity="busy"),
    "offline": _OFFLINE,
    "closed": _OFFLINE,
    "unavailable": _OFFLINE,
}

_YES_NO = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
_COUNTS = ("Messages-New", "Messages-Saved", "Messages-Urgent", "Messages-Urgent-Saved")
_VOICE_MESSAGE = re.compile(r"([0-9]+)/([0-9]+)(?:\s*\(([0-9]+)/([0-9]+)\))?")

_COUNT = f"a whole number from 0 to {MAX_INT32}"
_LIFETIME = "a whole number of seconds above 0"
_STATE = "one of trying, proceeding, early, confirmed, terminated"


def from_event(fields: JsonObject, states: Mapping[str, Meaning] = PRESENCE_STATES) -> State:
    """Read the publication that an event announces.

    Args:
        fields: the event.
        states: what each `State` of the package presence means, by its name in lower case.

    Raises:
        PayloadError: a field is missing or wrong; one line names field, value and what is wanted.
    """
    name = text(fields, "Event-Name")
    if name not in ("", "update"):
        raise wrong("Event-Name", name, "update")
    package = required(fields, "Event-Package", _PACKAGE)
    read = _READERS.get(package)
    if read is None:
        raise wrong("Event-Package", package, _PACKAGE)
    return read(fields, states)


def sender_of(fields: JsonObject) -> str:
    """Return who publishes an event: Sender-URI, else Switch-URI, else the From URI.

    Raises:
        PayloadError: it names nobody.
    """
    return _named_sender(fields) or str(_from(fields)[0].uri)


def _named_sender(fields: JsonObject) -> str:
    return clean(text(fields, "Sender-URI")) or clean(text(fields, "Switch-URI"))


def _dialog(fields: JsonObject, _states: Mapping[str, Meaning]) -> DialogState:
    caller, from_user = _from(fields)
    callee = name_addr("To", required(fields, "To", SIP_URI))
    state = required(fields, "State", _STATE)
    choice("State", state, DIALOG_STATES, _STATE)
    state = state.lower()
    presentity = _named_presentity(fields) or from_user
    direction = _direction(fields)
    side = _side(fields, presentity, caller=from_user, callee=callee.uri, direction=direction)
    ours, theirs = _party(fields, "From", caller), _party(fields, "To", callee)
    if side == "to":
        ours, theirs = theirs, ours
    call_id = clean(text(fields, "Call-ID"))
    if not call_id and state != "terminated":
        raise missing("Call-ID", f"one (only State terminated does without, not {state})")
    return DialogState(
        presentity=presentity,
        sender=_named_sender(fields) or str(caller.uri),
        etag=text(fields, "ETag"),
        # A terminated dialog is kept as a tombstone for a time that is not the producer's to say.
        expires_s=None if state == "terminated" else _expires(fields),
        dialog_id=clean(text(fields, "Dialog-ID")) or call_id or _anonymous_id(presentity),
        call_id=call_id,
        state=state,
        direction=direction or ("recipient" if side == "to" else ""),
        side=side,
        local=ours,
        remote=theirs,
    )


def _presence(fields: JsonObject, states: Mapping[str, Meaning]) -> PresenceState:
    origin, presentity = _from(fields)
    state = required(fields, "State", f"a state such as {', '.join(states)}")
    return PresenceState(
        presentity=presentity,
        sender=_named_sender(fields) or str(origin.uri),
        etag=text(fields, "ETag"),
        expires_s=_expires(fields),
        meaning=states.get(state.lower(), _AVAILABLE),
        source=text(fields, "Sender-URI"),
    )


def _mailbox(fields: JsonObject, _states: Mapping[str, Meaning]) -> MailboxState:
    origin, presentity = _from(fields)
    new, saved, urgent, urgent_saved = _counts(fields)
    waiting = text(fields, "Messages-Waiting")
    return MailboxState(
        presentity=presentity,
        sender=_named_sender(fields) or str(origin.uri),
        etag=text(fields, "ETag"),
        expires_s=_expires(fields),
        account=_account(text(fields, "Message-Account"), presentity),
        waiting=choice("Messages-Waiting", waiting, _YES_NO, "yes or no") if waiting else new > 0,
        new=new,
        saved=saved,
        urgent=urgent,
        urgent_saved=urgent_saved,
    )


_READERS: dict[str, Callable[[JsonObject, Mapping[str, Meaning]], State]] = {
    "dialog": _dialog,
    "presence": _presence,
    "message-summary": _mailbox,
}
_PACKAGE = f"one of {', '.join(_READERS)}"


def _from(fields: JsonObject) -> tuple[NameAddr, Presentity]:
    """Read the From address, and the presentity that From-User and From-Realm, else the address, name."""
    user, realm, given = text(fields, "From-User"), _realm(fields, "From-Realm"), text(fields, "From")
    if not given and not (user and realm):
        raise missing("From", f"{SIP_URI}, or From-User and From-Realm,")
    origin = name_addr("From", given) if given else NameAddr(uri=SipUri(user=escape_user(user), host=realm))
    presentity = Presentity(user=escape_user(user) or origin.uri.user, domain=realm or origin.uri.host)
    if not presentity.user:
        raise wrong("From", given, f"{SIP_URI} with a user")
    return origin, presentity


def _named_presentity(fields: JsonObject) -> Presentity | None:
    """Read the three Presentity fields, which count only together (`nsq_pua.c`)."""
    if not (given := text(fields, "Presentity")):
        return None
    user, realm = text(fields, "Presentity-User"), _realm(fields, "Presentity-Realm")
    if not (user and realm):
        return None
    name_addr("Presentity", given)
    return Presentity(user=escape_user(user), domain=realm)


def _realm(fields: JsonObject, name: str) -> str:
    realm = text(fields, name)
    # Present but blank is an error of the producer; absent, null and '' mean "take it from the URI".
    if (realm or fields.get(name)) and not is_host(realm):
        raise wrong(name, realm, HOST)
    return realm


def _direction(fields: JsonObject) -> str:
    given = text(fields, "Direction")
    return choice("Direction", given, DIRECTIONS, f"one of {', '.join(DIRECTIONS)}") if given else ""


def _side(fields: JsonObject, presentity: Presentity, *, caller: Presentity, callee: SipUri, direction: str) -> str:
    """Tell which address is the presentity's; in a call to oneself both are, and the direction decides."""
    to_user = escape_user(text(fields, "To-User")) or callee.user
    to = Presentity(user=to_user, domain=text(fields, "To-Realm") or callee.host)
    if _same(presentity, to) and (not _same(presentity, caller) or direction == "recipient"):
        return "to"
    return "from"


def _same(one: Presentity, other: Presentity) -> bool:
    """Compare as RFC 3261 section 19.1.4: users unescaped, hosts in any case."""
    if one.domain.lower() != other.domain.lower():
        return False
    if "%" not in one.user and "%" not in other.user:
        return one.user == other.user
    return unquote_to_bytes(one.user) == unquote_to_bytes(other.user)


def _party(fields: JsonObject, side: str, given: NameAddr) -> Party:
    target = text(fields, f"{side}-URI")
    return Party(
        identity=str(given.uri),
        target=str(name_addr(f"{side}-URI", target).uri if target else given.uri),
        display=given.display or clean(text(fields, f"{side}-User")) or clean(unquote(given.uri.user)),
        tag=clean(text(fields, f"{side}-Tag")),
    )


def _expires(fields: JsonObject) -> int | None:
    given = text(fields, "Expires")
    return min(whole("Expires", given, least=1, wanted=_LIFETIME), MAX_INT32) if given else None


def _counts(fields: JsonObject) -> list[int]:
    """Read new, saved, urgent, urgent saved; MWI-Voice-Message counts only where Messages-New is missing."""
    line = text(fields, "MWI-Voice-Message")
    if not line or text(fields, "Messages-New"):
        return [_count(name, text(fields, name) or "0") for name in _COUNTS]
    found = _VOICE_MESSAGE.fullmatch(line)
    if found is None:
        raise wrong("MWI-Voice-Message", line, "new/saved (urgent/urgent-saved), such as 2/5 (0/1),")
    return [_count("MWI-Voice-Message", number) for number in found.groups("0")]


def _count(name: str, given: str) -> int:
    number = whole(name, given, least=0, wanted=_COUNT)
    if number > MAX_INT32:
        raise wrong(name, given, _COUNT)
    return number


def _account(given: str, presentity: Presentity) -> str:
    # A mailbox number alone is one of the presentity's domain.
    bare = bool(given) and not re.search("[:@<]", given)
    account = f"{escape_user(given)}@{presentity.domain}" if bare else given
    return str(name_addr("Message-Account", account).uri) if account else presentity.uri


def _anonymous_id(presentity: Presentity) -> str:
    return f"none-{hashlib.sha256(presentity.uri.encode()).hexdigest()[:16]}"
