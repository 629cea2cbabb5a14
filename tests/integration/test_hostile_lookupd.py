# SPDX-License-Identifier: GPL-2.0-or-later
"""Real nsqd, one honest nsqlookupd, and others that are hostile: consuming within 3 s, whatever they do."""

from __future__ import annotations

import itertools
import resource
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from kemi_nsq.consumer.targets import MOST_CONNECTIONS
from kemi_nsq.counters import Counter
from kemi_nsq.nsq.resolver import MOST_LOOKUPS
from kemi_nsq.runtime.page import Fact
from tests.support import hostile
from tests.support.consuming import Consuming, numbered
from tests.support.hostile import Behaviour, HostileHttp, black_hole
from tests.support.nsqd import Nsqd, Nsqlookupd
from tests.support.until import until

TOPIC, CHANNEL = "events", "kamailio"
PAIR = f"{TOPIC}:{CHANNEL}"
#: What is promised, of start and of nsqd's return.
PROMISED_S = 3.0
MEMORY = 64 * 1024 * 1024

ODD = b'{"producers": [{"broadcast_address": "http://a b/", "tcp_port": 4150}, 5, {"broadcast_address": "x"}]}'


def thousands(port: int) -> bytes:
    """Name black holes."""
    return hostile.nodes((f"127.{number // 250}.1.{number % 250 + 1}", port) for number in range(5000))


def unresolvable() -> bytes:
    return hostile.nodes((f"n{number}.invalid", 4150) for number in range(5000))


def always_new(port: int) -> Behaviour:
    """Name other black holes at each look-up."""
    turns = itertools.count()

    def behaviour(send: Callable[[bytes], object], wait: Callable[[float], bool]) -> None:
        turn = next(turns) % 250
        addresses = ((f"127.{100 + number // 250}.{turn}.{number % 250 + 1}", port) for number in range(2000))
        hostile.answer(hostile.nodes(addresses))(send, wait)

    return behaviour


def behaviours(port: int) -> dict[str, Behaviour]:
    return {
        "drips its head": hostile.drips_head,
        "drips its body": hostile.drips_body,
        "goes on with 100 Continue": hostile.drips_continue,
        "says nothing": hostile.says_nothing,
        "has a body without end": hostile.huge_body,
        "promises a huge body": hostile.huge_promise,
        "sends a gzip bomb": hostile.bomb(),
        "redirects": hostile.redirects("http://127.0.0.1:1/nodes"),
        "names what is no address": hostile.answer(ODD),
        "names thousands that never answer": hostile.answer(thousands(port)),
        "names other thousands each time": always_new(port),
        "names thousands that do not resolve": hostile.answer(unresolvable()),
    }


@contextmanager
def honest(folder: Path, **options: str) -> Iterator[tuple[Nsqlookupd, Nsqd]]:
    with (
        Nsqlookupd(folder / "lookupd") as lookupd,
        Nsqd(folder / "nsqd", lookupd_tcp_address=lookupd.tcp_address, **options) as nsqd,
    ):
        nsqd.create_topic(TOPIC)
        nsqd.create_channel(TOPIC, CHANNEL)
        until(lambda: lookupd.producers(TOPIC), what="nsqd to be known")
        yield lookupd, nsqd


def consumes_again(nsqd: Nsqd, consuming: Consuming, number: int) -> None:
    nsqd.publish(TOPIC, numbered(number))
    consuming.wait_for([number], timeout_s=PROMISED_S)


def check_start_and_return(nsqd: Nsqd, consuming: Consuming, *, away_s: float = 1.0) -> None:
    consumes_again(nsqd, consuming, 1)
    nsqd.stop()
    until(lambda: consuming.host.counters[Counter.DISCONNECTED], what="the loss")
    left = time.monotonic() + away_s
    until(lambda: time.monotonic() > left, timeout_s=away_s + 5, what="nsqd to be away for a while")
    nsqd.start()
    consumes_again(nsqd, consuming, 2)


@pytest.mark.parametrize("name", behaviours(0))
def test_beside_a_hostile_nsqlookupd_nsqd_is_consumed_at_once_and_again_at_its_return(
    tmp_path: Path, name: str
) -> None:
    with ExitStack() as stack:
        behaviour = behaviours(stack.enter_context(black_hole()))[name]
        lookupd, nsqd = stack.enter_context(honest(tmp_path))
        liar = stack.enter_context(HostileHttp(behaviour))
        nsqd.publish(TOPIC, numbered(1))
        addresses = f"{liar.address},{lookupd.http_address}"
        consuming = stack.enter_context(Consuming(lookupd_address=addresses, topic_channel=PAIR))
        check_start_and_return(nsqd, consuming)
        assert consuming.host.counters[Counter.RESTARTED] == 0
        shown = until(lambda: consuming.host.page.shown(Fact.DISCOVERY), what="what is wrong")
        assert shown.startswith(f"nsqlookupd {liar.address}: ")

        def told() -> list[str]:
            return [line for line in consuming.lines if line.startswith(f"nsqlookupd {liar.address}: ")]

        until(told, what="a line about it")
        assert len(told()) == len(set(told())) <= 3, "said once, not at every look-up"


