# SPDX-License-Identifier: GPL-2.0-or-later
"""How long an event takes at 100 a second: from publish to its route, and to its NOTIFY.

The route is compared with a plain consumer, to which every second message goes; the NOTIFY with a refresh by the
presence module alone. All clocks are the machine's monotonic one.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from gnsq import protocol

from kemi_nsq.names import address
from tests.bench.calls import URIS, call
from tests.bench.figures import Aim, Figure, Spoiled, percentile
from tests.bench.phones import Phones
from tests.bench.plain import PlainSocket
from tests.bench.routes import PLAIN_TOPIC, plain_consumer
from tests.bench.served import TOPIC, Served, database, served
from tests.support.until import until

_EVERY_S = 0.01
_WARM_UP = 20
#: Each has one event a second, so that the next NOTIFY of one belongs to its last event.
_WATCHED = URIS[:100]
#: By kamcmd, which waits ten seconds for its answer.
_ROUND = 500


def measure(folder: Path, *, quick: bool) -> list[Figure]:
    """Publish one event every 10 ms."""
    rounds = 1 if quick else 6
    seen, plain = folder / "latency-seen", folder / "latency-plain"
    with (
        database("sqlite", folder / "latency-database") as stored,
        served(stored, folder / "latency", environment={"BENCH_SEEN": str(seen)}) as server,
        plain_consumer(folder / "latency", server.nsqd, str(plain)),
    ):
        _publish_seen(server, _WARM_UP + rounds * _ROUND)
        told, alone = _notified(server, folder / "latency", rounds)
    return [
        *_figures("publish to route", _read(seen, rounds), _read(plain, rounds), 2.0),
        *_figures("publish to NOTIFY", told, alone, 2.2),
    ]


def _figures(measure: str, samples: Sequence[float], baseline: Sequence[float], most: float) -> list[Figure]:
    aims = {0.5: Aim(of="ratio", relation="<=", limit=most), 0.99: Aim(of="value", relation="<=", limit=20)}
    return [
        Figure(
            measure=f"{measure} p{share * 100:.0f}",
            value=percentile(samples, share) / 1000,
            unit="ms",
            baseline=percentile(baseline, share) / 1000,
            aim=aim,
        )
        for share, aim in aims.items()
    ]


def _publish_seen(server: Served, count: int) -> None:
    """Publish to the route and to the plain consumer, in turn."""
    publisher, pace = PlainSocket(address(server.nsqd.tcp_address)), _Pace(_EVERY_S / 2)
    for number in range(2 * count):
        fields = {"Event-Category": "bench", "Event-Name": "seen", "Sent": time.monotonic_ns(), "Padding": "x" * 300}
        publisher.send(protocol.publish((TOPIC, PLAIN_TOPIC)[number % 2], json.dumps(fields).encode()))
        assert publisher.frame()[1] == b"OK"
        pace.wait()
    publisher.close()
    until(lambda: server.nsqd.channel(TOPIC, TOPIC).drained, what="the last event")


def _read(path: Path, rounds: int) -> list[float]:
    lines = path.read_text(encoding="utf-8").splitlines()
    if len(lines) != _WARM_UP + rounds * _ROUND:
        raise Spoiled(f"{_WARM_UP + rounds * _ROUND} events sent, {len(lines)} seen")
    return [float(line) for line in lines[_WARM_UP:]]


def _notified(server: Served, folder: Path, rounds: int) -> tuple[list[float], list[float]]:
    """Return the microseconds of each event to its NOTIFY, and of each refresh alone to its."""
    told: list[float] = []
    alone: list[float] = []
    publisher = PlainSocket(address(server.nsqd.tcp_address))
    with Phones(server.kamailio.sip_target, _WATCHED) as phones:
        server.consume([call(number, "early") for number in range(len(_WATCHED))])
        until(lambda: phones.count() >= 2 * len(_WATCHED), what="the first NOTIFYs")
        for turn in range(rounds):
            phones.forget()
            told += _taken_us(phones, _publish_calls(publisher, turn * _ROUND))
            phones.forget()
            alone += _taken_us(phones, server.refresh(folder, _WATCHED, _ROUND, _EVERY_S))
    publisher.close()
    return told, alone


def _publish_calls(publisher: PlainSocket, first: int) -> list[int]:
    """Publish states that change each time; return the nanosecond at which each was."""
    sent_ns, pace = [], _Pace(_EVERY_S)
    for number in range(first, first + _ROUND):
        state = ("confirmed", "early")[number // len(_WATCHED) % 2]
        body = call(number % len(_WATCHED), state)
        sent_ns.append(time.monotonic_ns())
        publisher.send(protocol.publish(TOPIC, body))
        assert publisher.frame()[1] == b"OK"
        pace.wait()
    return sent_ns


def _taken_us(phones: Phones, began_ns: Sequence[int]) -> list[float]:
    """Match each beginning with its NOTIFY: the phones take turns.

    Raises:
        Spoiled: there were more NOTIFYs, or fewer.
    """
    phones.wait(len(began_ns), "NOTIFYs")
    rounds = [[heard.at_ns for heard in phones.heard[uri]] for uri in _WATCHED]
    came_ns = [rounds[number % len(_WATCHED)][number // len(_WATCHED)] for number in range(len(began_ns))]
    return [(came - began) / 1000 for came, began in zip(came_ns, began_ns, strict=True)]


class _Pace:
    """Waits so that the turns of a loop are evenly apart, however long each takes."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._next_s = time.monotonic()
        self._nobody_sets_this = threading.Event()

    def wait(self) -> None:
        """Wait for the next turn."""
        self._next_s += self._every_s
        self._nobody_sets_this.wait(max(0, self._next_s - time.monotonic()))
