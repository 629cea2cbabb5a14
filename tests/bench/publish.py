# SPDX-License-Identifier: GPL-2.0-or-later
"""One publish after the other in one process, against a plain socket that sends the same bytes and reads the OK."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from gnsq import protocol

from kemi_nsq.names import address
from kemi_nsq.nsq.publisher import Publisher
from kemi_nsq.nsq.ways import Outgoing
from kemi_nsq.settings import Settings
from tests.bench.figures import Aim, Figure, Spoiled, check_once_each, percentile
from tests.bench.plain import PlainSocket, drain
from tests.support.nsqd import Nsqd

_BLOCK = 100
_BODY_SIZE = 500
#: Of the same length, so that the bytes are as many.
_TOPIC, _PLAIN_TOPIC = "bench-product", "bench-plain-1"


def measure(folder: Path, *, quick: bool) -> list[Figure]:
    """Publish blocks of 500-byte JSON, in turn by `Publisher` and by the plain socket."""
    blocks = 20 if quick else 200
    with Nsqd(folder / "publish", mem_queue_size=100_000) as nsqd:
        here = address(nsqd.tcp_address)
        publisher = Publisher(Settings(nsqd_tcp_address=(here,)))
        plain = PlainSocket(here)

        def by_product(number: int) -> None:
            publisher.publish(Outgoing(topic=_TOPIC, body=_body(number)))

        def by_plain(number: int) -> None:
            plain.send(protocol.publish(_PLAIN_TOPIC, _body(number)))
            if plain.frame()[1] != b"OK":
                raise Spoiled("nsqd refused a message of the plain socket")

        samples: dict[Callable[[int], None], list[float]] = {by_product: [], by_plain: []}
        for call in samples:
            call(0)  # connects, and creates the topic
        for block in range(blocks):
            for call, taken in samples.items():
                taken += [_timed_us(call, 1 + block * _BLOCK + number) for number in range(_BLOCK)]
        for topic in (_TOPIC, _PLAIN_TOPIC):
            check_once_each(drain(here, topic, nsqd.topic(topic)["depth"]), 1 + blocks * _BLOCK, "messages")
        plain.close()
    aims = {0.5: Aim(of="ratio", relation="<=", limit=1.5), 0.99: None}
    return [
        Figure(
            measure=f"publish p{share * 100:.0f}",
            value=percentile(samples[by_product], share),
            unit="us",
            baseline=percentile(samples[by_plain], share),
            aim=aim,
        )
        for share, aim in aims.items()
    ]


def _body(number: int) -> bytes:
    return b'{"Number":%010d,"Padding":"%s"}' % (10**9 + number, b"x" * (_BODY_SIZE - 35))


def _timed_us(call: Callable[[int], None], number: int) -> float:
    started = time.perf_counter_ns()
    call(number)
    return (time.perf_counter_ns() - started) / 1000
