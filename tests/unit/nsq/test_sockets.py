# SPDX-License-Identifier: GPL-2.0-or-later
"""Connects to a name with several addresses; getaddrinfo is the test's own."""

from __future__ import annotations

import errno
import os
import socket
import time
from typing import Any

import pytest

from kemi_nsq.errors import ConnectionLost
from kemi_nsq.names import Address
from kemi_nsq.nsq import sockets
from tests.support.ports import LOOPBACK, free_tcp_port

#: A machine whose kernel has no IPv6 says the same of that.
NO_FAMILY = 9999


def name_with(monkeypatch: pytest.MonkeyPatch, *families: int) -> None:
    def getaddrinfo(_host: str, _port: int, **options: Any) -> list[Any]:
        if options["flags"]:  # who asks whether it is an address
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(family, socket.SOCK_STREAM, 6, "", (LOOPBACK, 0)) for family in families]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_an_address_of_a_family_that_is_not_here_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    name_with(monkeypatch, NO_FAMILY, socket.AF_INET)
    with (
        socket.create_server((LOOPBACK, 0)) as listener,
        sockets.connect(Address("nsqd.example.com", listener.getsockname()[1]), 5.0) as connected,
    ):
        assert connected.getpeername() == listener.getsockname()


def test_where_there_is_no_socket_that_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    name_with(monkeypatch, NO_FAMILY)
    with pytest.raises(ConnectionLost, match=os.strerror(errno.EAFNOSUPPORT)):
        sockets.connect(Address("nsqd.example.com", 4150), 5.0)
    with pytest.raises(ConnectionLost, match=os.strerror(errno.EAFNOSUPPORT)):
        sockets.BlockingSocket(Address("nsqd.example.com", 4150), time.monotonic() + 5.0)


def test_the_last_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    name_with(monkeypatch, NO_FAMILY, socket.AF_INET)
    address = Address("nsqd.example.com", free_tcp_port())
    with pytest.raises(ConnectionLost, match=f"^{address}: Connection refused$"):
        sockets.connect(address, 5.0)
