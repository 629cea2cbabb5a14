# SPDX-License-Identifier: GPL-2.0-or-later
"""SIP requests that a route publishes, against the same route that only builds the payload.

The plain socket in the same route shows what waiting for nsqd's OK alone costs, and two modules of Kamailio what one
would do without us: http_client waits for nsqd's HTTP interface, http_async_client does not. One Kamailio serves all,
in turn; the CPU time is that of all its processes. Every request must be one message.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from kemi_nsq.names import address
from tests.bench import load
from tests.bench.figures import Aim, Figure, Spoiled, check_once_each
from tests.bench.plain import drain
from tests.support.kamailio import Kamailio, quoted
from tests.support.nsqd import Nsqd
from tests.support.until import until

_WORKERS, _OPEN, _WARM_UP = 8, 32, 1_000
#: When a request is sent again, which spoils a run. A SIP worker waits while http_async_client's process has enough to
#: do, now and then for longer than usual.
_PATIENCE = {"UPDATE": "10s"}
_USUAL_PATIENCE = "500ms"
_BASELINE = "REGISTER"
_HTTP_ASYNC = "http_async_client"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """A way to publish: the method of `bench.cfg` that goes it, its topic, its name, and the aims of rate and CPU."""

    method: str
    topic: str
    name: str
    aims: tuple[Aim | None, Aim | None] = (None, None)


_WAYS = (
    _Way(
        method="REFER",
        topic="bench-async",
        name="nsq_publish_async",
        aims=(Aim(of="ratio", relation=">=", limit=0.45), Aim(of="ratio", relation="<=", limit=2.2)),
    ),
    _Way(
        method="PUBLISH",
        topic="bench-sip",
        name="nsq_publish",
        aims=(Aim(of="ratio", relation=">=", limit=0.24), Aim(of="ratio", relation="<=", limit=4.0)),
    ),
    _Way(method="SUBSCRIBE", topic="bench-plain", name="a plain socket"),
    _Way(method="NOTIFY", topic="bench-http", name="http_client"),
    _Way(method="UPDATE", topic="bench-http-async", name=_HTTP_ASYNC),
)


def measure(folder: Path, *, quick: bool) -> list[Figure]:
    """Send blocks of requests in turn, and read how fast they were answered and what they cost."""
    count, blocks = (2_000, 1) if quick else (10_000, 5)
    module = load.module(_HTTP_ASYNC)  # no package of Debian 12 has it
    ways = [way for way in _WAYS if way.name != _HTTP_ASYNC or module]
    with Nsqd(folder / "sip-nsqd", mem_queue_size=200_000) as nsqd:
        defines: dict[str, int | str] = {"BENCH_HTTP": nsqd.http_address}
        if module:
            defines["BENCH_HTTP_ASYNC"] = quoted(module)
        environment = {"BENCH_NSQD": nsqd.tcp_address}
        with load.server(folder / "sip", nsqd, _WORKERS, environment, **defines) as kamailio:
            rates, cpu_us = _blocks(kamailio, nsqd, ways, count, blocks)
            for way in ways:
                _check(nsqd, way.topic, _WARM_UP + blocks * count)
    return [
        Figure(
            measure=f"{name} with {way.name}",
            value=median(taken[way.method]),
            unit=unit,
            baseline=median(taken[_BASELINE]),
            aim=aim,
        )
        for way in ways
        for name, taken, unit, aim in (
            ("SIP", rates, "requests/s", way.aims[0]),
            ("Kamailio's CPU", cpu_us, "us/request", way.aims[1]),
        )
    ]


def _blocks(
    kamailio: Kamailio, nsqd: Nsqd, ways: Sequence[_Way], count: int, blocks: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return requests/s and microseconds of CPU a request, of each block, by method."""
    topics = {_BASELINE: ""} | {way.method: way.topic for way in ways}
    rates: dict[str, list[float]] = {method: [] for method in topics}
    cpu_us: dict[str, list[float]] = {method: [] for method in topics}
    program = load.build()
    load.wait_for_consumer(kamailio)
    for method in topics:  # every worker connects
        _rate(program, kamailio, method, _WARM_UP)
    for block in range(1, blocks + 1):
        for method, topic in topics.items():
            before_s = load.cpu_s(kamailio)
            rates[method].append(_rate(program, kamailio, method, count))
            if topic:  # what was handed over is work of this method, and not of the next
                _wait(nsqd, topic, _WARM_UP + block * count)
            cpu_us[method].append((load.cpu_s(kamailio) - before_s) / count * 1e6)
    return rates, cpu_us


def _rate(program: str, kamailio: Kamailio, method: str, count: int) -> float:
    retransmit = _PATIENCE.get(method, _USUAL_PATIENCE)
    return load.run(program, kamailio, method, count, open=_OPEN, retransmit=retransmit)["rate"]


def _wait(nsqd: Nsqd, topic: str, count: int) -> None:
    """Wait for all messages: what was handed over, to the relay say, comes a moment later.

    Raises:
        Spoiled: some did not come.
    """
    try:
        until(lambda: nsqd.topic(topic)["depth"] >= count, what=f"all messages of {topic}")
    except AssertionError:
        raise Spoiled(f"{count} messages of {topic} sent, {nsqd.topic(topic)['depth']} came") from None


def _check(nsqd: Nsqd, topic: str, count: int) -> None:
    """See that each request is one message."""
    bodies = drain(address(nsqd.tcp_address), topic, nsqd.topic(topic)["depth"])
    check_once_each([json.loads(body)["Call-ID"] for body in bodies], count, "requests")
