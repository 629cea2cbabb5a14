# SPDX-License-Identifier: GPL-2.0-or-later
"""A model of nsqd, as far as its consumers and publishers see it: bytes in, bytes out; the time comes as an argument.

It follows nsqd/channel.go and nsqd/protocol_v2.go of nsqd 1.3. tests/integration/test_simulated_nsqd.py holds it
against the real one.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.support import frames

MAX_RDY = 2500
DEFAULT_TIMEOUT_S = 60.0
_BODIES = frozenset({b"IDENTIFY", b"PUB", b"DPUB"})
_MAGIC = b"  V2"


@dataclass(slots=True, eq=False)
class Stored:
    """One message, of the one channel that its topic has.

    Attributes:
        message_id: 16 hexadecimal digits.
        timestamp_ns: when it was published, by the clock of its nsqd.
        topic: where.
        body: the payload.
        due: it is handed out from this second on.
        attempts: deliveries so far.
    """

    message_id: bytes
    timestamp_ns: int
    topic: str
    body: bytes
    due: float
    attempts: int = 0


@dataclass(slots=True, eq=False)
class Peer:
    """One connection of a client.

    Attributes:
        owner: whose it is.
        outgoing: what the client has not read yet.
        incoming: the part of a command that has come.
        topic: to which it is subscribed, or ''.
        ready: its RDY.
        timeout_s: of messages.
        in_flight: how many messages it has.
        closed: nsqd has gone, or has hung up.
        beat_at: second of the next heartbeat.
    """

    owner: object
    beat_at: float
    outgoing: bytearray = field(default_factory=bytearray)
    incoming: bytearray = field(default_factory=bytearray)
    topic: str = ""
    ready: int = 0
    timeout_s: float = DEFAULT_TIMEOUT_S
    heartbeat_s: float = 0.0
    in_flight: int = 0
    closed: bool = False


class Flight(NamedTuple):
    """A message that was handed out: to whom, and the second at which it times out."""

    message: Stored
    peer: Peer
    until: float


class ModelNsqd:
    """One nsqd.

    Args:
        number: makes its message ids its own.
        prefer: returns a number for a message and a connection: the least is served first.

    Attributes:
        mode: `up`, `down`, or `frozen`: it takes connections and says nothing.
        ahead_s: by how much its clock is ahead.
        waiting: messages that nobody has, by id.
        in_flight: messages that somebody has, or had when the connection ended, by id.
        stored: how many messages it was given.
    """

    def __init__(self, number: int, ahead_s: float, prefer: Callable[[Stored, int], int]) -> None:
        self.mode = "up"
        self.ahead_s = ahead_s
        self.waiting: dict[bytes, Stored] = {}
        self.in_flight: dict[bytes, Flight] = {}
        self.peers: list[Peer] = []
        self.stored = 0
        self._number = number
        self._prefer = prefer

    # Its operator

    def stop(self) -> None:
        """End as after SIGTERM: what is there will be there again."""
        self.mode = "down"
        for peer in list(self.peers):
            self.hang_up(peer)
        self.waiting |= {message_id: flight.message for message_id, flight in self.in_flight.items()}
        self.in_flight.clear()

    def thaw(self, now: float) -> None:
        """Go on, or be started again."""
        self.mode = "up"
        for peer in self.peers:
            self._obey(peer, now)

    def hang_up(self, peer: Peer) -> None:
        """Drop a connection; what was in flight there comes again when it has timed out."""
        peer.closed = True
        self.peers.remove(peer)

    # Its clients

    def put(self, topic: str, body: bytes, now: float, wall: float, delay_s: float = 0.0) -> Stored:
        """Take a message."""
        self.stored += 1
        message_id = b"%02x%014x" % (self._number, self.stored)
        # No two have one time: what orders them then is of no interest here.
        timestamp_ns = int((wall + self.ahead_s) * 1e9) + self.stored * 4 + self._number
        message = Stored(message_id, timestamp_ns, topic, body, now + delay_s)
        self.waiting[message_id] = message
        return message

    def connect(self, owner: object, now: float) -> Peer:
        """Take a connection."""
        peer = Peer(owner, now)
        self.peers.append(peer)
        return peer

    def receive(self, peer: Peer, data: bytes, now: float) -> None:
        """Take what a client has written; one that is frozen reads it later."""
        if peer.closed:
            return
        peer.incoming += data
        if self.mode == "up":
            self._obey(peer, now)

    def _obey(self, peer: Peer, now: float) -> None:
        if peer.incoming.startswith(_MAGIC):
            del peer.incoming[: len(_MAGIC)]
        while (end := peer.incoming.find(b"\n")) >= 0:
            name, *arguments = bytes(peer.incoming[:end]).split(b" ")
            body, end = b"", end + 1
            if name in _BODIES:
                (size,) = struct.unpack_from(">i", peer.incoming, end)
                body, end = bytes(peer.incoming[end + 4 : end + 4 + size]), end + 4 + size
            del peer.incoming[:end]
            getattr(self, f"_{name.decode().lower()}")(peer, now, body, *arguments)

    # Time

    def tick(self, now: float) -> None:
        """Take back what has timed out, send heartbeats, hand out what is due."""
        if self.mode != "up":
            return
        for message_id, flight in list(self.in_flight.items()):
            if flight.until <= now:
                self.waiting[message_id] = self._land(message_id)
        for peer in self.peers:
            if peer.heartbeat_s and peer.beat_at <= now:
                peer.beat_at = now + peer.heartbeat_s
                peer.outgoing += frames.heartbeat()
        self._hand_out(now)

    def next_due(self, now: float) -> float:
        """Return the second at which `tick` has something to do."""
        dues = [peer.beat_at for peer in self.peers if peer.heartbeat_s]
        dues += [flight.until for flight in self.in_flight.values()]
        dues += [message.due for message in self.waiting.values() if message.due > now]
        return min(dues, default=float("inf")) if self.mode == "up" else float("inf")

    def _hand_out(self, now: float) -> None:
        due = sorted(
            (message for message in self.waiting.values() if message.due <= now),
            key=lambda message: (self._prefer(message, -1), message.message_id),
        )
        for message in due:
            free = [peer for peer in self.peers if peer.topic == message.topic and peer.in_flight < peer.ready]
            if free:
                self._send(min(free, key=lambda peer: self._prefer(message, self.peers.index(peer))), message, now)

    def _send(self, peer: Peer, message: Stored, now: float) -> None:
        del self.waiting[message.message_id]
        message.attempts += 1
        peer.in_flight += 1
        self.in_flight[message.message_id] = Flight(message, peer, now + peer.timeout_s)
        peer.outgoing += frames.message(
            message.body,
            message_id=message.message_id,
            attempts=message.attempts & 0xFFFF,
            timestamp_ns=message.timestamp_ns,
        )

    # Commands

    def _identify(self, peer: Peer, now: float, body: bytes) -> None:
        asked = json.loads(body)
        peer.timeout_s = asked.get("msg_timeout", DEFAULT_TIMEOUT_S * 1000) / 1000
        peer.heartbeat_s = max(0.0, asked.get("heartbeat_interval", 30_000) / 1000)
        peer.beat_at = now + peer.heartbeat_s
        peer.outgoing += frames.identified(max_rdy=MAX_RDY, msg_timeout_ms=int(peer.timeout_s * 1000))

    def _sub(self, peer: Peer, _now: float, _body: bytes, topic: bytes, _channel: bytes) -> None:
        peer.topic = topic.decode()
        peer.outgoing += frames.ok()

    def _rdy(self, peer: Peer, now: float, _body: bytes, count: bytes) -> None:
        peer.ready = int(count)
        self.tick(now)

    def _nop(self, peer: Peer, now: float, body: bytes) -> None:
        """Take the answer to a heartbeat."""

    def _fin(self, peer: Peer, now: float, _body: bytes, message_id: bytes) -> None:
        if self._taken(peer, message_id, "FIN"):
            self.tick(now)

    def _req(self, peer: Peer, now: float, _body: bytes, message_id: bytes, delay_ms: bytes) -> None:
        message = self._taken(peer, message_id, "REQ")
        if message is not None:
            message.due = now + int(delay_ms) / 1000
            self.waiting[message_id] = message
            self.tick(now)

    def _touch(self, peer: Peer, now: float, _body: bytes, message_id: bytes) -> None:
        message = self._taken(peer, message_id, "TOUCH")
        if message is not None:
            peer.in_flight += 1
            self.in_flight[message_id] = Flight(message, peer, now + peer.timeout_s)

    def _taken(self, peer: Peer, message_id: bytes, command: str) -> Stored | None:
        flight = self.in_flight.get(message_id)
        if flight is not None and flight.peer is peer:
            return self._land(message_id)
        why = "client does not own message" if flight else "ID not in flight"
        peer.outgoing += frames.error(f"E_{command}_FAILED {command} {message_id.decode()} failed {why}")
        return None

    def _land(self, message_id: bytes) -> Stored:
        flight = self.in_flight.pop(message_id)
        flight.peer.in_flight -= 1
        return flight.message
