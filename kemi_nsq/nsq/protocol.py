# SPDX-License-Identifier: GPL-2.0-or-later
"""One conversation with nsqd, without a socket: bytes in, events out, bytes to send.

The three verbs are `receive_data`, `next_event` and `data_to_send`. The codec is gnsq's `protocol`; the order of
things is the NSQ TCP protocol spec: magic, IDENTIFY, its answer, SUB, its answer, then frames in any order. Whoever
owns the socket reads what is there, feeds it, takes all events, and writes what `data_to_send` returns.

With `output_buffer_size` -1 nsqd writes the length and the body of a frame separately: one `recv` is never one frame.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import orjson
from gnsq import errors as gnsq_errors
from gnsq import protocol

from kemi_nsq.errors import ProtocolError
from kemi_nsq.jsontext import JsonValue
from kemi_nsq.names import Subscription

#: Largest frame accepted. nsqd's own default for a message is 1 MiB (`--max-msg-size`).
MAX_FRAME = 16 * 1024 * 1024
_HEADER = 4
_LONG = struct.Struct(">l")  # size of what follows the size, and type
#: FIN around the id of a message; building it anew for each takes longer than all that is done with it here.
_FINISH, _END = bytes(protocol.finish(b"id")).split(b"id")
_MESSAGE_HEADER = 26


@dataclass(frozen=True, slots=True, kw_only=True)
class Identified:
    """nsqd answered IDENTIFY: what it allows on this connection.

    Attributes:
        max_rdy: highest RDY count.
        msg_timeout_s: seconds until nsqd requeues a message that is neither finished nor touched.
        version: nsqd's version.
    """

    max_rdy: int
    msg_timeout_s: float
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribed:
    """nsqd accepted SUB; messages come once RDY is set."""


class Message(NamedTuple):
    """One message, in flight until it is finished or requeued.

    Attributes:
        message_id: 16 hexadecimal digits.
        timestamp_ns: when nsqd took it, nanoseconds since the epoch.
        attempts: deliveries so far, this one included; unsigned 16 bit (NSQ spec, "Data Format").
        body: the payload.
    """

    message_id: bytes
    timestamp_ns: int
    attempts: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """nsqd asked whether we live; the answer is already among the data to send."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """nsqd answered OK to the oldest unanswered command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """nsqd sent an error frame.

    Attributes:
        code: NSQ's word, such as `E_FIN_FAILED`.
        text: the rest of the frame.
        fatal: nsqd closes the connection after this error.
    """

    code: str
    text: str
    fatal: bool


#: The whole frame of `Accepted`, for who waits for nothing else.
OK = struct.pack(">ll2s", 6, protocol.FRAME_TYPE_RESPONSE, b"OK")

NsqEvent: TypeAlias = Identified | Subscribed | Message | Heartbeat | Accepted | Refused


class _State(enum.Enum):
    """What the next response frame answers."""

    IDENTIFYING = enum.auto()
    SUBSCRIBING = enum.auto()
    READY = enum.auto()


