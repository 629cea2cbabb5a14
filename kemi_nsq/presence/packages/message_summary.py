# SPDX-License-Identifier: GPL-2.0-or-later
"""The event package `message-summary` (RFC 3842): messages that wait in a mailbox, shown by a light (MWI)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from kemi_nsq.presence.packages.state import Gist, Presentity, State, Texts, Wishes, lifetime_of, origin_of, sender_or
from kemi_nsq.presence.sipuri import escape_user, name_addr
from kemi_nsq.presence.values import MAX_INT32, choice, clean, whole, wrong

_YES_NO = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
_COUNTS = ("Messages-New", "Messages-Saved", "Messages-Urgent", "Messages-Urgent-Saved")
_VOICE_MESSAGE = re.compile(r"([0-9]+)/([0-9]+)(?:\s*\(([0-9]+)/([0-9]+)\))?")
_COUNT = f"a whole number from 0 to {MAX_INT32}"


@dataclass(slots=True, kw_only=True)
class MailboxState(State):
    """The messages that wait in one mailbox; `account` is the mailbox's URI."""

    package: ClassVar[str] = "message-summary"
    account: str
    waiting: bool
    new: int
    saved: int
    urgent: int
    urgent_saved: int

    def source(self) -> tuple[str, ...]:
        """Name the mailbox."""
        return "box", self.account

    def document(self, _wishes: Wishes, _version: int) -> bytes:
        """Write the text of RFC 3842 section 5.2; `clean` keeps CR and LF out of the account."""
        lines = (
            f"Messages-Waiting: {'yes' if self.waiting else 'no'}",
            f"Message-Account: {clean(self.account)}",
            f"Voice-Message: {self.new}/{self.saved} ({self.urgent}/{self.urgent_saved})",
        )
        return "".join(f"{line}\r\n" for line in lines).encode()


def read(fields: Texts, _wishes: Wishes) -> MailboxState:
    """Read the mailbox that an event announces.

    Raises:
        PayloadError: a field is missing or wrong.
    """
    origin, presentity = origin_of(fields)
    new, saved, urgent, urgent_saved = _counts(fields)
    waiting = fields["Messages-Waiting"]
    return MailboxState(
        presentity=presentity,
        sender=sender_or(fields, origin.uri.text),
        etag=fields["ETag"],
        expires_s=lifetime_of(fields),
        account=_account(fields["Message-Account"], presentity),
        waiting=choice("Messages-Waiting", waiting, _YES_NO, "yes or no") if waiting else new > 0,
        new=new,
        saved=saved,
        urgent=urgent,
        urgent_saved=urgent_saved,
    )


def ended(body: bytes, _version: int) -> bytes:
    """Return the document of the same mailbox, empty."""
    kept = [line for line in body.splitlines() if line.startswith(b"Message-Account:")]
    lines = [b"Messages-Waiting: no", *kept, b"Voice-Message: 0/0 (0/0)"]
    return b"".join(line + b"\r\n" for line in lines)


def gist(body: bytes) -> Gist:
    """Return how many messages wait, as RFC 3842 has it, and in whose mailbox."""
    found = dict(line.partition(":")[::2] for line in body.decode("utf-8", "replace").splitlines())
    lines = {name.lower(): value.strip() for name, value in found.items()}
    waiting = f"waiting {lines.get('messages-waiting', '?')}"
    voice = lines.get("voice-message", "")
    return Gist(f"{waiting}, {voice}" if voice else waiting, lines.get("message-account", ""))


def _counts(fields: Texts) -> list[int]:
    """Read new, saved, urgent, urgent saved; MWI-Voice-Message counts only where Messages-New is missing."""
    line = fields["MWI-Voice-Message"]
    if not line or fields["Messages-New"]:
        return [_count(name, fields[name] or "0") for name in _COUNTS]
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
