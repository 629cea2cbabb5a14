# SPDX-License-Identifier: GPL-2.0-or-later
"""What it costs that one can see: updates a second with and without what status, metrics and history need."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from tests.bench.calls import STATES, call, waves
from tests.bench.figures import Aim, Figure
from tests.bench.served import Served, database, served
from tests.support.kamailio import quoted

_UNSEEN = Path(__file__).with_name("unseen.py")
_WARM_UP = 400


def measure(folder: Path, *, quick: bool) -> list[Figure]:
    """Have two servers with a database each consume the same events, in turn."""
    calls, blocks = (2_000, 1) if quick else (8_000, 9)
    bodies = [*waves(range(calls))]
    with (
        database("sqlite", folder / "seen-database") as one,
        database("sqlite", folder / "unseen-database") as other,
        served(one, folder / "seen") as seen,
        served(other, folder / "unseen", NSQ_SCRIPT=quoted(_UNSEEN)) as unseen,
    ):
        servers = [seen, unseen]
        rates: list[list[float]] = [[], []]
        for server in servers:
            server.consume([call(number, STATES[0]) for number in range(_WARM_UP)])
        for block in range(blocks):
            for place in (0, 1) if block % 2 else (1, 0):
                rates[place].append(_rate(servers[place], bodies))
        for server in servers:
            server.check_counters(received=_WARM_UP + blocks * len(bodies), pua_stale=0, pua_unchanged=0)
    return [
        Figure(
            measure="seen updates, sqlite",
            value=median(rates[0]),
            unit="updates/s",
            baseline=median(rates[1]),
            aim=Aim(of="ratio", relation=">=", limit=0.97),
        )
    ]


def _rate(server: Served, bodies: list[bytes]) -> float:
    server.empty()
    return server.consume(bodies).rate
