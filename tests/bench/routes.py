# SPDX-License-Identifier: GPL-2.0-or-later
"""Events a second into a route that counts, native and in Python, against a plain consumer that does nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from tests.bench import load
from tests.bench.figures import Aim, Figure, Spoiled
from tests.bench.served import TOPIC, database, served
from tests.bench.sink import READY
from tests.support.nsqd import Nsqd
from tests.support.process import ChildProcess

PLAIN_TOPIC, PLAIN_CHANNEL = "bench-plain", "bench"
_ROUTES = {"native": "a native route", "python": "a Python handler"}


def measure(folder: Path, *, quick: bool) -> list[Figure]:
    """Consume blocks of events by each route and by the plain consumer, in turn."""
    count, blocks = (4_000, 1) if quick else (30_000, 5)
    rates: dict[str, list[float]] = {name: [] for name in (*_ROUTES, "plain")}
    with (
        database("sqlite", folder / "routes-database") as stored,
        served(stored, folder / "routes", NSQ_MAX_IN_FLIGHT=READY) as server,
        plain_consumer(folder / "routes", server.nsqd),
    ):
        for block in range(1, blocks + 1):
            for name in _ROUTES:
                rates[name].append(server.consume([_event(name, number) for number in range(count)], TOPIC).rate)
                if (counted := load.counter(server.kamailio, name, "bench")) != block * count:
                    raise Spoiled(f"{block * count} events sent, the {name} route counted {counted}")
            bodies = [_event("plain", number) for number in range(count)]
            rates["plain"].append(server.consume(bodies, PLAIN_TOPIC, PLAIN_CHANNEL).rate)
        server.check_counters(received=blocks * count * len(_ROUTES))
    return [
        Figure(
            measure=f"events into {_ROUTES[name]}",
            value=median(rates[name]),
            unit="events/s",
            baseline=median(rates["plain"]),
            aim=Aim(of="ratio", relation=">=", limit=0.5),
        )
        for name in _ROUTES
    ]


@contextmanager
def plain_consumer(folder: Path, nsqd: Nsqd, result: str = "") -> Iterator[None]:
    """Run `sink` on a topic of its own."""
    nsqd.create_topic(PLAIN_TOPIC)
    nsqd.create_channel(PLAIN_TOPIC, PLAIN_CHANNEL)
    command = [sys.executable, "-m", "tests.bench.sink", nsqd.tcp_address, PLAIN_TOPIC, result]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = ChildProcess("sink", command, folder=folder, environment=environment)
    try:
        process.wait_for_log("^ready$")
        yield
    finally:
        process.stop()


def _event(name: str, number: int) -> bytes:
    fields = {"Event-Category": "bench", "Event-Name": name, "Number": number, "Padding": "x" * 300}
    return json.dumps(fields).encode()
