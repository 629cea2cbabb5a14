# SPDX-License-Identifier: GPL-2.0-or-later
"""`--profile`: the consumer's CPU for an event, by stage, on SQLite: without a route, and by a native one.

Two servers consume the same events, in turn: one with timers in it (`timed`), one without. What the process of the
first takes more is what its timers cost, which is subtracted. What the process of the other takes, and is in no stage,
is the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.table import Column, Table

from tests.bench.calls import STATES, call, waves
from tests.bench.paths import WAYS
from tests.bench.served import Served, database, served
from tests.bench.timers import Stage, net_ns
from tests.support.kamailio import quoted

_TIMED = Path(__file__).with_name("timed.py")
_WARM_UP = 400
_READ_TIMERS = json.dumps({"Event-Category": "bench", "Event-Name": "timers"}).encode()
_NAMES = ("without a route", "by a native route")
REST, ALL = "the rest", "the consumer's CPU"

#: Microseconds for an event, by stage.
Profile = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The same events in both servers.

    Attributes:
        events: how many.
        plain_ns: CPU of the consumer without timers.
        timed_ns: CPU of the other one.
        stages: what its timers counted.
        share_inside: see `Timers.share_inside`.
    """

    events: int
    plain_ns: float
    timed_ns: float
    stages: Mapping[str, Stage]
    share_inside: float

    def profile(self) -> Profile:
        """Return the stages without the cost of the timers, what they leave of the consumer's CPU, and that."""
        timers = sum(stage.calls for stage in self.stages.values())
        cost_ns = max(0.0, self.timed_ns - self.plain_ns) / timers
        us = {
            name: net_ns(stage, cost_ns, self.share_inside) / self.events / 1000 for name, stage in self.stages.items()
        }
        all_us = self.plain_ns / self.events / 1000
        return us | {REST: all_us - sum(us.values()), ALL: all_us}


def profile(folder: Path, *, quick: bool) -> Table:
    """Have both servers consume the same events, and return the table of us/event."""
    calls, blocks = (2_000, 1) if quick else (8_000, 3)
    timers = folder / "timers.json"
    environment = {"BENCH_TIMERS": str(timers)}
    found: dict[str, list[Profile]] = {name: [] for name in _NAMES}
    with (
        database("sqlite", folder / "plain-database") as one,
        database("sqlite", folder / "timed-database") as other,
        served(one, folder / "plain") as plain,
        served(other, folder / "timed", environment=environment, NSQ_SCRIPT=quoted(_TIMED)) as timed,
    ):
        for name in _NAMES:
            for server in (plain, timed):
                server.empty()
                server.consume([call(number, STATES[0], **WAYS[name]) for number in range(_WARM_UP)])
        bodies = {name: [*waves(range(calls), **WAYS[name])] for name in _NAMES}
        for _ in range(blocks):
            for name, some in bodies.items():
                found[name].append(_block(plain, timed, some, timers).profile())
        taken = len(_NAMES) * (_WARM_UP + blocks * len(STATES) * calls)
        plain.check_counters(received=taken, pua_stored=taken)
        timed.check_counters(received=taken + len(_NAMES) * blocks * 2, pua_stored=taken)
    return as_table({name: _median(profiles) for name, profiles in found.items()})


def _block(plain: Served, timed: Served, bodies: Sequence[bytes], timers: Path) -> Block:
    plain_ns = _cpu_ns(plain, bodies)
    timed.consume([_READ_TIMERS])  # what came before is not of these events
    timed_ns = _cpu_ns(timed, bodies)
    timed.consume([_READ_TIMERS])
    counted = json.loads(timers.read_text(encoding="utf-8"))
    return Block(
        events=len(bodies),
        plain_ns=plain_ns,
        timed_ns=timed_ns,
        stages={name: Stage(**stage) for name, stage in counted["stages"].items()},
        share_inside=counted["share_inside"],
    )


def _cpu_ns(server: Served, bodies: Sequence[bytes]) -> float:
    server.empty()
    return server.cpu_of_consuming(bodies)[1] * 1e9


def _median(profiles: Sequence[Profile]) -> Profile:
    return {name: median(profile[name] for profile in profiles) for name in profiles[0]}


def as_table(columns: Mapping[str, Profile]) -> Table:
    """Return the stages as rows; the last one is what those above it add up to, but for medians of several blocks."""
    made = Table("us/event", *(Column(name, justify="right") for name in columns))
    for name in next(iter(columns.values())):
        made.add_row(name, *(f"{profile[name]:.1f}" for profile in columns.values()), end_section=name == REST)
    return made
