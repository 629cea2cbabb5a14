# SPDX-License-Identifier: GPL-2.0-or-later
"""The watcher against a server that plays a script: what a real Kamailio does rarely, or never should."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.ports import LOOPBACK
from tests.support.sip_message import Request, parse
from tests.support.subscription import SubscribeRefused, Subscription
from tests.support.watcher import Watcher

SUMMARY = b"Messages-Waiting: yes\r\nVoice-Message: 1/0 (0/0)\r\n"
MANDATORY = {"event": "message-summary", "subscription-state": "active;expires=60"}


class ScriptedServer:
    """A SIP server that sends what the test says, and nothing else."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(5)
        self._socket.bind((LOOPBACK, 0))
        self.target: tuple[str, int] = self._socket.getsockname()
        self.contact = f"<sip:{LOOPBACK}:{self.target[1]}>"
        self._peer = ("", 0)

    def close(self) -> None:
        self._socket.close()

    def receive(self) -> bytes:
        """Return the next datagram of the watcher."""
        datagram, self._peer = self._socket.recvfrom(65535)
        return datagram

    def request(self) -> Request:
        """Return the next message of the watcher, a request."""
        message = parse(self.receive())
        assert isinstance(message, Request)
        return message

    def send(self, datagram: bytes) -> None:
        self._socket.sendto(datagram, self._peer)

    def status(self) -> int:
        """Return the status code of the next message of the watcher, a response."""
        return int(self.receive().split(b" ", 2)[1])

    def accept(self, subscribe: Request, **headers: str) -> None:
        """Answer a SUBSCRIBE with 200 and the To-tag `server`."""
        self.send(with_headers(subscribe, 200, {"contact": self.contact, "expires": "60"} | headers))

    def notify(self, subscribe: Request, number: int, *, branch: str = "", **changed: str | None) -> bytes:
        """Return a NOTIFY of the dialog with this CSeq number; a header can be changed, or left out with None."""
        headers = {
            "via": f"SIP/2.0/UDP {LOOPBACK}:{self.target[1]};branch=z9hG4bK{branch or number}",
            "max-forwards": "70",
            "from": f"{subscribe.get('to')};tag=server",
            "to": subscribe.get("from"),
            "call-id": subscribe.get("call-id"),
            "cseq": f"{number} NOTIFY",
            "contact": self.contact,
            "content-type": "application/simple-message-summary",
            **MANDATORY,
        } | {name.replace("_", "-"): value for name, value in changed.items()}
        present = tuple((name, value) for name, value in headers.items() if value is not None)
        uri = str(subscribe.get("contact")).strip("<>")
        return Request(method="NOTIFY", uri=uri, headers=present, body=SUMMARY).encode()


def with_headers(request: Request, status: int, extra: dict[str, str]) -> bytes:
    """Return an answer with more headers, and with the To-tag `server`."""
    head, _, tail = request.response(status, "Scripted").encode().partition(b"Content-Length")
    added = "".join(f"{name}: {value}\r\n" for name, value in extra.items())
    to = str(request.get("to"))
    if "tag=" not in to:
        head = head.replace(f"To: {to}\r\n".encode(), f"To: {to};tag=server\r\n".encode())
    return head + added.encode() + b"Content-Length" + tail


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def subscribe(watcher: Watcher, server: ScriptedServer, pool: ThreadPoolExecutor) -> tuple[Subscription, Request]:
    """Subscribe to a mailbox; the server accepts."""
    future = pool.submit(watcher.subscribe, "sip:alice@example.com", "message-summary")
    request = server.request()
    server.accept(request)
    return future.result(5), request


def test_a_subscribe_without_answer_is_sent_again(server: ScriptedServer, pool: ThreadPoolExecutor) -> None:
    with Watcher(server.target) as watcher:
        future = pool.submit(watcher.subscribe, "sip:alice@example.com", "message-summary")
        first = server.receive()
        again = server.receive()
        assert first == again
        request = parse(again)
        assert isinstance(request, Request)
        assert request.get("accept") == "application/simple-message-summary"
        server.accept(request)
        assert future.result(5).dialog.remote_tag == "server"


def test_a_demand_for_a_password_is_a_clear_error(server: ScriptedServer, pool: ThreadPoolExecutor) -> None:
    with Watcher(server.target) as watcher:
        future = pool.submit(watcher.subscribe, "sip:alice@example.com", "message-summary")
        server.send(with_headers(server.request(), 401, {}))
        with pytest.raises(SubscribeRefused, match="401 Scripted; the watcher has no password"):
            future.result(5)


def test_a_notify_sent_twice_is_recorded_once_and_answered_twice(
    server: ScriptedServer, pool: ThreadPoolExecutor
) -> None:
    with Watcher(server.target) as watcher:
        mailbox, request = subscribe(watcher, server, pool)
        notify = server.notify(request, 1)
        server.send(notify)
        first = server.receive()
        server.send(notify)
        assert server.receive() == first
        assert first.startswith(b"SIP/2.0 200 OK\r\n")
        assert len(mailbox.notifies) == 1


