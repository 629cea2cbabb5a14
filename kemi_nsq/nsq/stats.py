# SPDX-License-Identifier: GPL-2.0-or-later
"""Who reads a topic, as nsqd's HTTP interface tells.

Sources: nsq.io, "nsqd" (`/stats`); nsqd/stats.go.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from kemi_nsq.errors import ProtocolError
from kemi_nsq.names import Address
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


def readers(nsqd: Address, topic: str, *, timeout_s: float) -> list[Reader]:
    """Ask a nsqd, by its HTTP address, who reads a topic, on whichever channel.

    Raises:
        TransientError: it cannot be reached in time, or answers something else.
    """
    answer = httpapi.get(nsqd, "/stats", timeout_s=timeout_s, format="json", topic=topic, include_mem="false")
    try:
        topics = orjson.loads(answer.body)["topics"] or ()  # null where nsqd has none of this name
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
