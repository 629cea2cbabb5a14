# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers Prometheus by HTTP: `GET /metrics`, one request at a time, each with a size and a deadline.

Python's own HTTP server has a limit for each read, and none for the whole of a request: whoever sends a byte now and
then keeps a thread of it for ever. This reads a head, answers and closes (RFC 9112).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress

from kemi_nsq.errors import ConnectionLost, NsqError
from kemi_nsq.names import Address
from kemi_nsq.runtime.console import receive, send
from kemi_nsq.runtime.listening import next_client

PATH = "/metrics"
#: Seconds in which a request must have come, and in which its answer must have been read.
PATIENCE_S = 2.0
_LARGEST_HEAD = 16 * 1024
_BACKLOG = 8
_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Scraped:
    """A listening socket that serves one page.

    Args:
        address: where to listen.
        text: makes the page, each time.

    Raises:
        ConnectionLost: nobody can listen there now.
    """

    def __init__(self, address: Address, text: Callable[[], bytes]) -> None:
        self._text = text
        try:
            family, kind, protocol, _, where = socket.getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            self._socket = socket.socket(family, kind, protocol)
        except OSError as error:
            raise ConnectionLost(f"{address}: {error.strerror}") from error
        try:
            # Or a new Kamailio would have to wait until connections of the last one are forgotten (TIME_WAIT).
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(where)
            self._socket.listen(_BACKLOG)
        except OSError as error:
            self._socket.close()
            raise ConnectionLost(f"{address}: {error.strerror}") from error

    def serve(self, wait_s: float) -> None:
        """Answer the next request, if one comes within `wait_s` seconds. What a client does wrong is its own loss."""
        asking = next_client(self._socket, wait_s)
        if asking is None:
            return
        with asking, suppress(OSError, NsqError):
            head = receive(asking, _LARGEST_HEAD, time.monotonic() + PATIENCE_S, end=b"\r\n\r\n")
            send(asking, self._answer(head), time.monotonic() + PATIENCE_S)

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", b"only GET is allowed\n", "text/plain", allow=True)
        if path != PATH.encode():
            return _response("404 Not Found", f"see {PATH}\n".encode(), "text/plain")
        whole = _response("200 OK", self._text(), _TYPE)
        return whole if method == b"GET" else whole.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


def _response(status: str, body: bytes, kind: str, *, allow: bool = False) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += ["Allow: GET, HEAD"] * allow
    return "\r\n".join([*lines, "", ""]).encode() + body
