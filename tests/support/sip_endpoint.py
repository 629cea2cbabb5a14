# SPDX-License-Identifier: GPL-2.0-or-later
"""SIP over UDP: one socket, its thread, and the non-INVITE transactions of RFC 3261 section 17."""

from __future__ import annotations

import secrets
import socket
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.support.ports import LOOPBACK
from tests.support.sip_message import Request, Response, SipError, parse

#: RFC 3261 section 17.1.1.1 and table 4: Timer E starts at T1 and doubles up to T2, Timer F ends it after 64 T1.
T1_S = 0.5
T2_S = 4.0
TIMER_F_S = 64 * T1_S

#: Answers kept for retransmitted requests; at a thousand a second that is more than a client's longest gap, T2.
ANSWERS_KEPT = 10_000

#: Room for the NOTIFYs of a thousand subscriptions at once.
RECEIVE_BUFFER = 4 << 20

Target = tuple[str, int]
OnFinal = Callable[[Response | None], None]


@dataclass(slots=True, kw_only=True)
class _ClientTransaction:
    datagram: bytes
    target: Target
    method: str
    interval_s: float
    due: float
    deadline: float
    on_final: OnFinal


class SipEndpoint:
    """A SIP user agent's socket: sends requests until they are answered, and answers requests once.

    Attributes:
        address: host and port of the socket, on loopback.
    """

    def __init__(self, on_request: Callable[[Request], Response], on_error: Callable[[str], None]) -> None:
        """Open the socket and start its thread, in which both functions are called.

        Args:
            on_request: returns the answer to a request; called once for each transaction.
            on_error: gets in words what a peer did against the rules of SIP, and faults of the handlers.
        """
        self._on_request = on_request
        self._on_error = on_error
        self._answers: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._transactions: dict[str, _ClientTransaction] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self._socket.bind((LOOPBACK, 0))
        self.address: Target = self._socket.getsockname()
        self._thread = threading.Thread(target=self._run, name=f"sip-{self.address[1]}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the thread and close the socket. Requests without an answer stay without one."""
        self._closing.set()
        self._socket.sendto(b"", self.address)  # wakes the thread
        self._thread.join()
        self._socket.close()

    def send(self, request: Request, target: Target, on_final: OnFinal) -> None:
        """Send a request, again and again until a final response comes.

        Args:
            request: without Via; this adds one with a fresh branch.
            target: where to send it.
            on_final: gets the final response, or None after Timer F (32 s); called in the thread.
        """
        branch = f"z9hG4bK{secrets.token_hex(8)}"
        via = f"SIP/2.0/UDP {LOOPBACK}:{self.address[1]};branch={branch};rport"
        request = Request(
            method=request.method,
            uri=request.uri,
            headers=(("via", via), ("max-forwards", "70"), *request.headers),
            body=request.body,
        )
        now = time.monotonic()
        transaction = _ClientTransaction(
            datagram=request.encode(),
            target=target,
            method=request.method,
            interval_s=T1_S,
            due=now + T1_S,
            deadline=now + TIMER_F_S,
            on_final=on_final,
        )
        with self._lock:
            self._transactions[branch] = transaction
        self._socket.sendto(transaction.datagram, target)

    def repeat(self) -> None:
        """Send each request that has no final response once more, now."""
        with self._lock:
            for each in self._transactions.values():
                self._socket.sendto(each.datagram, each.target)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._step()
            except Exception:
                # The thread must live on: other messages come through it. The error fails the test.
                self._on_error(traceback.format_exc())

    def _step(self) -> None:
        """Do what is due, then wait for one datagram and handle it."""
        # A transaction that begins while this waits is due T1 from now at the earliest: no need to be woken for it.
        self._socket.settimeout(self._send_due(time.monotonic()))
        try:
            datagram, source = self._socket.recvfrom(65535)
        except TimeoutError:
            return
        if not datagram.strip():
            return  # CRLF alone is a keep-alive (RFC 5626 section 3.5.1)
        try:
            self._receive(datagram, source)
        except SipError as error:
            self._on_error(f"{error}, in {datagram[:600]!r}")

    def _send_due(self, now: float) -> float:
        """Send what is due again, end what has had its time, and return the seconds until the next one, at most T1."""
        wait_s = T1_S
        with self._lock:
            expired = [branch for branch, each in self._transactions.items() if each.deadline <= now]
            ended = [self._transactions.pop(branch) for branch in expired]
            for each in self._transactions.values():
                if each.due <= now:
                    self._socket.sendto(each.datagram, each.target)
                    each.interval_s = min(2 * each.interval_s, T2_S)
                    each.due = now + each.interval_s
                wait_s = min(wait_s, each.due - now)
        for each in ended:
            each.on_final(None)
        return wait_s

    def _receive(self, datagram: bytes, source: Target) -> None:
        message = parse(datagram)
        if isinstance(message, Response):
            self._receive_response(message)
        else:
            self._receive_request(message, source)

    def _receive_response(self, response: Response) -> None:
        with self._lock:
            transaction = self._transactions.get(response.branch)
            # RFC 3261 section 17.1.3: branch and method of CSeq match. Others are late or second answers.
            if transaction is None or transaction.method != response.cseq[1]:
                return
            if response.status < 200:
                transaction.interval_s = T2_S  # section 17.1.2.2, state "Proceeding"
                return
            del self._transactions[response.branch]
        transaction.on_final(response)

    def _receive_request(self, request: Request, source: Target) -> None:
        key = (request.branch, request.method)
        if key not in self._answers:
            self._answers[key] = self._answer(request).encode()
            if len(self._answers) > ANSWERS_KEPT:
                self._answers.popitem(last=False)
        # Loopback has no NAT: the source is what `sent-by` or `rport` would name (RFC 3581 section 4).
        self._socket.sendto(self._answers[key], source)

    def _answer(self, request: Request) -> Response:
        try:
            return self._on_request(request)
        except SipError as error:
            self._on_error(f"{error}, in {request.encode()[:600]!r}")
            return request.response(400, "Bad Request")


def exchange(target: Target, request: Request, *, timeout_s: float = 2.0) -> Response:
    """Send one request to a SIP server and return its final response.

    Raises:
        AssertionError: no answer came in time.
    """
    answered = threading.Event()
    answers: list[Response | None] = []

    def on_final(response: Response | None) -> None:
        answers.append(response)
        answered.set()

    errors: list[str] = []
    with SipEndpoint(lambda request: request.response(501, "Not Implemented"), errors.append) as endpoint:
        endpoint.send(request, target, on_final)
        answered.wait(timeout_s)
    answer = answers[0] if answers else None
    assert answer is not None, f"no answer to {request.method} from {request.uri} within {timeout_s:g} s {errors}"
    return answer


def send_options(target: Target, *, timeout_s: float = 2.0) -> Response:
    """Send an OPTIONS to a SIP server and return its final response: whatever it is, the server is alive.

    Raises:
        AssertionError: no answer came in time.
    """
    host, port = target
    uri = f"sip:{host}:{port}"
    headers = (
        ("from", f"<sip:probe@{LOOPBACK}>;tag={secrets.token_hex(4)}"),
        ("to", f"<{uri}>"),
        ("call-id", secrets.token_hex(12)),
        ("cseq", "1 OPTIONS"),
    )
    return exchange(target, Request(method="OPTIONS", uri=uri, headers=headers), timeout_s=timeout_s)
