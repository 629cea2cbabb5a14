# SPDX-License-Identifier: GPL-2.0-or-later
"""nsqd frozen (SIGSTOP) or killed: how long a publish takes to fail, and what a second nsqd makes of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from kemi_nsq.errors import ConnectionLost
from kemi_nsq.names import address
from kemi_nsq.nsq.publisher import Publisher
from kemi_nsq.nsq.ways import Outgoing
from kemi_nsq.settings import Settings
from tests.bench.figures import Aim, Figure, Spoiled, check_once_each, percentile
from tests.bench.plain import drain
from tests.support.nsqd import Nsqd

_TIMEOUT_S = 0.5
_TOPIC = "bench-outage"
#: Between two publishes: a nsqd that is dead is tried again from time to time, and that must happen here too.
_PACE_S = 0.005

_OUTAGES: dict[str, Callable[[Nsqd], None]] = {"frozen": Nsqd.freeze, "killed": Nsqd.kill}


def measure(folder: Path, *, quick: bool) -> list[Figure]:
    """Take each outage, with one nsqd and with two."""
    figures = []
    for name, strike in _OUTAGES.items():
        figures += [
            Figure(
                measure=f"publish fails, nsqd {name}, slowest",
                value=_slowest_failure_ms(folder / f"{name}-alone", strike, attempts=3 if quick else 10),
                unit="ms",
                baseline=_TIMEOUT_S * 1000,
                aim=Aim(of="ratio", relation="<=", limit=1.01),
            ),
            Figure(
                measure=f"publish p99, one of two nsqd {name}",
                value=percentile(_latencies_ms(folder / name, strike, 400 if quick else 2_000), 0.99),
                unit="ms",
                aim=Aim(of="value", relation="<=", limit=5),
            ),
        ]
    return figures


def _slowest_failure_ms(folder: Path, strike: Callable[[Nsqd], None], *, attempts: int) -> float:
    """Publish to a nsqd that has just gone, then with new publishers, which have no connection yet."""
    taken_ms = []
    with Nsqd(folder) as nsqd:
        settings = Settings(nsqd_tcp_address=(address(nsqd.tcp_address),), publish_timeout=_TIMEOUT_S)
        publisher = Publisher(settings)
        publisher.publish(_message(0))
        strike(nsqd)
        for number in range(1, attempts + 1):
            started = time.perf_counter()
            try:
                publisher.publish(_message(number))
            except ConnectionLost:
                taken_ms.append((time.perf_counter() - started) * 1000)
            else:
                raise Spoiled("a publish to a dead nsqd succeeded")
            publisher = Publisher(settings)
    return max(taken_ms)


def _latencies_ms(folder: Path, strike: Callable[[Nsqd], None], count: int) -> list[float]:
    """Publish to two nsqd of which the first goes; return what each publish took after the one that noticed."""
    nobody_sets_this = threading.Event()
    taken_ms = []
    with Nsqd(folder / "first") as first, Nsqd(folder / "second", mem_queue_size=100_000) as second:
        addresses = (address(first.tcp_address), address(second.tcp_address))
        publisher = Publisher(Settings(nsqd_tcp_address=addresses, publish_timeout=_TIMEOUT_S))
        publisher.publish(_message(0))
        strike(first)
        for number in range(count + 1):
            started = time.perf_counter()
            publisher.publish(_message(number))
            taken_ms.append((time.perf_counter() - started) * 1000)
            nobody_sets_this.wait(_PACE_S)
        bodies = drain(addresses[1], _TOPIC, second.topic(_TOPIC)["depth"])
        check_once_each(bodies, count + 1, "messages")
    return taken_ms[1:]


def _message(number: int) -> Outgoing:
    return Outgoing(topic=_TOPIC, body=b'{"Number":%d}' % number)
