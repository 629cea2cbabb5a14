# SPDX-License-Identifier: GPL-2.0-or-later
"""The baseline of the routes: a plain consumer, `python -m tests.bench.sink HOST:PORT TOPIC [FILE]`.

It finishes each message and does nothing else; given a file, it writes to it how many microseconds ago each was
published, by the field `Sent`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import orjson
from gnsq import protocol

from kemi_nsq.names import address
from tests.bench.plain import PlainSocket

READY = 100


def main(where: str, topic: str, result: str = "") -> None:
    """Consume until SIGTERM."""
    connection = PlainSocket(address(where), topic, ready=READY)
    print("ready", flush=True)
    while True:
        connection.fill()
        bodies, answers = [], []
        for kind, body in connection.frames():
            if kind == protocol.FRAME_TYPE_MESSAGE:
                bodies.append(body[26:])
                answers.append(protocol.finish(body[10:26]))
            elif body == protocol.HEARTBEAT:
                answers.append(protocol.nop())
        now_ns = time.monotonic_ns()
        connection.send(b"".join(answers))
        if result and bodies:
            with Path(result).open("a", encoding="utf-8") as seen:
                seen.writelines(f"{(now_ns - orjson.loads(body)['Sent']) / 1000}\n" for body in bodies)


if __name__ == "__main__":
    main(*sys.argv[1:])
