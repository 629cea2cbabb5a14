# SPDX-License-Identifier: GPL-2.0-or-later
"""How nsqd, topics and channels are named: addresses, subscriptions, names that NSQ accepts, parts of routing keys."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from gnsq import protocol

from kemi_nsq.errors import AddressRefused, NameRefused


class Address(NamedTuple):
    """A TCP address: host name or IP literal without brackets, and port."""

    host: str
    port: int

    def __str__(self) -> str:
        """Write the address as `host:port`, an IPv6 literal in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Subscription(NamedTuple):
    """A topic and the channel of it that is consumed."""

    topic: str
    channel: str

    def __str__(self) -> str:
        """Write the pair as NSQ_TOPIC_CHANNEL does, `topic:channel`."""
        return f"{self.topic}:{self.channel}"


_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]{0,41})\]|([A-Za-z0-9_.-]{1,255})):([0-9]{1,5})")


def address(text: str) -> Address:
    """Read `host:port` or `[IPv6]:port`.

    Raises:
        AddressRefused: the text is no address, the name has more than 255 characters (RFC 1035, 2.3.4), or the port is
            not 1-65535.
    """
    match = _ADDRESS.fullmatch(text.strip())
    if match is None or not 0 < int(match[3]) < 65536:
        raise AddressRefused(f"{text.strip()!r} is no host:port")
    return Address(match[1] or match[2], int(match[3]))


@lru_cache
def topic_name(text: str) -> str:
    """Return a topic or channel name that NSQ accepts (NSQ TCP protocol spec, "Data Format").

    Raises:
        NameRefused: NSQ would refuse the name.
    """
    # gnsq's pattern ends in `$`, which lets a final newline through; nsqd does not.
    if not protocol.valid_topic_name(text) or text.endswith("\n"):
        raise NameRefused(f"{text!r} is no name for a topic or channel")
    return text


#: What kazoo's and nsq's `encode` keep as it is; everything else becomes `%` and two digits for each byte of UTF-8.
_KEPT = re.compile(r"[A-Za-z0-9~_-]")


def encode_key(text: str) -> str:
    """Encode text as part of a routing key (kz_amqp.c, `kz_amqp_util_encode`), beyond ASCII as UTF-8.

    `#` and `*` alone stay as they are; a blank becomes `+`.
    """
    if text in ("#", "*"):
        return text
    return "".join(char if _KEPT.match(char) else _encoded(char) for char in text)


def _encoded(char: str) -> str:
    return "+" if char == " " else "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))
