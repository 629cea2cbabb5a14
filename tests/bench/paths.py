# SPDX-License-Identifier: GPL-2.0-or-later
"""The three ways of an event to `nsq_pua_publish`, on SQLite: what is built in and a Python handler, to a native route.

One server, one consumer, the same events by each way in turn. The CPU is that of the consumer's process alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median

from tests.bench import load
from tests.bench.calls import STATES, call
from tests.bench.figures import Aim, Figure
from tests.bench.served import Served, database, served

_BASELINE = "by a native route"
#: How an event names its way, besides what it says.
WAYS: Mapping[str, Mapping[str, str]] = {
    "without a route": {},
    "by a Python handler": {"Event_Category": "bench-python"},
    _BASELINE: {"Event_Category": "bench-native"},
}
_WARM_UP = 400
#: Of an update without a route, in microseconds.
_MOST_CPU = Aim(of="value", relation="<=", limit=38)


def measure(folder: Path, *, quick: bool) -> list[Figure]:
    """Have the same events consumed by each way, in turn."""
    calls, blocks = (2_000, 1) if quick else (8_000, 5)
    bodies = {way: events(calls, names) for way, names in WAYS.items()}
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    cpu_us: dict[str, list[float]] = {way: [] for way in WAYS}
    with database("sqlite", folder / "paths-database") as stored, served(stored, folder / "paths") as server:
        consumer = server.consumer()
        for names in WAYS.values():
            server.empty()
            server.consume([call(number, STATES[0], **names) for number in range(_WARM_UP)])
        for _ in range(blocks):
            for way in WAYS:
                server.empty()
                before_s = load.cpu_of_s(consumer)
                rates[way].append(server.consume(bodies[way]).rate)
                cpu_us[way].append((load.cpu_of_s(consumer) - before_s) / len(bodies[way]) * 1e6)
        _check(server, len(WAYS) * (_WARM_UP + blocks * 3 * calls))
    return [
        Figure(measure=f"{name} {way}", value=median(taken[way]), unit=unit, baseline=median(taken[_BASELINE]), aim=aim)
        for way in WAYS
        if way != _BASELINE
        for name, taken, unit, aim in (
            ("stored", rates, "updates/s", None),
            ("the consumer's CPU", cpu_us, "us/update", _MOST_CPU if not WAYS[way] else None),
        )
    ]


def events(calls: int, names: Mapping[str, str]) -> list[bytes]:
    """Write the events of some calls, as `calls.waves`, with the names of a way."""
    return [call(number, state, **names) for state in STATES for number in range(calls)]


def _check(server: Served, count: int) -> None:
    server.check_counters(received=count, pua_stored=count, pua_stale=0, pua_unchanged=0)
