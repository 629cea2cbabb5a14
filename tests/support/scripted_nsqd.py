# SPDX-License-Identifier: GPL-2.0-or-later
"""An nsqd that plays a script, for what a real one never does.

Each connection plays the next script; further ones play the last. A script is a list of steps::

    ScriptedNsqd([Expect(b"IDENTIFY"), Send(b"garbage")], GOOD)

The first connection gets garbage for an answer, the second one is served as it should be.
"""

from __future__ import annotations

import itertools
import select
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeAlias

from tests.support import frames
from tests.support.ports import LOOPBACK

STEP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Expect:
    """Wait until the client has sent these bytes, after what was expected before."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Send:
    """Write these bytes, in pieces of `piece` bytes if it is given."""

    data: bytes
    piece: int = 0


@dataclass(frozen=True, slots=True)
class Cut:
    """Close the connection."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Break the connection off, so that the client gets an error instead of an end (SO_LINGER 0 sends RST)."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Keep the connection open and say nothing until the client closes it, or the test is over."""


Step: TypeAlias = Expect | Send | Cut | Reset | Hold

#: The handshake as nsqd does it, up to and including RDY.
HANDSHAKE: tuple[Step, ...] = (
    Expect(b"  V2IDENTIFY\n"),
    Send(frames.identified()),
    Expect(b"SUB "),
    Send(frames.ok()),
    Expect(b"RDY "),
)


class ScriptedNsqd:
    """Listens on a free port of loopback and plays scripts, each connection in a thread of its own.

    Attributes:
        port: where it listens.
        problems: what was expected and did not come in time; leaving the context fails if there are any. A client
            that closes the connection ends its script, which is no problem here: assert what you need of `received`.
    """

    def __init__(self, *scripts: Sequence[Step]) -> None:
        self._scripts = scripts
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self.problems: list[str] = []
        self._received: list[bytearray] = []
        self._over = threading.Event()
        self._players: list[threading.Thread] = []
        self._door = threading.Thread(target=self._accept, name="scripted nsqd")

    def __enter__(self) -> Self:
        self._door.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in (self._door, *self._players):
            thread.join(STEP_TIMEOUT_S)
            assert not thread.is_alive()
        self._listener.close()
        if kind is None:
            assert self.problems == []

    @property
    def address(self) -> str:
        """`host:port`, as in NSQ_NSQD_TCP_ADDRESS."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def connections(self) -> int:
        """How many connections have come so far."""
        return len(self._received)

    def received(self, connection: int) -> bytes:
        """Return what a connection, numbered from 0, has sent so far."""
        return bytes(self._received[connection])

    def _accept(self) -> None:
        for number in itertools.count():
            while not select.select([self._listener], [], [], 0.02)[0]:
                if self._over.is_set():
                    return
            accepted, _ = self._listener.accept()
            self._received.append(bytearray())
            script = self._scripts[min(number, len(self._scripts) - 1)]
            player = threading.Thread(target=self._play, args=(accepted, number, script), name=f"script {number}")
            self._players.append(player)
            player.start()

    def _play(self, accepted: socket.socket, number: int, script: Sequence[Step]) -> None:
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        expected_to = 0
        with accepted:
            try:
                for step in script:
                    match step:
                        case Expect(data=data):
                            expected_to = self._wait_for(accepted, number, data, expected_to)
                        case Send(data=data, piece=piece):
                            for start in range(0, len(data), piece or len(data)):
                                accepted.sendall(data[start : start + (piece or len(data))])
                        case Hold():
                            self._hold(accepted, number)
                        case Reset():
                            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                            return
                        case Cut():
                            return
            except TimeoutError as error:
                self.problems.append(f"connection {number}: {error}")
            except ConnectionError:
                return

    def _wait_for(self, accepted: socket.socket, number: int, data: bytes, start: int) -> int:
        """Return where the expected bytes end in what was received."""
        deadline = time.monotonic() + STEP_TIMEOUT_S
        received = self._received[number]
        while (found := received.find(data, start)) < 0:
            if self._over.is_set() or not self._read(accepted, number):
                raise ConnectionAbortedError
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{data!r} did not come; {bytes(received[start:])!r} did")
        return found + len(data)

    def _hold(self, accepted: socket.socket, number: int) -> None:
        while not self._over.is_set() and self._read(accepted, number):
            pass

    def _read(self, accepted: socket.socket, number: int) -> bool:
        """Take what has come, waiting a moment for it; return whether the client is still there."""
        if not select.select([accepted], [], [], 0.02)[0]:
            return True
        try:
            data = accepted.recv(65536)
        except ConnectionResetError:
            return False
        self._received[number] += data
        return bool(data)
