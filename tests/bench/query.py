# SPDX-License-Identifier: GPL-2.0-or-later
"""Queries. `query`: their time inside a SIP worker; `waiting`: many that wait for a slow responder, and the SIP beside.

The baseline of `query` is two plain NSQ hops: a plain socket of the same worker publishes to the same responder, which
publishes back to another plain socket of it.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench import load
from tests.bench.figures import Aim, Figure, Spoiled, percentile
from tests.support.kamailio import Kamailio
from tests.support.nsqd import Nsqd
from tests.support.process import ChildProcess

_TOPIC = "bench-query"
_IN_FLIGHT = 1_000
_DELAY_S = 0.5
#: At this rate more than 1,000 wait before the first is answered, even where some are late.
_ASYNC, _RAMP_S = 1_200, 0.54
_PROBE_EVERY_S = 0.002


def measure(folder: Path, *, quick: bool) -> list[Figure]:
    """Measure the round trip of queries inside one SIP worker of Kamailio."""
    count = 2_000 if quick else 20_000
    result = folder / "query.json"
    program = load.build()
    with Nsqd(folder / "query-nsqd") as nsqd, _responder(folder, nsqd, 0.0):
        environment = {"BENCH_COUNT": str(count), "BENCH_RESULT": str(result), "BENCH_NSQD": nsqd.tcp_address}
        with load.server(folder / "query", nsqd, 1, environment) as kamailio:
            load.wait_for_consumer(kamailio)
            load.run(program, kamailio, "INFO", 1, retransmit="300s", attempts=1)
            found = json.loads(result.read_text(encoding="utf-8"))
            _check(kamailio, nsqd, count, asked=2 * count, failed=found["failed"])
    aims = {0.5: Aim(of="ratio", relation="<=", limit=1.7), 0.99: None}
    return [
        Figure(
            measure=f"query in a SIP worker p{share * 100:.0f}",
            value=percentile(found["product"], share),
            unit="us",
            baseline=percentile(found["plain"], share),
            aim=aim,
        )
        for share, aim in aims.items()
    ]


def measure_waiting(folder: Path, *, quick: bool) -> list[Figure]:
    """Let 1,000 transactions wait for a responder that takes half a second, and send OPTIONS meanwhile."""
    rounds = 1 if quick else 5
    program = load.build()
    most = _ASYNC
    latencies: list[float] = []
    with Nsqd(folder / "waiting-nsqd") as nsqd, load.server(folder / "waiting", nsqd, 2) as kamailio:
        load.wait_for_consumer(kamailio)
        for done in range(1, rounds + 1):
            with _responder(folder, nsqd, _DELAY_S) as responder, _probing(kamailio, latencies):
                load.run(program, kamailio, "MESSAGE", _ASYNC, open=_ASYNC, ramp=f"{_RAMP_S}s", retransmit="10s")
            most = min(most, int(responder.wait_for_log(r"^most (\d+)$")[1]))
            _check(kamailio, nsqd, done * _ASYNC, asked=done * _ASYNC, failed=0)
    return [
        Figure(measure="async queries answered", value=rounds * _ASYNC, unit="", baseline=rounds * _ASYNC),
        Figure(
            measure="async queries waiting at once",
            value=most,
            unit="",
            baseline=_IN_FLIGHT,
            aim=Aim(of="ratio", relation=">=", limit=1),
        ),
        Figure(
            measure="OPTIONS in between p99",
            value=percentile(latencies, 0.99),
            unit="ms",
            aim=Aim(of="value", relation="<=", limit=20),
        ),
    ]


def _check(kamailio: Kamailio, nsqd: Nsqd, queries: int, *, asked: int, failed: int) -> None:
    """Check that each request was sent once and each reply came once, and was taken.

    Raises:
        Spoiled: something was lost or doubled.
    """
    (reply_topic,) = nsqd.reply_topics()
    found = {
        "failed": (failed, 0),
        "queried": (load.counter(kamailio, "queried"), queries),
        "query_failed": (load.counter(kamailio, "query_failed"), 0),
        "reply_dropped": (load.counter(kamailio, "reply_dropped"), 0),
        "resume_failed": (load.counter(kamailio, "resume_failed"), 0),
        "requests": (nsqd.topic(_TOPIC)["message_count"], asked),
        "replies": (nsqd.topic(reply_topic)["message_count"], queries),
    }
    if wrong := [f"{name} {seen}, not {wanted}" for name, (seen, wanted) in found.items() if seen != wanted]:
        raise Spoiled("; ".join(wrong))


@contextmanager
def _responder(folder: Path, nsqd: Nsqd, delay_s: float) -> Iterator[ChildProcess]:
    command = [sys.executable, "-m", "tests.bench.responder", nsqd.tcp_address, _TOPIC, str(delay_s)]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = ChildProcess("responder", command, folder=folder, environment=environment)
    try:
        process.wait_for_log("^ready$")
        yield process
    finally:
        process.stop()


@contextmanager
def _probing(kamailio: Kamailio, latencies_ms: list[float]) -> Iterator[None]:
    """Send one OPTIONS after the other beside what the body does, and keep how many milliseconds each took."""
    done = threading.Event()
    thread = threading.Thread(target=_probe, args=(kamailio.sip_target, done, latencies_ms))
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _probe(target: tuple[str, int], done: threading.Event, latencies_ms: list[float]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(target)
        probe.settimeout(5)
        here = "{}:{}".format(*probe.getsockname())
        number = 0
        while not done.wait(_PROBE_EVERY_S):
            number += 1
            started = time.perf_counter()
            probe.send(_options(here, number))
            probe.recv(65536)
            latencies_ms.append((time.perf_counter() - started) * 1000)


def _options(here: str, number: int) -> bytes:
    lines = (
        "OPTIONS sip:probe SIP/2.0",
        f"Via: SIP/2.0/UDP {here};branch=z9hG4bKprobe{number}",
        f"From: <sip:probe@example.test>;tag={number}",
        "To: <sip:probe@example.test>",
        f"Call-ID: probe-{number}",
        f"CSeq: {number} OPTIONS",
        "Max-Forwards: 70",
        "Content-Length: 0",
    )
    return "\r\n".join((*lines, "", "")).encode()
