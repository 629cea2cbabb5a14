# SPDX-License-Identifier: GPL-2.0-or-later
"""The event that `kemi-nsq presence set` publishes: what a producer would say of a call, a person or a mailbox."""

from __future__ import annotations

import re

from kemi_nsq.errors import UsageError
from kemi_nsq.jsontext import JsonValue
from kemi_nsq.presence.packages import PACKAGES, from_event
from kemi_nsq.presence.packages.dialog import DIALOG_STATES

#: Who says so, where nobody else is named: so its states can be told from those of the producers, and reset.
SENDER = "sip:kemi-nsq@localhost"
_MESSAGES = re.compile(r"(\d+)/(\d+)")


def package_of(state: str, given: str) -> str:
    """Return the event package that is meant: the one that is given, or the one that has such a state.

    Raises:
        UsageError: what is given is none.
    """
    if given:
        if given not in PACKAGES:
            raise UsageError(f"--event is {given!r}; one of {', '.join(PACKAGES)} is wanted")
        return given
    if state.lower() in DIALOG_STATES:
        return "dialog"
    return "message-summary" if _MESSAGES.fullmatch(state) else "presence"


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
    if call_id and package != "dialog":
        raise UsageError(f"--call-id is of use for dialog, not for {package}")
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
