# SPDX-License-Identifier: GPL-2.0-or-later
"""What the benchmark's Kamailio loads: kemi-nsq, and a function that measures queries inside a SIP worker."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

_CHECKOUT = Path(__file__).parents[2]
sys.path[:0] = [str(_CHECKOUT / "kamailio"), str(_CHECKOUT)]

import nsq  # noqa: E402, F401  # makes the package known

# isort: split
from gnsq import protocol  # noqa: E402

from kemi_nsq import NativeNsq  # noqa: E402
from kemi_nsq.names import address  # noqa: E402
from tests.bench.plain import PlainSocket  # noqa: E402

_BLOCK = 50
_REPLY_TOPIC = "bench-replies#ephemeral"


class Worker(NativeNsq):
    """kemi-nsq for a native configuration, and what is measured beside it."""

    _plain: PlainSocket | None = None

    def bench_plain(self, _msg: object, text: str) -> int:
        """Publish as `nsq_publish` does, over a plain socket: no check, no deadline, no counter."""
        if self._plain is None:
            self._plain = PlainSocket(address(os.environ["BENCH_NSQD"]))
        topic, _, payload = text.partition(" ")
        self._plain.send(protocol.publish(topic, payload.encode()))
        return 1 if self._plain.frame()[1] == b"OK" else -1

    def bench_query(self, _msg: object) -> int:
        """Measure $BENCH_COUNT queries and as many plain hops to the responder and back, in turn.

        Writes the microseconds of each, and how many queries failed, to $BENCH_RESULT.
        """
        count, where = int(os.environ["BENCH_COUNT"]), address(os.environ["BENCH_NSQD"])
        reader, writer = PlainSocket(where, _REPLY_TOPIC), PlainSocket(where)
        failed = 0

        def product(_number: int) -> float:
            nonlocal failed
            started = time.perf_counter_ns()
            failed += self.nsq_query(None, 'bench-query {"Request":"callevt"}') < 0
            return (time.perf_counter_ns() - started) / 1000

        def plain(number: int) -> float:
            nonlocal failed
            request = b'{"Request":"callevt","Msg-ID":"%036d","Server-ID":"%s"}' % (number, _REPLY_TOPIC.encode())
            started = time.perf_counter_ns()
            writer.send(protocol.publish("bench-query", request))
            message_id, reply = reader.message()
            taken_us = (time.perf_counter_ns() - started) / 1000
            reader.send(protocol.finish(message_id))
            failed += writer.frame()[1] != b"OK" or json.loads(reply)["Msg-ID"] != f"{number:036d}"
            return taken_us

        samples: dict[str, list[float]] = {"product": [], "plain": []}
        calls: dict[str, Callable[[int], float]] = {"product": product, "plain": plain}
        for start in range(0, count, _BLOCK):
            for name, call in calls.items():
                samples[name] += [call(number) for number in range(start, start + _BLOCK)]
        Path(os.environ["BENCH_RESULT"]).write_text(json.dumps(samples | {"failed": failed}), encoding="utf-8")
        return 1


def mod_init() -> Worker:
    """Return the object that `python_exec` calls."""
    return Worker()
