# SPDX-License-Identifier: GPL-2.0-or-later
"""Who reads a topic, what waits in a channel, and what the clock shows, as nsqd's HTTP interface tells.

Sources: nsq.io, "nsqd" (`/stats`); nsqd/stats.go.
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import orjson

from kemi_nsq.errors import ProtocolError
from kemi_nsq.names import Address, Subscription
from kemi_nsq.nsq import httpapi

_LONGEST = 256
_NO_CLIENT: dict[str, Any] = {"client_id": "", "hostname": "", "remote_address": "", "connect_ts": 0}


class Reader(NamedTuple):
    """A client of a channel (nsqd/stats.go, `ClientV2Stats`).

    Attributes:
        channel: the channel.
        client_id: what it calls itself.
        hostname: what it calls its machine.
        remote_address: `host:port` where it comes from; '' stands for a channel that has no client now.
        connected_at: when, in whole seconds since the epoch by nsqd's clock.
    """

    channel: str
    client_id: str
    hostname: str
    remote_address: str
    connected_at: float


class Channel(NamedTuple):
    """What nsqd has of a channel: messages that nobody has, messages in flight, and how many clients read it."""

    depth: int
    in_flight: int
    clients: int


class Topic(NamedTuple):
    """What nsqd has of a topic.

    Attributes:
        depth: messages that are in no channel yet. Where there is none, its first one takes them all.
        channels: by name.
    """

    depth: int
    channels: dict[str, Channel]


class Stats(NamedTuple):
    """What a nsqd says.

    Attributes:
        readers: who reads the topic, on whichever channel.
        date: what its clock showed, in seconds since the epoch, whole ones; None where the answer has no `Date`.
    """

    readers: list[Reader]
    date: float | None


def ask(nsqd: Address, topic: str, *, timeout_s: float) -> Stats:
    """Ask a nsqd, by its HTTP address, who reads a topic.

    Raises:
        TransientError: it cannot be reached in time, or answers something else.
    """
    answer = httpapi.get(nsqd, "/stats", timeout_s=timeout_s, format="json", topic=topic, include_mem="false")
    return Stats(_readers(nsqd, answer.body), _date(answer.headers.get("Date", "")))


def channel(nsqd: Address, subscription: Subscription, *, timeout_s: float) -> tuple[int, int, int]:
    """Ask a nsqd, by its HTTP address, what waits for a channel of a topic.

    Returns:
        Messages that nobody has, messages in flight, and messages that were deferred. What waits in the topic itself,
        before nsqd has copied it into its channels, is among the first.

    Raises:
        TransientError: it cannot be reached in time, or answers something else.
    """
    wanted = {"topic": subscription.topic, "channel": subscription.channel}
    answer = httpapi.get(
        nsqd, "/stats", timeout_s=timeout_s, format="json", include_mem="false", include_clients="false", **wanted
    )
    try:
        topics = orjson.loads(answer.body)["topics"] or ()
        found = [each for topic in topics for each in topic["channels"] or ()]
        waiting = sum(int(topic["depth"]) for topic in topics) + sum(int(each["depth"]) for each in found)
        in_flight, deferred = (sum(int(each[name]) for each in found) for name in ("in_flight_count", "deferred_count"))
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolError(f"{nsqd}: /stats answered without any") from error
    return waiting, in_flight, deferred


def topic(nsqd: Address, name: str, *, timeout_s: float) -> Topic | None:
    """Ask a nsqd, by its HTTP address, what it has of a topic; None where it has no such topic.

    Raises:
        TransientError: it cannot be reached in time, or answers something else.
    """
    wanted = {"topic": name, "include_mem": "false", "include_clients": "false"}
    answer = httpapi.get(nsqd, "/stats", timeout_s=timeout_s, format="json", **wanted)
    try:
        for found in orjson.loads(answer.body)["topics"] or ():
            channels = {
                _text(each["channel_name"]): Channel(
                    int(each["depth"]), int(each["in_flight_count"]), int(each["client_count"])
                )
                for each in found["channels"] or ()
            }
            return Topic(int(found["depth"]), channels)
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolError(f"{nsqd}: /stats answered without any") from error
    return None


def _readers(nsqd: Address, body: bytes) -> list[Reader]:
    try:
        topics = orjson.loads(body)["topics"] or ()  # null where nsqd has none of this name
        return [
            Reader(
                _text(channel["channel_name"]),
                _text(client["client_id"]),
                _text(client["hostname"]),
                _text(client["remote_address"]),
                float(client["connect_ts"]),
            )
            for found in topics
            for channel in found["channels"]
            for client in channel["clients"] or (_NO_CLIENT,)
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolError(f"{nsqd}: /stats answered without any") from error


def _text(value: Any) -> str:
    """Return a text, which nobody needs whole if it is long; raises TypeError if it is none."""
    if not isinstance(value, str):
        raise TypeError
    return value[:_LONGEST]


def _date(text: str) -> float | None:
    """Read a `Date` (RFC 9110, section 5.6.7)."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
