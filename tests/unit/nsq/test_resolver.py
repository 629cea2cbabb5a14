# SPDX-License-Identifier: GPL-2.0-or-later
"""Name look-ups that hang, fail, come late, or are too many; getaddrinfo is the test's own."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kemi_nsq.errors import ConnectionLost
from kemi_nsq.names import Address
from kemi_nsq.nsq import resolver as module
from kemi_nsq.nsq.resolver import MOST_LOOKUPS, MOST_PLACES, Place, Resolver
from tests.support.forks import Fork
from tests.support.until import until

SOON_S, LONG_S = 0.05, 10.0
NSQD = Address("nsqd.example.com", 4150)


class Names:
    """A name service that answers when it is let.

    Attributes:
        asked: the names, in order.
        answer: what it answers.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.let = threading.Event()
        self.answer: list[Any] | Exception = [(socket.AF_INET, 1, 6, "", ("192.0.2.1", 0))]
        self._real = socket.getaddrinfo

    def getaddrinfo(self, host: str, port: int, **options: Any) -> list[Any]:
        if options["flags"]:
            return list(self._real(host, port, **options))
        self.asked.append(host)
        assert self.let.wait(LONG_S)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    service = Names()
    monkeypatch.setattr(socket, "getaddrinfo", service.getaddrinfo)
    yield service
    service.let.set()
    until(lambda: not lookups(), what="the end of all look-ups")


def lookups() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "name look-up"]


def places(resolver: Resolver, address: Address = NSQD, within_s: float = LONG_S) -> list[Place]:
    return resolver.places(address, time.monotonic() + within_s)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_address_is_not_looked_up(names: Names, host: str) -> None:
    (place,) = places(Resolver(), Address(host, 4150), 0.0)
    assert place.sockaddr[:2] == (host, 4150)
    assert (names.asked, lookups()) == ([], [])


def test_a_name_has_places_with_the_port_asked_for(names: Names) -> None:
    names.let.set()
    assert places(Resolver()) == [Place(socket.AF_INET, ("192.0.2.1", 4150))]


def test_of_many_places_some_are_taken(names: Names) -> None:
    names.let.set()
    names.answer = [(socket.AF_INET, 1, 6, "", (f"192.0.2.{number}", 0)) for number in range(100)]
    assert len(places(Resolver())) == MOST_PLACES


def test_a_name_that_hangs_ends_at_the_deadline_and_has_one_thread(names: Names) -> None:
    resolver = Resolver()
    for _ in range(3):
        with pytest.raises(ConnectionLost, match=r"^the name does not resolve in time$"):
            places(resolver, within_s=SOON_S)
    assert (names.asked, len(lookups())) == ([NSQD.host], 1)


def test_who_asks_for_the_same_name_joins(names: Names) -> None:
    resolver = Resolver()
    first, second = resolver.look_up(NSQD), resolver.look_up(NSQD._replace(port=1))
    assert first is second
    told = threading.Event()
    first.tell(told.set)
    assert not told.is_set()
    names.let.set()
    assert told.wait(LONG_S)
    assert places(resolver)[0].sockaddr == ("192.0.2.1", 4150)


def test_an_answer_that_took_long_is_kept_for_a_while(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOW_S", 0.0)
    resolver = Resolver()
    with pytest.raises(ConnectionLost):
        places(resolver, within_s=SOON_S)
    names.let.set()
    assert resolver.look_up(NSQD).done.wait(LONG_S)
    assert places(resolver, within_s=0.0)
    monkeypatch.setattr(module, "KEPT_S", 0.0)
    other = Address("other.example.com", 1)
    assert places(resolver, other)
    assert places(resolver, other)
    assert names.asked == [NSQD.host, other.host, other.host]


def test_an_answer_that_came_at_once_is_asked_for_anew(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOW_S", LONG_S)
    names.let.set()
    resolver = Resolver()
    places(resolver)
    places(resolver)
    assert names.asked == [NSQD.host, NSQD.host]


def test_a_failure_is_said_and_asked_for_anew(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOW_S", 0.0)
    names.let.set()
    names.answer = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    resolver = Resolver()
    for _ in range(2):
        with pytest.raises(ConnectionLost, match=r"^Name or service not known$"):
            places(resolver)
    assert names.asked == [NSQD.host, NSQD.host]


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example.com"])
def test_what_is_no_name_is_said(names: Names, host: str) -> None:
    with pytest.raises(ConnectionLost, match="this is no host name"):
        places(Resolver(), Address(host, 1), 0.0)
    assert names.asked == []


def test_only_so_many_names_are_looked_up_at_once(names: Names) -> None:
    resolver = Resolver()
    for number in range(MOST_LOOKUPS):
        resolver.look_up(Address(f"n{number}", 1))
    with pytest.raises(ConnectionLost, match=r"^16 other names are being looked up and do not resolve$"):
        resolver.look_up(Address("one-more", 1))
    assert len(lookups()) == MOST_LOOKUPS
    names.let.set()
    until(lambda: not lookups(), what="the end of all look-ups")
    assert places(resolver, Address("one-more", 1))


def test_without_a_thread_that_is_said(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", full)
    with pytest.raises(ConnectionLost, match="can't start new thread"):
        places(Resolver())


def test_after_a_fork_nobody_waits_for_a_thread_of_the_parent(names: Names) -> None:
    resolver = Resolver()
    resolver.look_up(NSQD)
    assert resolver._table.lock.acquire()  # as a thread of the parent may have it when Kamailio forks

    def child() -> None:
        signal.alarm(int(LONG_S))  # or a child that waits for that lock would wait for ever
        names.let.set()
        assert os.getpid() != resolver._table.pid
        assert places(resolver)

    with Fork(child) as fork:
        assert fork.wait() == 0
    resolver._table.lock.release()