def test_among_all_of_them_at_once_time_memory_threads_and_lines_are_bounded(tmp_path: Path) -> None:
    with ExitStack() as stack:
        port = stack.enter_context(black_hole())
        liars = [stack.enter_context(HostileHttp(each)) for each in behaviours(port).values()]
        lookupd, nsqd = stack.enter_context(honest(tmp_path))
        addresses = ",".join([*(liar.address for liar in liars), lookupd.http_address])
        before = threading.active_count()
        consuming = stack.enter_context(Consuming(lookupd_address=addresses, topic_channel=PAIR))
        check_start_and_return(nsqd, consuming, away_s=5.0)
        ours = [each.name for each in threading.enumerate() if each.name.startswith(("nsq-", "name look-up"))]
        assert len(ours) < 16 + 32 + len(liars) + before
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        assert descriptors < MOST_CONNECTIONS + 200
        assert len(consuming.lines) < 200
        tracemalloc.start()
        consumes_again(nsqd, consuming, 3)
        peaks = itertools.count()
        until(lambda: next(peaks) > 300, timeout_s=30, what="some look-ups")
        assert tracemalloc.get_traced_memory()[1] < MEMORY
        tracemalloc.stop()


def test_one_registration_with_an_odd_address_hides_no_other(tmp_path: Path) -> None:
    """It is told, counted and shown, and so is that it has gone."""
    with honest(tmp_path) as (lookupd, nsqd):
        odd = Nsqd(tmp_path / "odd", lookupd_tcp_address=lookupd.tcp_address, broadcast_address="a b!")
        with odd, Consuming(lookupd_address=lookupd.http_address, topic_channel=PAIR) as consuming:
            until(lambda: lookupd.http("GET", "/nodes").count(b"tcp_port") == 2, what="both registrations")
            consumes_again(nsqd, consuming, 1)
            shown = until(lambda: consuming.host.page.shown(Fact.DISCOVERY), what="what is wrong")
            assert "the entry with broadcast_address 'a b!' and tcp_port " in shown
            assert consuming.host.counters[Counter.NODES_REFUSED] == 1
            odd.stop()
            until(lambda: not consuming.host.page.shown(Fact.DISCOVERY), what="nothing wrong")
        assert sum("a b!" in line for line in consuming.lines) == 1
        assert f"nsqlookupd {lookupd.http_address}: it answers well again" in consuming.lines


def test_ten_registrations_that_never_answer_do_not_delay_the_others(tmp_path: Path) -> None:
    with black_hole() as port, honest(tmp_path) as (lookupd, nsqd), ExitStack() as stack:
        holes = hostile.nodes((f"127.0.1.{number}", port) for number in range(1, 11))
        liar = stack.enter_context(HostileHttp(hostile.answer(holes)))
        nsqd.publish(TOPIC, numbered(1))
        consuming = stack.enter_context(
            Consuming(lookupd_address=f"{liar.address},{lookupd.http_address}", topic_channel=PAIR)
        )
        check_start_and_return(nsqd, consuming, away_s=6.0)
        until(lambda: consuming.host.counters[Counter.CONNECT_FAILED] >= 20, what="their lines")
        assert sum("127.0.1." in line for line in consuming.lines) <= 20


def test_thousands_of_names_that_hang_do_not_delay_a_name_that_resolves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over, real = threading.Event(), socket.getaddrinfo

    def hang(host: str, *arguments: Any, **options: Any) -> Any:
        if host.endswith(".invalid") and not options["flags"]:
            over.wait()
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with ExitStack() as stack:
        stack.callback(over.set)
        lookupd, nsqd = stack.enter_context(honest(tmp_path, broadcast_address="localhost"))
        liar = stack.enter_context(HostileHttp(hostile.answer(unresolvable())))
        consuming = stack.enter_context(
            Consuming(lookupd_address=f"{liar.address},{lookupd.http_address}", topic_channel=PAIR)
        )
        until(lambda: len(looking_up()) == MOST_LOOKUPS, what="names that hang")
        check_start_and_return(nsqd, consuming)
        assert len(looking_up()) <= MOST_LOOKUPS + 2
    until(lambda: not looking_up(), what="the end of all look-ups")


def looking_up() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "name look-up"]


def test_descriptors_are_enough_here() -> None:
    """Else a test above would fail for want of them, and not for what it is about."""
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 1024
