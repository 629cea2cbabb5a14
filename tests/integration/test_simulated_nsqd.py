# SPDX-License-Identifier: GPL-2.0-or-later
"""The simulation's nsqd says what the real one says: the same scenes are played with both, and must read the same."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Protocol

import pytest

from tests.simulate.nsqd import ModelNsqd, Peer
from tests.support.frames import ERROR, MESSAGE
from tests.support.nsqd import Nsqd
from tests.support.until import until

TOPIC, CHANNEL = "t", "c"
PATIENCE_S = 10.0
NOBODY = b"f" * 16


class Stage(Protocol):
    """An nsqd, and connections to it."""

    def connect(self) -> int:
        """Open a connection; return its number."""

    def send(self, peer: int, data: bytes) -> None:
        """Write to it."""

    def frame(self, peer: int) -> bytes:
        """Return the next frame that comes there, without its size."""

    def hang_up(self, peer: int) -> None:
        """Close it."""

    def publish(self, body: bytes, delay_ms: int) -> None:
        """Publish a message."""

    def restart(self) -> None:
        """Stop nsqd as its operator does, and start it again."""

    def left(self) -> int:
        """Return how many messages are not finished."""


class Model:
    """The model, in a time of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.nsqd = ModelNsqd(0, 0.0, lambda _message, _peer: 0)
        self.peers: list[Peer] = []

    def connect(self) -> int:
        self.peers.append(self.nsqd.connect(self, self.now))
        return len(self.peers) - 1

    def send(self, peer: int, data: bytes) -> None:
        self.nsqd.receive(self.peers[peer], data, self.now)

    def frame(self, peer: int) -> bytes:
        outgoing, ends = self.peers[peer].outgoing, self.now + PATIENCE_S
        self.nsqd.tick(self.now)
        while not outgoing:
            self.now = self.nsqd.next_due(self.now)
            assert self.now < ends, "no frame comes"
            self.nsqd.tick(self.now)
        (size,) = struct.unpack_from(">i", outgoing)
        found = bytes(outgoing[4 : 4 + size])
        del outgoing[: 4 + size]
        return found

    def hang_up(self, peer: int) -> None:
        self.nsqd.hang_up(self.peers[peer])

    def publish(self, body: bytes, delay_ms: int) -> None:
        self.nsqd.put(TOPIC, body, self.now, self.now, delay_ms / 1000)
        self.nsqd.tick(self.now)

    def restart(self) -> None:
        self.nsqd.stop()
        self.nsqd.thaw(self.now)

    def left(self) -> int:
        return len(self.nsqd.waiting) + len(self.nsqd.in_flight)


class Real:
    """The real one."""

    def __init__(self, folder: Path, ends: ExitStack) -> None:
        self.nsqd = ends.enter_context(Nsqd(folder))
        self.nsqd.create_topic(TOPIC)
        self.nsqd.create_channel(TOPIC, CHANNEL)
        self.restart()  # a new channel may have to wait 5 s until time passes for it
        self.peers: list[socket.socket] = []
        self._files: list[BinaryIO] = []
        self._ends = ends

    def connect(self) -> int:
        self.peers.append(socket.create_connection(("127.0.0.1", self.nsqd.tcp_port), PATIENCE_S))
        self._files.append(self.peers[-1].makefile("rb"))
        self._ends.enter_context(self.peers[-1])
        self._ends.enter_context(self._files[-1])
        return len(self.peers) - 1

    def send(self, peer: int, data: bytes) -> None:
        self.peers[peer].sendall(data)

    def frame(self, peer: int) -> bytes:
        (size,) = struct.unpack(">i", self._files[peer].read(4))
        return self._files[peer].read(size)

    def hang_up(self, peer: int) -> None:
        self.peers[peer].shutdown(socket.SHUT_RDWR)

    def publish(self, body: bytes, delay_ms: int) -> None:
        self.nsqd.http("POST", "/pub", body=body, topic=TOPIC, defer=str(delay_ms))

    def restart(self) -> None:
        self.nsqd.stop()
        self.nsqd.start()

    def left(self) -> int:
        state = self.nsqd.channel(TOPIC, CHANNEL)
        return state.depth + state.in_flight + state.deferred


