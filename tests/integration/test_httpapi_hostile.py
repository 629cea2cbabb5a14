# SPDX-License-Identifier: GPL-2.0-or-later
"""Servers that mean harm take no more time, and no more memory, than one that does not answer."""

from __future__ import annotations

import time
import tracemalloc
from contextlib import closing

import pytest

from kemi_nsq.errors import ConnectionLost, NsqdRefused, ProtocolError, TransientError
from kemi_nsq.names import address
from kemi_nsq.nsq import httpapi
from kemi_nsq.nsq.httpapi import Client
from kemi_nsq.nsq.ways import HttpWay, Outgoing
from tests.support import hostile
from tests.support.hostile import Behaviour, HostileHttp

TIMEOUT_S, SLOWNESS_S = 0.5, 1.5
MEMORY = 8 * 1024 * 1024

SLOW: dict[str, Behaviour] = {
    "head, byte by byte": hostile.drips_head,
    "body, byte by byte": hostile.drips_body,
    "100 Continue for ever": hostile.drips_continue,
    "silence": hostile.says_nothing,
    "a promise": hostile.huge_promise,
}
LARGE: dict[str, Behaviour] = {
    "a body without end": hostile.huge_body,
    "a head without end": hostile.huge_head,
    "a chunk of a negative length": hostile.negative_chunk,
    "gzip": hostile.bomb(),
}


def ask(behaviour: Behaviour) -> tuple[TransientError, float, int]:
    """Ask a server; return the error, the seconds, and the bytes of memory at most."""
    with HostileHttp(behaviour) as server:
        started = time.monotonic()
        tracemalloc.start()
        try:
            with pytest.raises(TransientError) as caught:
                httpapi.get(address(server.address), "/nodes", timeout_s=TIMEOUT_S)
            return caught.value, time.monotonic() - started, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("behaviour", SLOW.values(), ids=SLOW)
def test_a_slow_server_takes_no_more_than_the_timeout(behaviour: Behaviour) -> None:
    error, took_s, memory = ask(behaviour)
    assert isinstance(error, ConnectionLost)
    assert str(error).endswith(": timed out")
    assert took_s < TIMEOUT_S + SLOWNESS_S
    assert memory < MEMORY


@pytest.mark.parametrize("behaviour", LARGE.values(), ids=LARGE)
def test_a_large_answer_takes_no_more_memory_than_the_limit(behaviour: Behaviour) -> None:
    error, took_s, memory = ask(behaviour)
    assert isinstance(error, ProtocolError)
    assert "the answer is " in str(error)
    assert took_s < TIMEOUT_S + SLOWNESS_S
    assert memory < MEMORY


def test_a_redirect_is_not_followed() -> None:
    with HostileHttp(hostile.answer(b"secret")) as inside:
        error, _, _ = ask(hostile.redirects(f"http://{inside.address}/nodes"))
        assert inside.requests == 0
    assert str(error).endswith("/nodes answered HTTP 302")


def test_an_answer_has_status_headers_and_body_and_leaves_the_connection_open() -> None:
    with (
        HostileHttp(hostile.answer(b"x" * 100_000, Date="Sun, 29 Nov 2026 11:00:00 GMT", Set_Cookie="a=b")) as server,
        closing(Client(address(server.address))) as client,
    ):
        for _ in range(2):
            answer = client.get("/ping", timeout_s=5.0)
            assert (answer.status, len(answer.body)) == (200, 100_000)
            assert answer.headers["date"] == answer.headers["Date"] == "Sun, 29 Nov 2026 11:00:00 GMT"
            assert client.connected


@pytest.mark.parametrize("behaviour", [*SLOW.values(), *LARGE.values()], ids=[*SLOW, *LARGE])
def test_publishing_takes_no_more_than_the_timeout(behaviour: Behaviour) -> None:
    """A 200 OK in the head holds, whatever becomes of the body: nsqd has the message."""
    message = Outgoing(topic="t", body=b"{}")
    with HostileHttp(behaviour) as server:
        way = HttpWay(address(server.address))
        started = time.monotonic()
        try:
            way.publish(message, started + TIMEOUT_S)
        except (ConnectionLost, ProtocolError):
            assert behaviour in (hostile.drips_head, hostile.drips_continue, hostile.says_nothing, hostile.huge_head)
        assert time.monotonic() - started < TIMEOUT_S + SLOWNESS_S


def test_a_refusal_whose_reason_drips_is_a_refusal() -> None:
    def drips(send: object, wait: object) -> None:
        assert callable(send)
        assert callable(wait)
        send(b"HTTP/1.1 503 Busy\r\nContent-Length: 9000\r\n\r\n")
        while not wait(hostile.DRIP_S):
            send(b" ")

    with HostileHttp(drips) as server, pytest.raises(NsqdRefused, match=r"^HTTP 503$"):
        httpapi.publish(address(server.address), "t", b"{}", timeout_s=TIMEOUT_S)
