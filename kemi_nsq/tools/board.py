# SPDX-License-Identifier: GPL-2.0-or-later
"""How `kemi-nsq status` looks: one line of health, then what each process, connection, topic, route and stage does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from rich.console import Group, RenderableType
from rich.text import Text

from kemi_nsq.monitoring.answers import sums_of_routes, sums_of_topics
from kemi_nsq.monitoring.status import Process, Status, clock_text
from kemi_nsq.runtime.page import BUCKETS_S, CONSUMER, Gauge, Latencies, Stage
from kemi_nsq.tools.output import plain, table

_COLUMNS = (Gauge.IN_FLIGHT, Gauge.QUEUED, Gauge.QUEUED_BYTES, Gauge.LAST_EVENT)
#: So much of all is within the seconds that are shown besides the mean.
_MOST = 0.95


def board(status: Status) -> RenderableType:
    """Return what is shown of one Kamailio."""
    parts: list[RenderableType] = [Text(plain(status.line)), Text(plain(f"runtime folder {status.run_dir}"))]
    parts.append(_processes(status.processes))
    parts += [Text(plain(text)) for text in _asides(status.processes)]
    for columns, rows in (
        (("pid", "nsqd", "topic:channel", "subscribed", "RDY", "in flight", "heard"), _connections(status.processes)),
        (("topic:channel", "waiting at nsqd", "in flight", "deferred", "received", "last"), _topics(status)),
        (("route", "topic", "done", "again", "refused", "mean", "95 % within", "longest"), _routes(status.processes)),
        (("stage", "times", "mean", "95 % within"), _stages(status.processes)),
        (("pid", "script", "version", "loaded", "event routes"), _scripts(status.processes)),
        (("counter", "of all processes"), ((name, str(count)) for name, count in status.counters.items())),
    ):
        if found := list(rows):
            made = table(*columns)
            for row in found:
                made.add_row(*map(plain, row))
            parts.append(made)
    return Group(*(each for part in parts for each in (part, Text())))


def _processes(processes: Sequence[Process]) -> RenderableType:
    made = table("pid", "role", "state", *(gauge.replace("_", " ") for gauge in _COLUMNS), "version", "node")
    for each in processes:
        numbers = [_number(gauge, each.gauges[gauge]) if each.role == CONSUMER else "" for gauge in _COLUMNS]
        named = (each.said.versions.get("kemi-nsq", ""), each.said.node) if each.said else ("", "")
        made.add_row(str(each.pid), each.role or "worker", each.state, *numbers, *map(plain, named))
    return made


def _asides(processes: Iterable[Process]) -> Iterator[str]:
    for each in processes:
        yield from (f"{each.pid}: {problem.health.name.lower()}: {problem.text}" for problem in each.problems)
        if each.said and each.said.log_level != "default":
            yield f"{each.pid}: log level {each.said.log_level} (kemi-nsq log-level default leaves it to Kamailio)"
        if each.said and each.said.log_events:
            yield f"{each.pid}: logs each step of an event (kemi-nsq presence log-events off)"
        if each.outbox:
            yield f"{each.pid}: the outbox holds {each.outbox}"
        if each.relaying and (held := each.gauges[Gauge.RELAY_MESSAGES]):
            yield f"{each.pid}: the relay holds {held:.0f} messages ({each.gauges[Gauge.RELAY_BYTES]:.0f} bytes)"
        if each.stack:
            yield each.stack


def _connections(processes: Iterable[Process]) -> Iterator[Sequence[str]]:
    for process in processes:
        for each in process.said.connections if process.said else ():
            name = "replies to queries" if each.replies else f"{each.topic}:{each.channel}"
            numbers = str(each.ready), str(each.in_flight), f"{each.silent_s:.1f} s ago"
            yield str(process.pid), each.nsqd, name, "yes" if each.subscribed else "no", *numbers


def _topics(status: Status) -> Iterator[Sequence[str]]:
    sums = sums_of_topics(process.said for process in status.processes if process.said)
    for depth in status.depths:
        name = f"{depth.topic}:{depth.channel}"
        counts = (depth.messages, depth.in_flight, depth.deferred)
        waiting = map(str, counts) if status.depths_known else ("?", "?", "?")
        came = (str(sums[name].received), clock_text(sums[name].last)) if name in sums else ("0", "-")
        yield name, *waiting, *came


def _routes(processes: Iterable[Process]) -> Iterator[Sequence[str]]:
    for each in sums_of_routes(process.said for process in processes if process.said):
        numbers = map(str, (each.done, each.again, each.refused))
        latencies = Latencies(each.counts, each.total_s)
        yield each.route, each.topic, *numbers, *_latency(latencies), _seconds(each.longest_s)


def _stages(processes: Iterable[Process]) -> Iterator[Sequence[str]]:
    for stage in Stage:
        found = [process.stages[stage] for process in processes]
        summed = Latencies(
            [*map(sum, zip(*(each.counts for each in found), strict=True))], sum(e.total_s for e in found)
        )
        if sum(summed.counts):
            yield stage, str(sum(summed.counts)), *_latency(summed)


def _scripts(processes: Iterable[Process]) -> Iterator[Sequence[str]]:
    for process in processes:
        if process.said and process.said.script.handlers:
            each = process.said.script
            yield str(process.pid), each.file, each.version, clock_text(each.loaded), str(len(each.handlers))


def _latency(latencies: Latencies) -> tuple[str, str]:
    """Return the mean, and within what 95 of 100 were: the end of a bucket, so it is at most that."""
    times = sum(latencies.counts)
    if not times:
        return "-", "-"
    reached = [count >= _MOST * times for count in accumulate(latencies.counts)].index(True)
    most = _seconds(BUCKETS_S[reached]) if reached < len(BUCKETS_S) else f"> {_seconds(BUCKETS_S[-1])}"
    return _seconds(latencies.total_s / times), most


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _number(gauge: Gauge, value: float) -> str:
    return clock_text(value) if gauge is Gauge.LAST_EVENT else f"{value:.0f}"
