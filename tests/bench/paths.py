# SPDX-License-Identifier: GPL-2.0-or-later
"""The three ways of an event to `nsq_pua_publish`, on SQLite: what is built in and a Python handler, to a native route.

One server, one consumer, the same events by each way in turn. The CPU is that of the consumer's process alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median

from tests.bench.calls import STATES, call, waves
from tests.bench.figures import Aim, Figure
from tests.bench.served import database, served

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
    bodies = {way: [*waves(range(calls), **names)] for way, names in WAYS.items()}
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    cpu_us: dict[str, list[float]] = {way: [] for way in WAYS}
    with database("sqlite", folder / "paths-database") as stored, served(stored, folder / "paths") as server:
        for names in WAYS.values():
            server.empty()
            server.consume([call(number, STATES[0], **names) for number in range(_WARM_UP)])
        for _ in range(blocks):
            for way in WAYS:
                server.empty()
                consumed, cpu_s = server.cpu_of_consuming(bodies[way])
                rates[way].append(consumed.rate)
                cpu_us[way].append(cpu_s / len(bodies[way]) * 1e6)
        server.check_stored(len(WAYS) * (_WARM_UP + blocks * len(STATES) * calls))
    return [
        Figure(measure=f"{name} {way}", value=median(taken[way]), unit=unit, baseline=median(taken[_BASELINE]), aim=aim)
        for way in WAYS
        if way != _BASELINE
        for name, taken, unit, aim in (
            ("stored", rates, "updates/s", None),
            ("the consumer's CPU", cpu_us, "us/update", _MOST_CPU if not WAYS[way] else None),
        )
    ]
