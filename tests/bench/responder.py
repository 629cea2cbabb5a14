# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers queries on one topic after a fixed time: `python -m tests.bench.responder HOST:PORT TOPIC DELAY_S`.

It serves product and baseline alike, so it is plain. At its end (SIGTERM) it prints how many queries it held at once.
"""

from __future__ import annotations

import selectors
import signal
import sys
import time
from collections import deque

import orjson
from gnsq import protocol

from kemi_nsq.names import address
from tests.bench.plain import PlainSocket


def main(where: str, topic: str, delay: str) -> None:
    """Answer until SIGTERM."""
    requests, replies = PlainSocket(address(where), topic), PlainSocket(address(where))
    selector = selectors.DefaultSelector()
    selector.register(requests, selectors.EVENT_READ)
    selector.register(replies, selectors.EVENT_READ)
    held: deque[tuple[float, bytes]] = deque()
    most, delay_s = 0, float(delay)
    print("ready", flush=True)
    try:
        while True:
            wait_s = max(held[0][0] - time.monotonic(), 0) if held else None
            for key, _ in selector.select(wait_s):
                found = _read(key.fileobj)
                held.extend((time.monotonic() + delay_s, reply) for reply in found)
            most = max(most, len(held))
            while held and held[0][0] <= time.monotonic():
                replies.send(held.popleft()[1])
    except KeyboardInterrupt:
        print(f"most {most}", flush=True)


def _read(connection: object) -> list[bytes]:
    """Take what a socket has: finish each request and return the commands that publish its reply."""
    assert isinstance(connection, PlainSocket)
    connection.fill()
    found = []
    for kind, body in connection.frames():
        if kind == protocol.FRAME_TYPE_MESSAGE:
            asked = orjson.loads(body[26:])
            found.append(protocol.publish(asked["Server-ID"], orjson.dumps({"Msg-ID": asked["Msg-ID"], "ok": True})))
            connection.send(protocol.finish(body[10:26]))
        elif body == protocol.HEARTBEAT:
            connection.send(protocol.nop())
        else:
            assert body == b"OK", body
    return found


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main(*sys.argv[1:])