class Conversation:
    """The state of one TCP connection to nsqd.

    Args:
        identify: what `identify` returns; `feature_negotiation` is added.
        subscription: topic and channel to subscribe to, or None for a connection that only publishes.
        max_frame: frames above this many bytes are a protocol error.
    """

    def __init__(
        self,
        *,
        identify: Mapping[str, JsonValue],
        subscription: Subscription | None = None,
        max_frame: int = MAX_FRAME,
    ) -> None:
        self._subscription = subscription
        self._max_frame = max_frame
        self._state = _State.IDENTIFYING
        self._received = bytearray()
        self._read_to = 0
        self._in_flight: set[bytes] = set()
        self._to_send = [protocol.MAGIC_V2, protocol.identify({**identify, "feature_negotiation": True})]

    @property
    def in_flight(self) -> frozenset[bytes]:
        """Ids of the messages that are neither finished nor requeued."""
        return frozenset(self._in_flight)

    def receive_data(self, data: bytes) -> None:
        """Take bytes as they came from the socket, in pieces of any size."""
        del self._received[: self._read_to]
        self._read_to = 0
        self._received += data

    def next_event(self) -> NsqEvent | None:
        """Return the next thing that nsqd said, or None if its frame is not complete yet.

        Raises:
            ProtocolError: the bytes are no NSQ frame; the connection must be closed.
        """
        frame = self._next_frame()
        if frame is None:
            return None
        kind, body = frame
        if kind == protocol.FRAME_TYPE_MESSAGE and self._state is _State.READY:
            return self._message(body)
        if kind == protocol.FRAME_TYPE_ERROR:
            return _refused(body)
        if kind == protocol.FRAME_TYPE_RESPONSE:
            return self._response(body)
        raise ProtocolError(f"nsqd sent a frame of type {kind}, which is unknown, or not allowed in the handshake")

    def data_to_send(self) -> bytes:
        """Return the bytes to write to the socket, once."""
        data = b"".join(self._to_send)
        self._to_send.clear()
        return data

    def ready(self, count: int) -> None:
        """Let nsqd have up to `count` messages in flight here (RDY)."""
        self._to_send.append(protocol.ready(count))

    def finish(self, message_id: bytes) -> None:
        """Tell nsqd that a message is done (FIN). A message that is not in flight is left alone."""
        if message_id in self._in_flight:
            self._in_flight.discard(message_id)
            self._to_send += _FINISH, message_id, _END

    def requeue(self, message_id: bytes, delay_ms: int) -> None:
        """Give a message back to be delivered again after `delay_ms` (REQ)."""
        if message_id in self._in_flight:
            self._in_flight.discard(message_id)
            self._to_send.append(protocol.requeue(message_id, delay_ms))

    def touch(self, message_id: bytes) -> None:
        """Ask nsqd to restart the timeout of a message in flight (TOUCH)."""
        if message_id in self._in_flight:
            self._to_send.append(protocol.touch(message_id))

    def close(self) -> None:
        """Ask for no further messages, to answer those in flight and go (CLS); `Accepted` follows."""
        self._to_send.append(protocol.close())

    def publish(self, topic: str, body: bytes) -> None:
        """Publish one message (PUB); `Accepted` or `Refused` follows."""
        self._to_send += _publish_head(topic), _LONG.pack(len(body)), body

    def publish_many(self, topic: str, sized: Sequence[bytes]) -> None:
        """Publish messages in one command (MPUB), all or none; `Accepted` or `Refused` follows.

        Args:
            topic: of all.
            sized: of each, the length of its body in four bytes, and the body.
        """
        body_size = _LONG.size + sum(map(len, sized))
        self._to_send += _publish_many_head(topic), _LONG.pack(body_size), _LONG.pack(len(sized)), *sized

    def publish_deferred(self, topic: str, body: bytes, delay_ms: int) -> None:
        """Publish one message that nsqd holds back for `delay_ms` (DPUB); `Accepted` or `Refused` follows."""
        self._to_send.append(protocol.deferpublish(topic, body, delay_ms))

    def _next_frame(self) -> tuple[int, bytes] | None:
        """Cut one frame (size, type, body: NSQ spec, "Data Format") off what was received."""
        start = self._read_to + _HEADER
        if len(self._received) < start:
            return None
        (size,) = _LONG.unpack_from(self._received, self._read_to)
        if not _HEADER <= size <= self._max_frame:
            if self._received.startswith(b"HTTP", self._read_to):
                raise ProtocolError(
                    "an HTTP server answers there: nsqd's TCP port is wanted (4150), not that for HTTP (4151)"
                )
            raise ProtocolError(f"nsqd announced a frame of {size} bytes; 4 to {self._max_frame} are allowed")
        if len(self._received) < start + size:
            return None
        (kind,) = _LONG.unpack_from(self._received, start)
        self._read_to = start + size
        return kind, bytes(self._received[start + _LONG.size : self._read_to])

    def _message(self, body: bytes) -> Message:
        if len(body) < _MESSAGE_HEADER:
            raise ProtocolError(
                f"nsqd sent a message frame of {len(body)} bytes; its header alone has {_MESSAGE_HEADER}"
            )
        timestamp_ns, attempts, message_id, payload = protocol.unpack_message(body)
        self._in_flight.add(message_id)
        # gnsq unpacks the 16 bits signed; nsqd counts unsigned.
        return Message(message_id=message_id, timestamp_ns=timestamp_ns, attempts=attempts & 0xFFFF, body=payload)

    def _response(self, body: bytes) -> NsqEvent:
        if body == protocol.HEARTBEAT:
            self._to_send.append(protocol.nop())
            return Heartbeat()
        if self._state is _State.IDENTIFYING:
            return self._identified(body)
        if self._state is _State.SUBSCRIBING:
            self._state = _State.READY
            return Subscribed()
        return Accepted()

    def _identified(self, body: bytes) -> Identified:
        try:
            answer = orjson.loads(body)
            found = Identified(
                max_rdy=int(answer["max_rdy_count"]),
                msg_timeout_s=answer["msg_timeout"] / 1000,
                version=str(answer["version"]),
            )
            if found.msg_timeout_s <= 0:  # every message would be late at once
                raise ValueError("msg_timeout")
        except (ValueError, TypeError, KeyError) as error:
            raise ProtocolError(f"nsqd answered IDENTIFY with {bytes(body[:80])!r}") from error
        if self._subscription is None:
            self._state = _State.READY
        else:
            self._state = _State.SUBSCRIBING
            self._to_send.append(protocol.subscribe(*self._subscription))
        return found


