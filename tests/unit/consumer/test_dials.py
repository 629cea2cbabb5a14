# SPDX-License-Identifier: GPL-2.0-or-later
"""Connects side by side, on loopback, to who listens, who does not, and who never answers; the clock is the test's."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from kemi_nsq.consumer.dials import CONNECT_TIMEOUT_S, Dials
from kemi_nsq.consumer.targets import Target
from kemi_nsq.errors import ConnectionLost
from kemi_nsq.names import Address, Subscription
from kemi_nsq.nsq.resolver import SHARED, Lookup, Place, Resolver
from tests.support.hostile import black_hole
from tests.support.ports import LOOPBACK, free_tcp_port
from tests.support.until import until

PAIR = Subscription("t", "c")
#: When all connects are begun.
START = 10.0


class Named(Resolver):
    """A resolver that answers as a test says: at once, or never.

    Attributes:
        found: the places of each name.
        full: it has no room.
    """

    def __init__(self, *, full: bool = False, **found: list[tuple[str, int]]) -> None:
        super().__init__()
        self.found = found
        self.full = full

    def look_up(self, address: Address) -> Lookup:
        if self.full:
            raise ConnectionLost("no room")
        lookup = Lookup(address.host)
        if address.host in self.found:
            places = [Place(socket.AF_INET, place) for place in self.found[address.host]]
            lookup.places = lambda port: places  # type: ignore[method-assign]
            lookup.done.set()
        return lookup


@pytest.fixture
def dials() -> Iterator[Dials]:
    made = Dials()
    yield made
    made.close()


@pytest.fixture
def hole() -> Iterator[int]:
    with black_hole() as port:
        yield port


@pytest.fixture
def nsqd() -> Iterator[Address]:
    with socket.create_server((LOOPBACK, 0)) as listener:
        yield Address(LOOPBACK, listener.getsockname()[1])


def begin(dials: Dials, *addresses: Address, resolver: Resolver = SHARED) -> None:
    for address in addresses:
        dials.begin(Target(address, PAIR), [resolver], START)


def outcomes(dials: Dials, count: int = 1, after_s: float = 0.0) -> dict[Address, str]:
    """Wait for so many connects to end while the clock stands, and return what came of each: '' for a connection."""
    now = START + after_s
    ended: dict[Address, str] = {}

    def all_ended() -> bool:
        dials.wait(now + 0.01, now)
        for target, outcome in dials.outcomes(now):
            if isinstance(outcome, ConnectionLost):
                ended[target.address] = str(outcome)
            else:
                assert outcome.getpeername()
                outcome.close()
                ended[target.address] = ""
        return len(ended) >= count

    until(all_ended, what="the ends")
    return ended


def test_who_listens_is_connected_while_others_never_answer(dials: Dials, hole: int, nsqd: Address) -> None:
    holes = [Address(f"127.0.1.{number}", hole) for number in range(1, 101)]
    begin(dials, *holes, nsqd)
    assert outcomes(dials) == {nsqd: ""}
    late = outcomes(dials, len(holes), CONNECT_TIMEOUT_S)
    assert late == {address: f"{address}: timed out" for address in holes}


def test_who_does_not_listen_is_told(dials: Dials) -> None:
    nobody = Address(LOOPBACK, free_tcp_port())
    begin(dials, nobody)
    assert outcomes(dials) == {nobody: f"{nobody}: Connection refused"}


def test_each_place_of_a_name_has_its_share_of_the_time(dials: Dials, hole: int, nsqd: Address) -> None:
    name = Address("n", nsqd.port)
    begin(dials, name, resolver=Named(n=[("127.0.1.1", hole), (LOOPBACK, free_tcp_port()), (nsqd.host, nsqd.port)]))
    assert dials.outcomes(START) == []
    assert outcomes(dials, after_s=CONNECT_TIMEOUT_S / 3) == {name: ""}


def test_the_last_place_says_why(dials: Dials, hole: int) -> None:
    name = Address("n", 1)
    begin(dials, name, resolver=Named(n=[("127.0.1.1", hole), (LOOPBACK, free_tcp_port())]))
    assert dials.outcomes(START) == []
    assert outcomes(dials, after_s=CONNECT_TIMEOUT_S / 2) == {name: "n:1: Connection refused"}


def test_a_name_that_hangs_keeps_nobody_waiting(dials: Dials, nsqd: Address) -> None:
    name = Address("n", 1)
    begin(dials, name, resolver=Named())
    begin(dials, nsqd)
    assert outcomes(dials) == {nsqd: ""}
    assert outcomes(dials, after_s=CONNECT_TIMEOUT_S) == {name: "n:1: the name does not resolve in time"}


def test_a_name_is_looked_up_by_whoever_has_room(dials: Dials, nsqd: Address) -> None:
    name = Address("n", nsqd.port)
    dials.begin(Target(name, PAIR), [Named(full=True), Named(n=[(nsqd.host, nsqd.port)])], START)
    assert outcomes(dials) == {name: ""}
    begin(dials, name, resolver=Named(full=True))
    assert outcomes(dials) == {name: f"{name}: no room"}


def test_what_cannot_be_connected_to_at_all_is_told(dials: Dials) -> None:
    name = Address("n", 1)
    begin(dials, name, resolver=Named(n=[("255.255.255.255", 1)]))
    assert outcomes(dials)[name].startswith("n:1: ")


def test_it_is_woken_by_any_thread(dials: Dials) -> None:
    waiting = threading.Thread(target=dials.wait, args=(START + 3600, START), daemon=True)
    waiting.start()
    dials.wake()
    waiting.join(10)
    assert not waiting.is_alive()


def test_close_gives_all_up(hole: int, nsqd: Address) -> None:
    """Pytest complains of a socket that is left open."""
    with ExitStack() as stack:
        dials = Dials()
        stack.callback(dials.close)
        begin(dials, Address("127.0.1.1", hole), nsqd)
        dials.wait(START + 5, START)
