# SPDX-License-Identifier: GPL-2.0-or-later
"""Phones that watch: subscribe, answer each NOTIFY at once, and keep what it said and when it came.

The tests' watcher checks every rule of SIP, and takes its time; this one is not to be what is measured.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.bench.figures import Spoiled
from tests.support.documents import parse_dialog_info
from tests.support.ports import LOOPBACK
from tests.support.until import until

_RECEIVE_BUFFER = 8 << 20
_ANSWER_S = 10.0
_LAST_S = 20.0
#: SUBSCRIBEs without an answer at once.
_OPEN = 16
#: What an answer repeats of its request (RFC 3261 section 8.2.6.2).
_COPIED = (b"via:", b"from:", b"to:", b"call-id:", b"cseq:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A NOTIFY: its CSeq number, its document, and the monotonic nanosecond at which it came."""

    cseq: int
    body: bytes
    at_ns: int


class Phones:
    """One subscription to the package `dialog` for each of some presentities.

    Args:
        server: host and port of Kamailio.
        uris: the presentities.
        name: tells these phones from others that watch the same; no `/`.

    Attributes:
        heard: by presentity, its NOTIFYs in the order in which they came, retransmissions left out.
    """

    def __init__(self, server: tuple[str, int], uris: Sequence[str], name: str = "phone") -> None:
        self._name = name
        self.heard: dict[str, list[Heard]] = {uri: [] for uri in uris}
        self._server = server
        self._free = threading.Semaphore(_OPEN)
        self._refused: list[bytes] = []
        self._ended = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._socket.bind((LOOPBACK, 0))
        self._here = f"{LOOPBACK}:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, name="phones", daemon=True)

    def __enter__(self) -> Self:
        """Subscribe, and wait for the answers."""
        self._thread.start()
        for number, uri in enumerate(self.heard):
            self._acquire()
            self._socket.sendto(self._subscribe(number, uri), self._server)
        for _ in range(_OPEN):
            self._acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self._socket.sendto(b"", self._socket.getsockname())  # wakes the thread
        self._thread.join()
        self._socket.close()

    def forget(self) -> None:
        """Begin anew with what is heard."""
        for notifies in self.heard.values():
            notifies.clear()

    def states(self, uri: str) -> dict[str, str]:
        """Return the state of each call, by its Call-ID, as the latest NOTIFY has them."""
        if not self.heard[uri]:
            return {}
        document = parse_dialog_info(max(self.heard[uri], key=lambda heard: heard.cseq).body)
        return {dialog.call_id: dialog.state for dialog in document.dialogs}

    def last_ns(self) -> int:
        """Return the monotonic nanosecond of the last NOTIFY."""
        return max(notifies[-1].at_ns for notifies in self.heard.values() if notifies)

    def count(self) -> int:
        """Return how many NOTIFYs came."""
        return sum(map(len, self.heard.values()))

    def wait(self, count: int, what: str) -> None:
        """Wait until so many NOTIFYs have come.

        Raises:
            Spoiled: there were more, or fewer.
        """
        with suppress(AssertionError):
            until(lambda: self.count() >= count, timeout_s=_LAST_S, what=what)
        if self.count() != count:
            raise Spoiled(f"{count} {what} expected, {self.count()} came")

    def _acquire(self) -> None:
        if not self._free.acquire(timeout=_ANSWER_S) or self._refused:
            raise Spoiled(f"a SUBSCRIBE had no answer, or was refused: {self._refused}")

    def _subscribe(self, number: int, uri: str) -> bytes:
        lines = (
            f"SUBSCRIBE {uri} SIP/2.0",
            f"Via: SIP/2.0/UDP {self._here};branch=z9hG4bK{self._name}{number}",
            f"From: <sip:{self._name}@example.com>;tag={self._name}{number}",
            f"To: <{uri}>",
            f"Call-ID: {self._name}/{uri}",
            "CSeq: 1 SUBSCRIBE",
            f"Contact: <sip:{self._name}@{self._here}>",
            "Max-Forwards: 70",
            "Event: dialog",
            "Accept: application/dialog-info+xml",
            "Expires: 3600",
            "Content-Length: 0",
        )
        return "\r\n".join((*lines, "", "")).encode()

    def _run(self) -> None:
        while not self._ended:
            datagram, source = self._socket.recvfrom(65535)
            if datagram.startswith(b"NOTIFY"):
                self._notified(datagram, source, time.monotonic_ns())
            elif datagram.startswith(b"SIP/2.0 "):
                if not datagram.startswith(b"SIP/2.0 2"):
                    self._refused.append(datagram[:40])
                self._free.release()

    def _notified(self, datagram: bytes, source: tuple[str, int], now_ns: int) -> None:
        head, _, body = datagram.partition(b"\r\n\r\n")
        copied = [line for line in head.split(b"\r\n") if line.lower().startswith(_COPIED)]
        self._socket.sendto(b"\r\n".join((b"SIP/2.0 200 OK", *copied, b"Content-Length: 0", b"", b"")), source)
        values = {line[: line.index(b":")].lower(): line.partition(b":")[2].strip() for line in copied}
        notifies = self.heard[values[b"call-id"].decode().partition("/")[2]]
        cseq = int(values[b"cseq"].split()[0])
        if all(heard.cseq != cseq for heard in notifies[-20:]):
            notifies.append(Heard(cseq=cseq, body=body, at_ns=now_ns))
