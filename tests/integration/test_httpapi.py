# SPDX-License-Identifier: GPL-2.0-or-later
"""The HTTP interfaces of real nsqd and nsqlookupd, and of what is neither."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kemi_nsq.errors import ConnectionLost, NsqdRefused, ProtocolError
from kemi_nsq.names import Address, address
from kemi_nsq.nsq import httpapi
from kemi_nsq.nsq.httpapi import Client
from tests.support.nsqd import Nsqd
from tests.support.ports import LOOPBACK, free_tcp_port
from tests.support.scripted_nsqd import Cut, Expect, Hold, ScriptedNsqd, Send, Step
from tests.support.until import until

TIMEOUT_S = 5.0


@pytest.fixture
def nsqd(tmp_path: Path) -> Iterator[Nsqd]:
    with Nsqd(tmp_path / "nsqd", max_msg_size=1000) as server:
        server.create_topic("events")
        server.create_channel("events", "kamailio")
        yield server


def http_answer(body: bytes, status: str = "200 OK") -> list[Step]:
    """Return the script of a server that answers one HTTP request."""
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return [Expect(b"\r\n\r\n"), Send(head.encode() + body), Cut()]


#: The answer of a server that takes further requests on the same connection.
OK, BUSY = (
    (Expect(b"\r\n\r\n"), Send(f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nOK".encode()))
    for status in ("200 OK", "503 Busy")
)


# Publishing


@pytest.mark.parametrize("body", [b"{}", b"\0\n\xff", b"x" * 1000])
def test_nsqd_takes_a_message(nsqd: Nsqd, body: bytes) -> None:
    httpapi.publish(address(nsqd.http_address), "events", body, timeout_s=TIMEOUT_S)
    until(lambda: nsqd.channel("events", "kamailio").depth == 1, what="the message")
    assert nsqd.topic("events")["message_bytes"] == len(body)


def test_nsqd_holds_a_message_back(nsqd: Nsqd) -> None:
    with closing(Client(address(nsqd.http_address))) as client:
        client.publish("events", b"{}", timeout_s=TIMEOUT_S, delay_ms=60_000)
    until(lambda: nsqd.channel("events", "kamailio").deferred == 1, what="the deferred message")


@pytest.mark.parametrize(
    ("topic", "body", "code"),
    [("a b", b"{}", "INVALID_TOPIC"), ("events", b"", "MSG_EMPTY"), ("events", b"x" * 1001, "MSG_TOO_BIG")],
)
def test_nsqd_refuses_a_message(nsqd: Nsqd, topic: str, body: bytes, code: str) -> None:
    with pytest.raises(NsqdRefused) as caught:
        httpapi.publish(address(nsqd.http_address), topic, body, timeout_s=TIMEOUT_S)
    assert (caught.value.code, caught.value.fatal) == (code, False)


def test_an_answer_that_is_not_nsqds() -> None:
    with (
        ScriptedNsqd(http_answer(b"<html>no</html>", "502 Bad Gateway")) as server,
        pytest.raises(NsqdRefused, match=r"^HTTP 502$"),
    ):
        httpapi.publish(address(server.address), "events", b"{}", timeout_s=TIMEOUT_S)


def test_nobody_listens() -> None:
    nobody = Address(LOOPBACK, free_tcp_port())
    with pytest.raises(
        ConnectionLost, match=rf"^{LOOPBACK}:{nobody.port}: \S.*Connection refused$|Connection refused$"
    ):
        httpapi.publish(nobody, "events", b"{}", timeout_s=TIMEOUT_S)


@pytest.mark.parametrize("name", ["nowhere.invalid", "a..b", "x" * 64 + ".example.com"])
def test_a_name_that_does_not_resolve(name: str) -> None:
    with pytest.raises(ConnectionLost) as caught:
        httpapi.publish(Address(name, 4151), "events", b"{}", timeout_s=TIMEOUT_S)
    assert str(caught.value).startswith(name)


def test_a_frozen_nsqd_costs_no_more_than_the_timeout(nsqd: Nsqd) -> None:
    nsqd.freeze()
    started = time.monotonic()
    with pytest.raises(ConnectionLost, match="timed out"):
        httpapi.publish(address(nsqd.http_address), "events", b"{}", timeout_s=0.2)
    assert time.monotonic() - started < 2.0


def test_a_proxy_of_the_environment_is_not_used(nsqd: Nsqd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://{LOOPBACK}:{free_tcp_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    httpapi.publish(address(nsqd.http_address), "events", b"{}", timeout_s=TIMEOUT_S)


# A connection that is kept


def test_one_connection_serves_all_calls() -> None:
    with (
        ScriptedNsqd([*OK, *OK, *BUSY, *OK, Hold()]) as server,
        closing(Client(address(server.address))) as client,
    ):
        assert (client.connected, server.connections) == (False, 0), "nothing is opened before the first call"
        client.publish("events", b"{}", timeout_s=TIMEOUT_S)
        client.ping(timeout_s=TIMEOUT_S)
        with pytest.raises(NsqdRefused):
            client.publish("events", b"[]", timeout_s=TIMEOUT_S)
        client.publish("events", b"{}", timeout_s=TIMEOUT_S)
        assert (client.connected, server.connections) == (True, 1)


def test_after_close_the_next_call_opens_another_connection() -> None:
    with ScriptedNsqd([*OK, Hold()]) as server, closing(Client(address(server.address))) as client:
        for number in (1, 2):
            client.ping(timeout_s=TIMEOUT_S)
            client.close()
            assert (client.connected, server.connections) == (False, number)


def test_the_connection_of_a_call_that_failed_is_not_used_again() -> None:
    """Its answer may come late, and would be taken for that of the next call."""
    with ScriptedNsqd([*OK, Hold()]) as server, closing(Client(address(server.address))) as client:
        client.ping(timeout_s=TIMEOUT_S)
        with pytest.raises(ConnectionLost, match="timed out"):
            client.ping(timeout_s=0.1)
        assert not client.connected
        client.ping(timeout_s=TIMEOUT_S)
        assert server.connections == 2


# What is no answer


def test_an_nsqd_is_no_nsqlookupd(nsqd: Nsqd) -> None:
    with pytest.raises(ProtocolError, match=rf"^{nsqd.http_address}: /nodes answered HTTP 404$"):
        httpapi.get(address(nsqd.http_address), "/nodes", timeout_s=TIMEOUT_S)


SCRIPTS: list[list[Step]] = [
    [Cut()],
    [Expect(b"GET /nodes"), Cut()],
    [Expect(b"\r\n\r\n"), Send(b"garbage\r\n\r\n"), Cut()],
    [Expect(b"\r\n\r\n"), Send(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{"), Cut()],
    [Expect(b"\r\n\r\n"), Send(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{"), Hold()],
    [Hold()],
]


@pytest.mark.parametrize("script", SCRIPTS, ids=["cut", "cut late", "garbage", "half", "half, held", "silent"])
def test_a_server_that_does_not_answer_as_http_says(script: list[Step]) -> None:
    with ScriptedNsqd(script) as server, pytest.raises(ConnectionLost) as caught:
        httpapi.get(address(server.address), "/nodes", timeout_s=0.3)
    assert str(caught.value).startswith(f"{server.address}: ")
    assert len(str(caught.value).splitlines()) == 1