def identify(  # noqa: PLR0913  # one argument for each thing that one of ours says
    *,
    client_id: str,
    hostname: str | None = None,
    user_agent: str | None = None,
    heartbeat_s: float | None = None,
    unbuffered: bool = False,
    msg_timeout_s: float = 0,
) -> dict[str, JsonValue]:
    """Return the fields of IDENTIFY (NSQ TCP protocol spec). What is left out here is left to nsqd.

    Args:
        client_id: who we are among those of a host.
        hostname: the host.
        user_agent: program and version.
        heartbeat_s: seconds between two heartbeats; 0 for none, which nsqd allows to publishers.
        unbuffered: nsqd shall hold nothing back.
        msg_timeout_s: seconds until nsqd requeues what is neither finished nor touched.
    """
    fields: dict[str, JsonValue] = {"client_id": client_id}
    if hostname is not None:
        fields["hostname"] = hostname
    if user_agent is not None:
        fields["user_agent"] = user_agent
    if heartbeat_s is not None:
        fields["heartbeat_interval"] = int(heartbeat_s * 1000) or -1
    if unbuffered:
        # nsqd would hold messages back for up to 250 ms; unbuffered, an event arrives in a fraction of a millisecond.
        fields["output_buffer_size"] = -1
    if msg_timeout_s:
        fields["msg_timeout"] = int(msg_timeout_s * 1000)
    return fields


@lru_cache
def _publish_head(topic: str) -> bytes:
    """Return PUB and the topic; building them anew costs as much as all the rest of a publish here."""
    return bytes(protocol.publish(topic, b"")).removesuffix(_LONG.pack(0))


@lru_cache
def _publish_many_head(topic: str) -> bytes:
    """Return MPUB and the topic."""
    return bytes(protocol.multipublish(topic, [])).removesuffix(_LONG.pack(_LONG.size) + _LONG.pack(0))


def _refused(body: bytes) -> Refused:
    code, _, text = body.decode("utf-8", "replace").partition(" ")
    kind = gnsq_errors.ERROR_CODES.get(code.encode(), gnsq_errors.NSQErrorCode)
    return Refused(code=code, text=text, fatal=kind.fatal)
