# SPDX-License-Identifier: GPL-2.0-or-later
"""SIP requests that a route publishes, against the same route that only builds the payload.

The plain socket in the same route shows what waiting for nsqd's OK alone costs. One Kamailio serves all, in turn; the
CPU time is that of all its processes. Every request must be one message.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

from kemi_nsq.names import address
from tests.bench import load
from tests.bench.figures import Aim, Figure, check_once_each
from tests.bench.plain import drain
from tests.support.nsqd import Nsqd
from tests.support.until import until

_WORKERS, _OPEN = 8, 32
_BASELINE = "REGISTER"
#: Methods of `bench.cfg` that publish, and their topics.
_TOPICS = {"REFER": "bench-async", "PUBLISH": "bench-sip", "SUBSCRIBE": "bench-plain"}
_METHODS = (_BASELINE, *_TOPICS)


def measure(folder: Path, *, quick: bool) -> list[Figure]:
    """Send blocks of requests in turn, and read how fast they were answered and what they cost."""
    count, blocks = (2_000, 1) if quick else (10_000, 5)
    rates: dict[str, list[float]] = {method: [] for method in _METHODS}
    cpu_us: dict[str, list[float]] = {method: [] for method in _METHODS}
    program = load.build()
    with (
        Nsqd(folder / "sip-nsqd", mem_queue_size=200_000) as nsqd,
        load.server(folder / "sip", nsqd, _WORKERS, {"BENCH_NSQD": nsqd.tcp_address}) as kamailio,
    ):
        load.wait_for_consumer(kamailio)
        for method in _METHODS:  # every worker connects
            load.run(program, kamailio, method, 1_000, open=_OPEN)
        for _ in range(blocks):
            for method in _METHODS:
                before_s = load.cpu_s(kamailio)
                rates[method].append(load.run(program, kamailio, method, count, open=_OPEN)["rate"])
                cpu_us[method].append((load.cpu_s(kamailio) - before_s) / count * 1e6)
        for topic in _TOPICS.values():
            _check(nsqd, topic, 1_000 + blocks * count)
    aims = {
        "REFER": (Aim(of="ratio", relation=">=", limit=0.45), Aim(of="ratio", relation="<=", limit=2.2)),
        "PUBLISH": (Aim(of="ratio", relation=">=", limit=0.24), Aim(of="ratio", relation="<=", limit=4.0)),
        "SUBSCRIBE": (None, None),
    }
    what = {"REFER": "nsq_publish_async", "PUBLISH": "nsq_publish", "SUBSCRIBE": "a plain socket"}
    return [
        Figure(
            measure=f"{name} with {what[method]}",
            value=median(taken[method]),
            unit=unit,
            baseline=median(taken[_BASELINE]),
            aim=aims[method][index],
        )
        for method in _TOPICS
        for index, (name, taken, unit) in enumerate(
            (("SIP", rates, "requests/s"), ("Kamailio's CPU", cpu_us, "us/request"))
        )
    ]


def _check(nsqd: Nsqd, topic: str, count: int) -> None:
    """See that each request is one message; what the relay holds comes a moment later."""
    until(lambda: nsqd.topic(topic)["depth"] >= count, what=f"all messages of {topic}")
    bodies = drain(address(nsqd.tcp_address), topic, nsqd.topic(topic)["depth"])
    check_once_each([json.loads(body)["Call-ID"] for body in bodies], count, "requests")
