# SPDX-License-Identifier: GPL-2.0-or-later
"""What Prometheus is told of a Kamailio: the names, and the numbers behind them."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from kemi_nsq.monitoring import metrics
from kemi_nsq.monitoring.answers import ConnectionSaid, RouteSaid, Said, ScriptSaid, TopicSaid
from kemi_nsq.monitoring.depths import Depth
from kemi_nsq.monitoring.status import Process, Status
from kemi_nsq.runtime.page import BUCKETS_S, Gauge, Latencies, Stage

NONE = Latencies([0] * (len(BUCKETS_S) + 1), 0.0)
SOME = Latencies([3, *[0] * (len(BUCKETS_S) - 1), 1], 12.5)
SAID = Said(
    node="proxy1",
    versions={"kemi-nsq": "9.9", "kamailio": "5.6.3"},
    settings={},
    subscriptions=["t:c"],
    connections=[
        ConnectionSaid(
            nsqd="127.0.0.1:4150", topic="t", channel="c", replies=False, subscribed=True, ready=5, in_flight=1,
            silent_s=0.1,
        )
    ],
    topics=[TopicSaid(topic="t", channel="c", received=4, last=1_700_000_000)],
    routes=[
        RouteSaid(
            route='nsq:"x"', topic="t", done=3, again=1, refused=0, counts=SOME.counts, total_s=12.5, longest_s=11
        )
    ],
    script=ScriptSaid(file="", version="", loaded=0.0, handlers=[]),
)  # fmt: skip


def process(**changes: object) -> Process:
    """Return a consumer that is well, or is as the changes say."""
    plain: dict[str, object] = {
        "pid": 42, "role": "consumer", "alive": True, "state": "waits", "problems": [], "outbox": "", "facts": {},
        "gauges": {str(gauge): 1.5 for gauge in Gauge}, "counters": {}, "stages": dict.fromkeys(Stage, SOME),
        "stack": "", "said": SAID,
    }  # fmt: skip
    return Process(**(plain | changes))  # type: ignore[arg-type]


def samples(*processes: Process, depths_known: bool = True) -> dict[str, float]:
    """Return what Prometheus reads: each sample as it writes it, without the buckets between."""
    depths = [Depth("t", "c", 7, 1, 2)] if depths_known else []
    status = Status(
        run_dir="/run",
        processes=processes,
        counters={"received": 4},
        depths=depths,
        depths_known=depths_known,
        problems=[],
    )
    return {
        f"{each.name}{{{','.join(f'{name}={value}' for name, value in sorted(each.labels.items()))}}}": each.value
        for family in text_string_to_metric_families(metrics.text(status).decode())
        for each in family.samples
    }


def test_what_is_counted_is_there_and_what_was_not_is_0() -> None:
    found = samples(process())
    assert found["kemi_nsq_received_total{}"] == 4
    assert found["kemi_nsq_bug_total{}"] == 0


def test_gauges_are_those_of_consumers_that_run() -> None:
    found = samples(process(), process(pid=43, alive=False), process(pid=44, role=""))
    assert found["kemi_nsq_in_flight_messages{pid=42}"] == 1.5
    assert [name for name in found if "pid=43" in name or "pid=44" in name] == []
    assert found["kemi_nsq_consumers{}"] == 1


def test_stages_are_summed_over_all_processes() -> None:
    found = samples(process(), process(pid=43), process(pid=44, role="", stages=dict.fromkeys(Stage, NONE)))
    assert found["kemi_nsq_stage_seconds_bucket{le=0.0005,stage=commit}"] == 6
    assert found["kemi_nsq_stage_seconds_bucket{le=+Inf,stage=commit}"] == 8
    assert found["kemi_nsq_stage_seconds_count{stage=commit}"] == 8
    assert found["kemi_nsq_stage_seconds_sum{stage=commit}"] == 25


def test_routes_and_topics_are_summed_and_their_names_escaped() -> None:
    found = samples(process(), process(pid=43))
    assert found['kemi_nsq_route_events_total{outcome=done,route=nsq:"x",topic=t}'] == 6
    assert found['kemi_nsq_route_seconds_bucket{le=10.0,route=nsq:"x",topic=t}'] == 6
    assert found['kemi_nsq_route_seconds_count{route=nsq:"x",topic=t}'] == 8
    assert found["kemi_nsq_topic_received_total{channel=c,topic=t}"] == 8


def test_what_is_wrong_is_1() -> None:
    found = samples(process(), process(pid=43, facts={"database": "since noon"}, state="stuck"))
    assert found["kemi_nsq_problem{fact=database}"] == 1
    assert found["kemi_nsq_problem{fact=stuck}"] == 1
    assert found["kemi_nsq_problem{fact=clocks}"] == 0


def test_a_lag_that_is_not_known_is_not_0() -> None:
    assert samples(process())["kemi_nsq_lag_messages{channel=c,topic=t}"] == 7
    found = samples(process(), depths_known=False)
    assert found["kemi_nsq_lag_known{}"] == 0
    assert [name for name in found if name.startswith("kemi_nsq_lag_messages")] == []


def test_versions_and_connections_are_told() -> None:
    found = samples(process())
    assert found["kemi_nsq_build_info{kamailio=5.6.3,node=proxy1,version=9.9}"] == 1
    assert found["kemi_nsq_connection_ready{channel=c,nsqd=127.0.0.1:4150,pid=42,topic=t}"] == 5


def test_a_kamailio_without_any_process_has_metrics_too() -> None:
    found = samples()
    assert (found["kemi_nsq_consumers{}"], found["kemi_nsq_health{}"]) == (0, 0)
    assert found["kemi_nsq_stage_seconds_count{stage=notify}"] == 0
