# SPDX-License-Identifier: GPL-2.0-or-later
"""What the servers of NSQ say of themselves, each asked once, with a deadline; `network` judges it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar, cast

import orjson

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.errors import NsqdRefused, NsqError, ProtocolError, TransientError
from kemi_nsq.names import Address, Subscription
from kemi_nsq.nsq import httpapi, nodes
from kemi_nsq.nsq import protocol as nsq
from kemi_nsq.nsq.sockets import BlockingSocket

_TIMEOUT_S = 2.0
_MOST_BYTES = 4096
#: nsqlookupd's answer to what is no protocol of its own (nsqlookupd/tcp.go).
_LOOKUPD_SAYS = b"E_BAD_PROTOCOL"
Said = TypeVar("Said")


class Kind(enum.Enum):
    """What an address is."""

    NSQD = "nsqd's port for consumers (TCP)"
    HTTP = "an HTTP port"
    NSQD_HTTP = "nsqd's HTTP port"
    LOOKUPD_HTTP = "nsqlookupd's HTTP port"
    LOOKUPD = "nsqlookupd's port for nsqd (TCP)"
    OTHER = "no port of NSQ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """What answered at a port.

    Attributes:
        kind: what it is.
        refused: nsqd's word for what it did not take of our IDENTIFY, '' for nothing.
        date: what its clock showed, in epoch seconds; None where it does not say.
        info: what it says of itself by HTTP.
    """

    kind: Kind
    refused: str = ""
    date: float | None = None
    info: dict[str, Any] = field(default_factory=dict)


class Servers:
    """Asks, and remembers what was said, or how it failed.

    Args:
        clock: tells the time.
    """

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._known: dict[object, object] = {}

    def tcp(self, address: Address, msg_timeout_s: float = 0) -> Spoken:
        """Speak the NSQ protocol.

        Raises:
            TransientError: nobody answers.
        """
        return self._once(("tcp", address, msg_timeout_s), lambda: self._speak(address, msg_timeout_s))

    def http(self, address: Address) -> Spoken:
        """Ask by HTTP who it is; raises as `tcp`."""
        return self._once(("http", address), lambda: self._ask(address))

    def nodes(self, lookupd: Address) -> Sequence[Address]:
        """Return the TCP addresses of the nsqd that a nsqlookupd names; raises as `tcp`."""

        def read() -> Sequence[Address]:
            answer = httpapi.get(lookupd, nodes.PATH, timeout_s=_TIMEOUT_S)
            return nodes.read(answer.body, lookupd, "tcp_port").addresses

        return self._once(("nodes", lookupd), read)

    def http_nodes(self, lookupd: Address) -> Sequence[Address]:
        """Return the HTTP addresses of the nsqd that a nsqlookupd names; raises as `tcp`."""

        def read() -> Sequence[Address]:
            answer = httpapi.get(lookupd, nodes.PATH, timeout_s=_TIMEOUT_S)
            return nodes.read(answer.body, lookupd, "http_port").addresses

        return self._once(("http nodes", lookupd), read)

    def stats(self, nsqd: Address) -> list[dict[str, Any]]:
        """Return the topics of a nsqd with their channels and clients (nsqd/stats.go); raises as `tcp`."""

        def read() -> list[dict[str, Any]]:
            answer = httpapi.get(nsqd, "/stats", timeout_s=_TIMEOUT_S, format="json", include_mem="false")
            try:
                return [dict(topic) for topic in orjson.loads(answer.body)["topics"] or ()]
            except (ValueError, KeyError, TypeError) as error:
                raise ProtocolError(f"{nsqd}: /stats answered without any") from error

        return self._once(("stats", nsqd), read)

    def readers(self, nsqd: Address, subscription: Subscription) -> list[dict[str, Any]]:
        """Return the clients of a channel; raises as `tcp`."""
        for topic in self.stats(nsqd):
            if topic.get("topic_name") == subscription.topic:
                for channel in topic.get("channels") or ():
                    if channel.get("channel_name") == subscription.channel:
                        return [dict(client) for client in channel.get("clients") or ()]
        return []

    def _once(self, key: object, look: Callable[[], Said]) -> Said:
        if key not in self._known:
            try:
                self._known[key] = look()
            except NsqError as error:
                self._known[key] = error
        known = self._known[key]
        if isinstance(known, NsqError):
            raise known
        return cast(Said, known)

    def _ask(self, address: Address) -> Spoken:
        try:
            answer = httpapi.get(address, "/info", timeout_s=_TIMEOUT_S)
            info = orjson.loads(answer.body)
            date = answer.headers.get("Date", "")
            # nsqlookupd says its version only (nsqlookupd/http.go, doInfo).
            kind = Kind.NSQD_HTTP if "tcp_port" in info else Kind.LOOKUPD_HTTP if "version" in info else Kind.HTTP
            return Spoken(kind=kind, info=info, date=parsedate_to_datetime(date).timestamp() if date else None)
        except (ValueError, TypeError):
            return Spoken(kind=Kind.HTTP)
        except TransientError as error:
            try:
                return self.tcp(address)
            except TransientError:
                raise error from None

    def _speak(self, address: Address, msg_timeout_s: float) -> Spoken:
        deadline = self._clock.monotonic() + _TIMEOUT_S
        connection = BlockingSocket(address, deadline)
        conversation = nsq.Conversation(identify=nsq.identify(client_id="kemi-nsq doctor", msg_timeout_s=msg_timeout_s))
        received = b""
        try:
            connection.send_all(conversation.data_to_send(), deadline)
            while len(received) < _MOST_BYTES:
                data = connection.receive(deadline)
                received += data
                if received.startswith(b"HTTP/"):
                    return Spoken(kind=Kind.HTTP)
                if _LOOKUPD_SAYS in received:
                    return Spoken(kind=Kind.LOOKUPD)
                conversation.receive_data(data)
                match conversation.next_event():
                    case nsq.Identified():
                        return Spoken(kind=Kind.NSQD)
                    case nsq.Refused() as refused:
                        return Spoken(kind=Kind.NSQD, refused=f"{refused.code} {refused.text}".strip())
        except (ProtocolError, NsqdRefused):
            return Spoken(kind=Kind.OTHER)
        finally:
            connection.close()
        return Spoken(kind=Kind.OTHER)
