# SPDX-License-Identifier: GPL-2.0-or-later
"""How a Kamailio is, as text that Prometheus reads (Prometheus, "Exposition formats"; "Metric and label naming").

Counters are sums over all processes that the run of Kamailio has had, so they never fall. What is told apart by a label
has a bounded number of values: our own names, topics of the settings, and routes, of which the tally keeps so many.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from kemi_nsq.counters import Counter
from kemi_nsq.monitoring.answers import sums_of_routes, sums_of_topics
from kemi_nsq.monitoring.status import MEANING, Process, Status
from kemi_nsq.runtime.page import BUCKETS_S, Gauge, Latencies, Stage

PREFIX = "kemi_nsq_"
#: Gauges of a consumer, and of the relay, by the name of their metric. Times are in seconds since the epoch.
_GAUGES = {
    Gauge.IN_FLIGHT: "in_flight_messages",
    Gauge.QUEUED: "queued_messages",
    Gauge.QUEUED_BYTES: "queued_bytes",
    Gauge.LAST_EVENT: "last_event_timestamp_seconds",
    Gauge.OUTBOX_MESSAGES: "outbox_messages",
    Gauge.OUTBOX_BYTES: "outbox_bytes",
    Gauge.OUTBOX_OLDEST: "outbox_oldest_timestamp_seconds",
    Gauge.MAIN_TURN: "main_thread_turn_timestamp_seconds",
    Gauge.IO_TURN: "io_thread_turn_timestamp_seconds",
    Gauge.BUSY_SINCE: "busy_since_timestamp_seconds",
    Gauge.ROUTE_TIMEOUT: "route_timeout_seconds",
}
_RELAY_GAUGES = {Gauge.RELAY_MESSAGES: "relay_messages", Gauge.RELAY_BYTES: "relay_bytes"}


def text(status: Status) -> bytes:
    """Write all metrics of one Kamailio."""
    registry = CollectorRegistry()
    registry.register(_Snapshot(status))
    return generate_latest(registry)


class _Snapshot(Collector):
    """One look at a Kamailio, as metrics."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def describe(self) -> Iterable[Metric]:
        """Say nothing before: the names are ours alone in a registry that has nothing else."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Make the metrics."""
        processes = self._status.processes
        consuming = [process for process in processes if process.consuming]
        yield from _counters(self._status.counters)
        relaying = [process for process in processes if process.relaying]
        yield from _gauges(_GAUGES, consuming)
        yield from _gauges(_RELAY_GAUGES, relaying)
        yield _stages(processes)
        yield from _health(self._status, consuming, relaying)
        yield from _topics(self._status)
        yield from _routes(processes)
        yield from _connections(consuming)


def _counters(counts: dict[str, int]) -> Iterator[Metric]:
    for counter in Counter:
        yield CounterMetricFamily(PREFIX + counter, _sentence(counter.meaning), value=counts.get(counter, 0))


def _gauges(names: Mapping[Gauge, str], processes: Sequence[Process]) -> Iterator[Metric]:
    for gauge, name in names.items():
        family = GaugeMetricFamily(PREFIX + name, _sentence(gauge.meaning), labels=("pid",))
        for process in processes:
            family.add_metric([str(process.pid)], process.gauges[gauge])
        yield family


def _stages(processes: Sequence[Process]) -> Metric:
    meanings = "; ".join(f"{stage}: {stage.meaning}" for stage in Stage)
    family = HistogramMetricFamily(
        f"{PREFIX}stage_seconds", f"Seconds of an event's way. {meanings}.", labels=("stage",)
    )
    for stage in Stage:
        found = [process.stages[stage] for process in processes]
        counts = [sum(each) for each in zip(*(latencies.counts for latencies in found), strict=True)]
        counts = counts or [0] * (len(BUCKETS_S) + 1)
        _add(family, [stage], Latencies(counts, sum(latencies.total_s for latencies in found)))
    return family


