# SPDX-License-Identifier: GPL-2.0-or-later
"""HTTP servers that mean harm, or are broken as if they did; and TCP addresses that never answer."""

from __future__ import annotations

import gzip
import json
import re
import select
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import TypeAlias

from tests.support.listening import PATIENCE_S, Listening
from tests.support.ports import LOOPBACK

#: Seconds between two bytes of a server that drips: far below any timeout of a single read.
DRIP_S = 0.02
#: What one part of a bomb becomes: 16 KiB that are 16 MiB.
_BOMB_PART = gzip.compress(bytes(16 * 1024 * 1024))
_PIECE = b" " * 65536

#: Answers a request: takes what sends bytes, and what waits between two of them until the test is over.
Behaviour: TypeAlias = Callable[[Callable[[bytes], object], Callable[[float], bool]], object]


def answer(body: bytes, status: str = "200 OK", **headers: str) -> Behaviour:
    """Return one that answers in a piece; `_` in the name of a header stands for `-`."""
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{''.join(lines)}\r\n"
    return lambda send, _wait: send(head.encode() + body)


def nodes(addresses: Iterable[tuple[object, object]]) -> bytes:
    """Return what `/nodes` answers; the HTTP port is that of TCP, too."""
    entries = [{"broadcast_address": host, "tcp_port": port, "http_port": port} for host, port in addresses]
    return json.dumps({"producers": entries}).encode()


def drips_head(send: Callable[[bytes], object], wait: Callable[[float], bool]) -> None:
    """Begin an answer, and go on with one header for ever, byte by byte."""
    send(b"HTTP/1.1 200 OK\r\nX-Drip: ")
    while not wait(DRIP_S):
        send(b"x")


def drips_body(send: Callable[[bytes], object], wait: Callable[[float], bool]) -> None:
    """Promise a body of two million bytes, and send one at a time."""
    send(b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n")
    while not wait(DRIP_S):
        send(b" ")


def drips_continue(send: Callable[[bytes], object], wait: Callable[[float], bool]) -> None:
    """Say `100 Continue` for ever, which is not yet the answer."""
    while not wait(DRIP_S):
        send(b"HTTP/1.1 100 Continue\r\n\r\n")


def says_nothing(_send: Callable[[bytes], object], wait: Callable[[float], bool]) -> None:
    """Take the request and do not answer."""
    wait(3600)


def huge_body(send: Callable[[bytes], object], _wait: Callable[[float], bool]) -> None:
    """Send a body that has no end, as fast as it is read."""
    send(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        send(_PIECE)


def huge_head(send: Callable[[bytes], object], _wait: Callable[[float], bool]) -> None:
    """Send informational answers that have no end, as fast as they are read."""
    while True:
        send(b"HTTP/1.1 100 Continue\r\nX: " + b"x" * 60_000 + b"\r\n\r\n")


def huge_promise(send: Callable[[bytes], object], wait: Callable[[float], bool]) -> None:
    """Promise more than any memory has, and send little."""
    send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000000\r\n\r\n{")
    wait(3600)


def negative_chunk(send: Callable[[bytes], object], _wait: Callable[[float], bool]) -> None:
    """Send a chunk of a negative length, which `http.client` takes for all that comes; and that has no end."""
    send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n")
    while True:
        send(_PIECE)


def bomb(parts: int = 80) -> Behaviour:
    """Return one that answers with little gzip that becomes very much: 80 parts are 1.3 MB that are 1.3 GB."""
    return answer(_BOMB_PART * parts, Content_Encoding="gzip")


def redirects(to: str) -> Behaviour:
    """Return one that sends everybody to another URL."""
    return answer(b"", "302 Found", Location=to)


class HostileHttp(Listening):
    """Treats every request alike.

    Attributes:
        port: where it listens.
        requests: how many have come.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__("hostile server")
        self._behaviour = behaviour
        self.port = self.listen(self._serve)
        self.requests = 0

    @property
    def address(self) -> str:
        """`host:port`, as in NSQ_LOOKUPD_ADDRESS."""
        return f"{LOOPBACK}:{self.port}"

    def _serve(self, accepted: socket.socket) -> None:
        def send(data: bytes) -> None:
            rest = memoryview(data)
            while rest:
                if self.over.is_set():
                    raise ConnectionAbortedError
                if select.select([], [accepted], [], PATIENCE_S)[1]:
                    rest = rest[accepted.send(rest, socket.MSG_DONTWAIT) :]

        with accepted, suppress(ConnectionError):
            while self._request(accepted):
                self.requests += 1
                self._behaviour(send, self.over.wait)

    def _request(self, accepted: socket.socket) -> bool:
        """Wait for a request; return whether one came."""
        got = b""
        while not _whole(got):
            if self.over.is_set():
                return False
            if select.select([accepted], [], [], PATIENCE_S)[0]:
                data = accepted.recv(65536)
                if not data:
                    return False
                got += data
        return True


def _whole(request: bytes) -> bool:
    head, end, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *(\d+)", head)
    return bool(end) and len(body) >= int(length[1] if length else 0)


@contextmanager
def black_hole() -> Iterator[int]:
    """Yield a port at which no address of loopback, of all 127.0.0.0/8, ever answers.

    Its listener takes nobody, and its queue is full: then Linux drops what asks for a connection (tcp(7),
    tcp_abort_on_overflow).
    """
    with socket.create_server(("", 0), backlog=0) as listener:
        port: int = listener.getsockname()[1]
        with closing(socket.socket()) as first, closing(socket.socket()) as second:
            for filling in (first, second):
                filling.setblocking(False)
                filling.connect_ex((LOOPBACK, port))
            yield port
