# SPDX-License-Identifier: GPL-2.0-or-later
"""A dead letter as a tool reads it, and which of them are meant.

Anybody may publish to the topic of the dead letters, so one that none of ours wrote is a letter, too: it can be seen
and dropped. What a dead letter has, says `consumer.deadletters`.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from kemi_nsq.consumer.origin import Origin, origin_of, payload_of
from kemi_nsq.errors import PayloadError, UsageError
from kemi_nsq.event import decode
from kemi_nsq.jsontext import JsonObject, field_text
from kemi_nsq.nsq.protocol import MAX_FRAME, Message

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_DIGITS = re.compile(r"[0-9]{1,19}")
_AGO = re.compile(r"([0-9]{1,6})([smhd])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One dead letter.

    Attributes:
        nsqd: TCP address of the nsqd that has it.
        letter_id: its own message id there.
        died_ns: when that nsqd took it, nanoseconds since the epoch.
        looks: how often it was handed to a tool, this time included.
        reason: why its message went no further.
        route: the most specific route of the message, or ''.
        attempts: how often the message had been delivered, as text.
        node: who gave it up.
        topic: where the message came from.
        channel: likewise.
        message_id: its id there.
        timestamp: when nsqd took it, nanoseconds since the epoch, as text.
        replays: how often it had been replayed then.
        body: what the message said.
        fault: why the letter is none of ours, or ''.
    """

    nsqd: str
    letter_id: str
    died_ns: int
    looks: int
    reason: str
    route: str
    attempts: str
    node: str
    topic: str
    channel: str
    message_id: str
    timestamp: str
    replays: str
    body: bytes
    fault: str

    @property
    def why(self) -> str:
        """Why its message went no further, and what is wrong with the letter itself."""
        return "; ".join(filter(None, (self.reason, self.fault)))

    @property
    def died_s(self) -> float:
        """When it was written, in seconds since the epoch."""
        return self.died_ns / 1e9

    @property
    def text(self) -> str:
        """What the message said, for people: JSON with indents, and bytes that are no UTF-8 as escapes."""
        text = self.body.decode("utf-8", "backslashreplace")
        try:
            return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
        except (ValueError, RecursionError):
            return text

    def origin(self) -> Origin:
        """Return the message that the letter holds, as its next replay.

        Raises:
            PayloadError: the letter does not say what that was.
        """
        if self.fault:
            raise PayloadError(self.fault)
        told = {
            "Topic": self.topic,
            "Channel": self.channel,
            "Message-ID": self.message_id,
            "Timestamp": _number(self.timestamp),
        }
        return origin_of(told, self.body, replays=(_number(self.replays) or 0) + 1)

    def as_json(self) -> dict[str, object]:
        """Return it for programs; what the message said is `payload`, or `payload_base64` if it is no UTF-8."""
        shown = asdict(self)
        body: bytes = shown.pop("body")
        try:
            return shown | {"payload": body.decode("utf-8")}
        except UnicodeDecodeError:
            return shown | {"payload_base64": base64.b64encode(body).decode("ascii")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which letters are meant: those that match all of what is given here.

    Attributes:
        ids: ids of letters, or of the messages that they hold.
        reason: a part of the reason, in any case.
        topic: the topic where the message came from.
        since_s: epoch second from which on it became a letter.
        limit: at most so many; 0 for all.
    """

    ids: Collection[str] = ()
    reason: str = ""
    topic: str = ""
    since_s: float = 0.0
    limit: int = 0

    @property
    def everything(self) -> bool:
        """Whether nothing is given, so that each letter is meant."""
        return self == Wanted()

    def of(self, letters: Iterable[Letter]) -> list[Letter]:
        """Return those that are meant, the oldest first."""
        found = [each for each in sorted(letters, key=lambda letter: letter.died_ns) if self._has(each)]
        return found[: self.limit] if self.limit else found

    def _has(self, letter: Letter) -> bool:
        return (
            (not self.ids or letter.letter_id in self.ids or letter.message_id in self.ids)
            and self.reason.casefold() in letter.why.casefold()
            and self.topic in ("", letter.topic)
            and letter.died_s >= self.since_s
        )


def read(message: Message, nsqd: str) -> Letter:
    """Read a message of the topic of the dead letters, whatever it is."""
    fault, body = "", message.body
    fields: JsonObject = {}
    try:
        _, fields = decode(message.body, max_size=MAX_FRAME)
        body = payload_of(fields)
    except PayloadError as error:
        fault = f"no dead letter of kemi-nsq: {error}"
    return Letter(
        nsqd=nsqd,
        letter_id=message.message_id.decode("ascii", "replace"),
        died_ns=message.timestamp_ns,
        looks=message.attempts,
        reason=field_text(fields, "Reason"),
        route=field_text(fields, "Route"),
        attempts=field_text(fields, "Attempts"),
        node=field_text(fields, "Node"),
        topic=field_text(fields, "Topic"),
        channel=field_text(fields, "Channel"),
        message_id=field_text(fields, "Message-ID"),
        timestamp=field_text(fields, "Timestamp"),
        replays=field_text(fields, "Replays"),
        body=body,
        fault=fault,
    )


def since(text: str, now: float) -> float:
    """Read `90s`, `15m`, `2h`, `7d`, or a date and time by the machine's clock, as epoch seconds; '' is 0.

    Raises:
        UsageError: it is none of these.
    """
    if not text:
        return 0.0
    if match := _AGO.fullmatch(text):
        return now - timedelta(**{_UNITS[match[2]]: int(match[1])}).total_seconds()
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError) as error:
        raise UsageError(f"--since {text!r} is neither a time such as 2026-12-24T18:00 nor one ago, as 2h") from error


def _number(text: str) -> int | None:
    return int(text) if _DIGITS.fullmatch(text) else None
