# SPDX-License-Identifier: GPL-2.0-or-later
"""The event that `kemi-nsq presence set` publishes: what a producer would say of a call, a person or a mailbox."""

from __future__ import annotations

import re
from collections.abc import Collection

from kemi_nsq.errors import UsageError
from kemi_nsq.jsontext import JsonValue
from kemi_nsq.presence.packages import PACKAGES, from_event
from kemi_nsq.presence.packages.dialog import DIALOG_STATES
from kemi_nsq.presence.packages.presence import PRESENCE_STATES
from kemi_nsq.presence.packages.reg import CONTACT_EVENTS

#: Who says so, where nobody else is named: so its states can be told from those of the producers, and reset.
SENDER = "sip:kemi-nsq@localhost"
_MESSAGES = re.compile(r"([0-9]+)/([0-9]+)")
#: Packages that others write: Kamailio's modules presence_xml, presence_dialoginfo, presence_conference,
#: presence_dfks and presence_profile.
_OTHERS = ("presence.winfo", "xcap-diff", "dialog;sla", "conference", "as-feature-event", "ua-profile")
#: Packages that have a use for these.
_WITH_CALL, _WITH_OTHER = ("dialog",), ("dialog", "reg")


def package_of(state: str, given: str, words: Collection[str] = ()) -> str:
    """Return the event package that is meant: the one that is given, or the one that has such a state.

    Args:
        state: as `event_of` takes it.
        given: event package, '' for none.
        words: further states of the package presence, in lower case (NSQ_PUA_STATES).

    Raises:
        UsageError: what is given is none, or nothing is given and no package has such a state. An event of the package
            presence would say with any word that somebody is available.
    """
    if given:
        if given not in PACKAGES:
            raise UsageError(f"--event is {given!r}; one of {', '.join(PACKAGES)} is wanted")
        return given
    states = {"dialog": DIALOG_STATES, "presence": {*PRESENCE_STATES, *words}, "reg": CONTACT_EVENTS}
    for package, known in states.items():
        if state.lower() in known:
            return package
    if _MESSAGES.fullmatch(state):
        return "message-summary"
    raise UsageError(
        f"--state is {state[:80]!r}; one of {', '.join(DIALOG_STATES)} (dialog), "
        f"{', '.join(dict.fromkeys((*PRESENCE_STATES, *words)))} (presence), {', '.join(CONTACT_EVENTS)} (reg), or "
        "new/saved messages such as 2/5 is wanted; a word that only Kamailio has in NSQ_PUA_STATES needs "
        "--event presence"
    )


def known_package(name: str) -> str:
    """Return the name of an event package that a table of Kamailio's may have, '' as it is.

    Raises:
        UsageError: it is none of ours, and none of Kamailio's own: nothing would be found, which looks like an answer.
    """
    if name and name not in {*PACKAGES, *_OTHERS}:
        raise UsageError(f"--event is {name[:80]!r}; one of {', '.join((*PACKAGES, *_OTHERS))} is wanted")
    return name


def event_of(  # noqa: PLR0913  # what the fields have in common
    uri: str, package: str, state: str, *, call_id: str, other: str, sender: str, expires: int
) -> dict[str, JsonValue]:
    """Return the fields of an event, without those that name its route.

    Args:
        uri: of the presentity.
        package: event package.
        state: of a dialog, a person, or `new/saved` messages, or what happened to a contact.
        call_id: of a dialog, '' for one that stands for all that are set by hand.
        other: with whom a dialog is, or the contact of a registration; '' for somebody.
        sender: who says so, '' for `SENDER`.
        expires: seconds that it holds, 0 for the usual time.

    Raises:
        PayloadError: no such event describes a state.
        UsageError: something is given that the package has no use for.
    """
    fields: dict[str, JsonValue] = {"Event-Package": package, "From": uri, "Sender-URI": sender or SENDER}
    if expires:
        fields["Expires"] = expires
    _refuse_unused("--call-id", call_id, package, _WITH_CALL)
    _refuse_unused("--to", other, package, _WITH_OTHER)
    match package:
        case "dialog":
            # Direction as the presentity's own leg has it: it has called.
            fields |= {"State": state, "To": other or uri, "Call-ID": call_id or f"set-{uri.partition(':')[2] or uri}"}
            fields |= {"Direction": "inbound"}
        case "message-summary":
            found = _MESSAGES.fullmatch(state)
            if found is None:
                raise UsageError(f"--state is {state!r}; new/saved messages are wanted, such as 2/5")
            fields |= {"Messages-New": found[1], "Messages-Saved": found[2]}
        case "reg":
            fields |= {"State": state, "Contact": other or uri}
        case _:
            fields |= {"State": state}
    from_event(fields)
    return fields


def _refuse_unused(option: str, given: str, package: str, users: Collection[str]) -> None:
    if given and package not in users:
        raise UsageError(f"{option} is of use for {' and '.join(users)}, not for {package}")