def _health(status: Status, consuming: Sequence[Process], relaying: Sequence[Process]) -> Iterator[Metric]:
    told = [*consuming, *relaying]
    yield GaugeMetricFamily(f"{PREFIX}consumers", "Consumer processes that run.", value=len(consuming))
    family = GaugeMetricFamily(
        f"{PREFIX}problem", "1 while this is wrong, by the fact of `kemi-nsq status`.", labels=("fact",)
    )
    for fact in MEANING:
        family.add_metric([fact], any(fact in process.facts for process in told))
    family.add_metric(["stuck"], any(process.state == "stuck" for process in told))
    family.add_metric(["stopped"], any(process.state == "stopped" for process in told))
    yield family
    health = GaugeMetricFamily(
        f"{PREFIX}health", "Exit code of `kemi-nsq status`: 0 ok, 1 warning, 2 critical.", value=int(status.health)
    )
    yield health
    info = GaugeMetricFamily(
        f"{PREFIX}build_info", "1, with the versions and the node as labels.", labels=("version", "kamailio", "node")
    )
    for versions in {(*_versions(process), process.said.node) for process in consuming if process.said}:
        info.add_metric(versions, 1)
    yield info


def _topics(status: Status) -> Iterator[Metric]:
    labels = ("topic", "channel")
    received = CounterMetricFamily(f"{PREFIX}topic_received", "Messages of a topic that were handled.", labels=labels)
    for topic in sums_of_topics(process.said for process in status.processes if process.said).values():
        received.add_metric((topic.topic, topic.channel), topic.received)
    yield received
    for name, meaning, position in (
        ("lag_messages", "Messages that wait at nsqd and that nobody has.", 2),
        ("nsqd_in_flight_messages", "Messages that any consumer of the channel has.", 3),
        ("deferred_messages", "Messages that come again later.", 4),
    ):
        family = GaugeMetricFamily(PREFIX + name, meaning, labels=labels)
        for depth in status.depths if status.depths_known else ():
            family.add_metric((depth.topic, depth.channel), float(depth[position]))
        yield family
    known = "1 if every nsqd has told what waits there."
    yield GaugeMetricFamily(f"{PREFIX}lag_known", known, value=float(status.depths_known))


def _routes(processes: Iterable[Process]) -> Iterator[Metric]:
    labels = ("route", "topic")
    seconds = HistogramMetricFamily(f"{PREFIX}route_seconds", "Seconds that a route took.", labels=labels)
    ends = CounterMetricFamily(
        f"{PREFIX}route_events", "Events that a route had, by how they ended.", labels=(*labels, "outcome")
    )
    for each in sums_of_routes(process.said for process in processes if process.said):
        _add(seconds, [each.route, each.topic], Latencies(each.counts, each.total_s))
        for outcome, count in (("done", each.done), ("again", each.again), ("refused", each.refused)):
            ends.add_metric((each.route, each.topic, outcome), count)
    yield seconds
    yield ends


def _connections(consuming: Iterable[Process]) -> Iterator[Metric]:
    labels = ("pid", "nsqd", "topic", "channel")
    ready = GaugeMetricFamily(
        f"{PREFIX}connection_ready", "RDY: messages that nsqd may hand out at once.", labels=labels
    )
    subscribed = GaugeMetricFamily(f"{PREFIX}connection_subscribed", "1 if nsqd has accepted it.", labels=labels)
    for process in consuming:
        for each in process.said.connections if process.said else ():
            names = [str(process.pid), each.nsqd, "" if each.replies else each.topic, each.channel]
            ready.add_metric(names, each.ready)
            subscribed.add_metric(names, float(each.subscribed))
    yield ready
    yield subscribed


def _add(family: HistogramMetricFamily, labels: Sequence[str], latencies: Latencies) -> None:
    ends = [*map(str, BUCKETS_S), "+Inf"]
    buckets = list(zip(ends, accumulate(latencies.counts), strict=True))
    family.add_metric(labels, buckets, latencies.total_s)


def _versions(process: Process) -> tuple[str, str]:
    versions = process.said.versions if process.said else {}
    return versions.get("kemi-nsq", ""), versions.get("kamailio", "")


def _sentence(meaning: str) -> str:
    return meaning[:1].upper() + meaning[1:] + "."
