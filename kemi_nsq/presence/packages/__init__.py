# SPDX-License-Identifier: GPL-2.0-or-later
"""The event packages that we know: one file each, and here the table that names them.

A file has the state of its package, how an event is read, how its document is written and ended, and where its etag
comes from. A new package is one such file and one row of the table.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kemi_nsq.jsontext import JsonObject
from kemi_nsq.presence.packages import dialog, message_summary, presence, reg
from kemi_nsq.presence.packages.state import Gist, State, Texts, Wishes, required
from kemi_nsq.presence.values import clean, wrong

#: Of larger documents nobody reads the gist; Kamailio itself sends none (`row.MAX_BODY`). And so much is told of one.
_LARGEST, _LONGEST = 256 * 1024, 300


def _new(_before: bytes, body: bytes) -> bytes:
    return body


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """What is to be known of an event package besides its states.

    Attributes:
        read: reads the state that an event announces; raises PayloadError.
        ended: makes of a document of the package the one that says that its state is over; raises ValueError.
        gist: says in words what a document of the package says; raises ValueError.
        expires: the field of the settings that says how long a state is kept whose event does not.
        hides: what is over leaves the document as soon as its watchers were told. Where it does not, a document without
            any state would be worse than one that says that it is over.
        same: whether two documents of one row say the same, so that watchers need not be told.
        follows: makes of the document before and the new one what is stored; the new one, but for its version.
    """

    read: Callable[[Texts, Wishes], State]
    ended: Callable[[bytes, int], bytes]
    gist: Callable[[bytes], Gist]
    expires: str = "pua_expires"
    hides: bool = False
    same: Callable[[bytes, bytes], bool] = operator.eq
    follows: Callable[[bytes, bytes], bytes] = _new


PACKAGES: Mapping[str, Package] = {
    "dialog": Package(read=dialog.read, ended=dialog.ended, gist=dialog.gist, hides=True),
    "presence": Package(read=presence.read, ended=presence.ended, gist=presence.gist),
    "message-summary": Package(
        read=message_summary.read, ended=message_summary.ended, gist=message_summary.gist, expires="pua_mailbox_expires"
    ),
    "reg": Package(read=reg.read, ended=reg.ended, gist=reg.gist, hides=True, same=reg.same, follows=reg.follows),
}
_NAMES = f"one of {', '.join(PACKAGES)}"
_WISHES = Wishes()


def from_event(fields: JsonObject, wishes: Wishes = _WISHES) -> State:
    """Read the state that an event announces.

    Raises:
        PayloadError: a field is missing or wrong; one line names field, value and what is wanted.
    """
    texts = Texts(fields)
    name = texts["Event-Name"]
    if name.lower() not in ("", "update"):  # as names of routes, in any case
        raise wrong("Event-Name", name, "update")
    given = required(texts, "Event-Package", _NAMES)
    package = PACKAGES.get(given)
    if package is None:
        raise wrong("Event-Package", given, _NAMES)
    return package.read(texts, wishes)


def ended(package: str, body: bytes, version: int) -> bytes:
    """Return the document that says that a state is over: a row that just vanishes would leave lamps on.

    Args:
        package: name of the event package.
        body: a document of ours, of that package.
        version: as of `State.document`.

    Raises:
        ValueError: the package is none of ours, or the body is not one of its documents.
    """
    if package not in PACKAGES:
        raise ValueError(f"event package {package!r} is none of ours")
    return PACKAGES[package].ended(body, version)


def gist(package: str, body: bytes) -> Gist:
    """Return what a document says, without control characters, whoever has written it; never raises."""
    known = PACKAGES.get(package)
    if known is None:
        return Gist("?", "of a package that kemi-nsq does not write")
    if len(body) > _LARGEST:
        return Gist("?", f"a document of {len(body)} bytes")
    try:
        state, about = known.gist(body)
    except ValueError:
        return Gist("?", "a document that nobody can read")
    return Gist(clean(state)[:_LONGEST], clean(about)[:_LONGEST])
