# SPDX-License-Identifier: GPL-2.0-or-later
"""A real nsqd whose clock is wrong: seen through a proxy that shifts what it says of the time.

nsqd reads its clock without asking the C library, so nothing can shift it from outside. Only what it says is shifted:
the timestamps of messages, when they pass, and the `Date` of HTTP answers. What a nsqd does whose clock was really set
back is not seen here: it keeps publishers waiting (decision 21).
"""

from __future__ import annotations

import re
import select
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack, suppress
from email.utils import formatdate, parsedate_to_datetime

from tests.support import frames
from tests.support.listening import PATIENCE_S, Listening
from tests.support.nsqd import Nsqd
from tests.support.ports import LOOPBACK

_DATE = re.compile(rb"\r\nDate: ([^\r]+)\r\n")


class ShiftedNsqd(Listening):
    """Listens for TCP and for HTTP.

    Attributes:
        behind: the nsqd; needed when somebody connects.
        shift_s: by how much its clock is ahead; a test may change it at any time.
        asked: how many connections by HTTP have come and gone.
    """

    def __init__(self, behind: Nsqd | None = None) -> None:
        super().__init__("shifted nsqd")
        self.behind = behind
        self.shift_s = self.asked = 0
        self._tcp_port = self.listen(lambda client: self._serve(client, lambda nsqd: nsqd.tcp_port, _Messages()))
        self._http_port = self.listen(lambda client: self._serve(client, lambda nsqd: nsqd.http_port, _Dates()))

    @property
    def tcp_address(self) -> str:
        """`host:port` of the NSQ protocol."""
        return f"{LOOPBACK}:{self._tcp_port}"

    @property
    def http_address(self) -> str:
        """`host:port` of the HTTP interface."""
        return f"{LOOPBACK}:{self._http_port}"

    def _serve(self, client: socket.socket, port: Callable[[Nsqd], int], shifting: _Messages | _Dates) -> None:
        assert self.behind is not None
        with ExitStack() as stack, suppress(ConnectionError):
            if isinstance(shifting, _Dates):
                stack.callback(self._count)
            stack.enter_context(client)
            server = stack.enter_context(socket.create_connection((LOOPBACK, port(self.behind))))
            while not self.over.is_set():
                for ready in select.select([client, server], [], [], PATIENCE_S)[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    if ready is client:
                        server.sendall(data)
                    else:
                        client.sendall(shifting.shifted(data, self.shift_s))

    def _count(self) -> None:
        self.asked += 1


class _Messages:
    """What nsqd writes in the NSQ protocol: frames, which may come in pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def shifted(self, data: bytes, by_s: int) -> bytes:
        """Return the frames that are complete."""
        self._rest += data
        done = b""
        while len(self._rest) >= 4 and len(self._rest) >= (end := 4 + int.from_bytes(self._rest[:4])):
            frame, self._rest = self._rest[:end], self._rest[end:]
            (kind,) = struct.unpack_from(">i", frame, 4)
            if kind == frames.MESSAGE:
                (timestamp_ns,) = struct.unpack_from(">q", frame, 8)
                frame = frame[:8] + struct.pack(">q", timestamp_ns + by_s * 10**9) + frame[16:]
            done += frame
        return done


class _Dates:
    """What nsqd writes by HTTP; it writes all headers at once."""

    def shifted(self, data: bytes, by_s: int) -> bytes:
        """Return it with another `Date`, which has as many bytes."""

        def shift(found: re.Match[bytes]) -> bytes:
            seconds = parsedate_to_datetime(found[1].decode()).timestamp() + by_s
            return b"\r\nDate: " + formatdate(seconds, usegmt=True).encode() + b"\r\n"

        return _DATE.sub(shift, data)