def test_the_answer_repeats_via_and_record_route(server: ScriptedServer, pool: ThreadPoolExecutor) -> None:
    via = f"SIP/2.0/UDP {LOOPBACK}:{server.target[1]};branch=z9hG4bKa, SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKb"
    with Watcher(server.target) as watcher:
        _, request = subscribe(watcher, server, pool)
        server.send(server.notify(request, 1, via=via, record_route="<sip:192.0.2.1;lr>"))
        answer = parse(server.receive())
        assert answer.get("via") == via
        assert answer.get("record-route") == "<sip:192.0.2.1;lr>"
        assert (answer.tag("from"), answer.call_id, answer.cseq) == ("server", request.call_id, (1, "NOTIFY"))


def test_a_notify_before_the_2xx_creates_the_dialog(server: ScriptedServer, pool: ThreadPoolExecutor) -> None:
    route = f"<sip:{LOOPBACK}:{server.target[1]};lr>"
    with Watcher(server.target) as watcher:
        future = pool.submit(watcher.subscribe, "sip:alice@example.com", "message-summary")
        request = server.request()
        server.send(server.notify(request, 1, record_route=route, contact="<sip:notifier@192.0.2.9>"))
        assert server.status() == 200
        server.accept(request, contact="<sip:notifier@192.0.2.9>")
        mailbox = future.result(5)
        assert mailbox.notifies[0].message_summary.waiting
        refresh = pool.submit(mailbox.refresh)
        within = server.request()  # 192.0.2.9 has no host: it came by the route
        assert (within.uri, within.get("route")) == ("sip:notifier@192.0.2.9", route)
        assert (within.tag("to"), within.cseq) == ("server", (2, "SUBSCRIBE"))
        server.accept(within)
        refresh.result(5)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"subscription_state": None}, "no Subscription-State header"),
        ({"event": None}, "no Event header"),
        ({"event": "dialog"}, "a NOTIFY of 'dialog' in a subscription to 'message-summary'"),
        ({"contact": None}, "no Contact header"),
        ({"content_type": None}, "no Content-Type header"),
        ({"content_type": "text/plain"}, "a body of 'text/plain'"),
        ({"max_forwards": None}, "no Max-Forwards header"),
        ({"cseq": "1 SUBSCRIBE"}, "CSeq names another method than NOTIFY"),
        ({"from": "<sip:alice@example.com>"}, "the peer has no tag"),
        ({"from": "<sip:alice@example.com>;tag=other"}, "the peer's tag is 'other'"),
        ({"to": "<sip:watcher@example.com>;tag=other"}, "the To-tag is 'other'"),
        ({"call_id": "unknown"}, "a NOTIFY for no subscription of this watcher, Call-ID unknown"),
        ({"via": f"SIP/2.0/UDP {LOOPBACK}"}, "the topmost Via has no branch"),
    ],
)
def test_a_notify_against_the_rules_fails_the_test(
    server: ScriptedServer, pool: ThreadPoolExecutor, changed: dict[str, str | None], error: str
) -> None:
    watcher = Watcher(server.target)
    mailbox, request = subscribe(watcher, server, pool)
    server.send(server.notify(request, 1, branch="a", **changed))
    with pytest.raises(AssertionError, match=re.escape(error)):
        mailbox.wait(lambda notify: True, what="a NOTIFY")
    assert not mailbox.notifies
    with pytest.raises(AssertionError, match=re.escape(error)), watcher:
        pass  # leaving the context fails a test that did not look


def test_a_second_notify_with_the_same_cseq_is_an_error(server: ScriptedServer, pool: ThreadPoolExecutor) -> None:
    watcher = Watcher(server.target)
    mailbox, request = subscribe(watcher, server, pool)
    server.send(server.notify(request, 1, branch="a"))
    server.send(server.notify(request, 1, branch="b"))
    assert [server.status(), server.status()] == [200, 400]
    with pytest.raises(AssertionError, match="CSeq 1 after CSeq 1 in one dialog"):
        mailbox.wait(lambda notify: False, what="nothing")
    with pytest.raises(AssertionError, match="CSeq 1 after CSeq 1"), watcher:
        pass


def test_a_wait_that_fails_shows_what_came(server: ScriptedServer, pool: ThreadPoolExecutor) -> None:
    with Watcher(server.target) as watcher:
        mailbox, request = subscribe(watcher, server, pool)
        server.send(server.notify(request, 1))
        assert server.status() == 200
        expected = r"waited 0\.05 s for a dark lamp; 1 NOTIFYs came for .*alice@example\.com:\nNOTIFY 1 .*\nMessages-W"
        with pytest.raises(AssertionError, match=expected):
            mailbox.wait(lambda notify: not notify.message_summary.waiting, what="a dark lamp", timeout_s=0.05)
        with pytest.raises(AssertionError, match="DocumentError: the body is application/simple-message-summary, not"):
            mailbox.wait(lambda notify: notify.dialog_info, what="a dialog", timeout_s=0.05)
        with pytest.raises(AssertionError, match="0 NOTIFYs came"):
            mailbox.wait(lambda notify: True, what="another one", timeout_s=0.05, after=1)