class Talk:
    """What is said with an nsqd, in words that name no message id."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.lines: list[str] = []
        self._ids = {"nobody": NOBODY}

    def subscribe(self, ready: int = 5, *, msg_timeout_ms: int = 60_000, heartbeat_ms: int = 30_000) -> int:
        peer = self.stage.connect()
        asked = {"msg_timeout": msg_timeout_ms, "heartbeat_interval": heartbeat_ms, "feature_negotiation": True}
        body = json.dumps(asked | {"output_buffer_size": -1}).encode()
        self.stage.send(peer, b"  V2IDENTIFY\n" + struct.pack(">i", len(body)) + body)
        said = json.loads(self.stage.frame(peer)[4:])
        self.lines.append(f"max_rdy_count {said['max_rdy_count']}, msg_timeout {said['msg_timeout']}")
        self.stage.send(peer, f"SUB {TOPIC} {CHANNEL}\n".encode())
        self.read(peer)
        self.stage.send(peer, f"RDY {ready}\n".encode())
        return peer

    def publish(self, *bodies: str, delay_ms: int = 0) -> None:
        for body in bodies:
            self.stage.publish(body.encode(), delay_ms)

    def command(self, peer: int, name: str, body: str, *arguments: int) -> None:
        words = [name.encode(), self._ids[body], *(str(each).encode() for each in arguments)]
        self.stage.send(peer, b" ".join(words) + b"\n")

    def read(self, peer: int, count: int = 1) -> list[str]:
        """Read frames; which of several messages comes first is nobody's promise."""
        found = sorted(self._words(self.stage.frame(peer)) for _ in range(count))
        self.lines += found
        return [line.split()[1] for line in found]

    def end(self, *peers: int) -> None:
        """Note that nothing more has come: the answer to a wrong command is the next frame; and what is left."""
        for peer in peers:
            self.command(peer, "FIN", "nobody")
            self.read(peer)
        self.lines.append(f"{self.stage.left()} left")

    def left(self, count: int) -> None:
        """Wait until nsqd has noted what it was told without an answer."""
        until(lambda: self.stage.left() == count, what=f"{count} messages left")

    def _words(self, frame: bytes) -> str:
        (kind,) = struct.unpack_from(">i", frame)
        if kind != MESSAGE:
            text = frame[4:].decode()
            for body, message_id in self._ids.items():
                text = text.replace(message_id.decode(), f"<{body}>")
            return f"{'error' if kind == ERROR else 'response'} {text}"
        (attempts,), message_id, body = struct.unpack_from(">H", frame, 12), frame[14:30], frame[30:].decode()
        self._ids[body] = message_id
        return f"message {body} attempts {attempts}"


def holding(talk: Talk) -> int:
    """Return a subscriber that was handed the message `a`."""
    peer = talk.subscribe()
    talk.publish("a")
    talk.read(peer)
    return peer


def finish(talk: Talk) -> None:
    me = holding(talk)
    talk.command(me, "FIN", "a")
    talk.command(me, "FIN", "a")
    talk.read(me)
    talk.end(me)


def requeue(talk: Talk) -> None:
    me = holding(talk)
    for delay_ms in (0, 300, 0):
        talk.command(me, "REQ", "a", delay_ms)
        talk.read(me)
    talk.command(me, "FIN", "a")
    talk.command(me, "REQ", "a", 0)
    talk.read(me)
    talk.end(me)


def touch(talk: Talk) -> None:
    me = holding(talk)
    talk.command(me, "TOUCH", "a")
    talk.command(me, "FIN", "a")
    talk.command(me, "TOUCH", "a")
    talk.read(me)
    talk.end(me)


def no_more_than_ready(talk: Talk) -> None:
    me = talk.subscribe(ready=2)
    talk.publish("a", "b", "c")
    bodies = talk.read(me, 2)
    talk.stage.send(me, b"RDY 0\n")
    talk.command(me, "FIN", bodies[0])
    talk.end(me)
    talk.stage.send(me, b"RDY 2\n")
    talk.read(me)
    talk.end(me)


def time_out(talk: Talk) -> None:
    me = talk.subscribe(msg_timeout_ms=1000)
    talk.publish("a")
    for _ in range(3):
        talk.read(me)
    talk.command(me, "FIN", "a")
    talk.end(me)


def time_out_for_another(talk: Talk) -> None:
    slow = talk.subscribe(msg_timeout_ms=1000)
    talk.publish("a")
    talk.read(slow)
    talk.stage.send(slow, b"RDY 0\n")
    other = talk.subscribe()
    talk.read(other)
    talk.command(slow, "FIN", "a")
    talk.read(slow)
    talk.end(slow)
    talk.command(other, "FIN", "a")
    talk.end(other)


def hang_up(talk: Talk) -> None:
    gone = talk.subscribe(msg_timeout_ms=1000)
    talk.publish("a", "b")
    talk.read(gone, 2)
    talk.stage.hang_up(gone)
    other = talk.subscribe()
    talk.read(other, 2)
    talk.end(other)


def delay(talk: Talk) -> None:
    me = talk.subscribe()
    talk.publish("late", delay_ms=300)
    talk.publish("soon")
    talk.read(me)
    talk.end(me)
    talk.read(me)
    talk.end(me)


def wait_for_somebody(talk: Talk) -> None:
    talk.publish("a", "b")
    talk.left(2)
    me = talk.subscribe()
    talk.read(me, 2)
    talk.end(me)


def restart(talk: Talk) -> None:
    me = talk.subscribe(ready=2)
    talk.publish("a", "b", "c")
    bodies = talk.read(me, 2)
    talk.command(me, "FIN", bodies[0])
    talk.read(me)
    talk.stage.restart()
    again = talk.subscribe()
    talk.read(again, 2)
    talk.end(again)


def heartbeat(talk: Talk) -> None:
    me = talk.subscribe(heartbeat_ms=1000)
    for _ in range(2):
        talk.read(me)
        talk.stage.send(me, b"NOP\n")
    talk.end(me)


SCENES = (
    finish,
    requeue,
    touch,
    no_more_than_ready,
    time_out,
    time_out_for_another,
    hang_up,
    delay,
    wait_for_somebody,
    restart,
    heartbeat,
)


@pytest.fixture
def ends() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_the_model_says_what_the_real_one_says(scene: Callable[[Talk], None], tmp_path: Path, ends: ExitStack) -> None:
    model, real = Talk(Model()), Talk(Real(tmp_path, ends))
    scene(model)
    scene(real)
    assert model.lines == real.lines
