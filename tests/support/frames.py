# SPDX-License-Identifier: GPL-2.0-or-later
"""What nsqd writes to a client, as bytes (NSQ TCP protocol spec, "Data Format")."""

from __future__ import annotations

import json
import struct

RESPONSE, ERROR, MESSAGE = 0, 1, 2


def frame(kind: int, body: bytes) -> bytes:
    """Return one frame: size, type, body."""
    return struct.pack(">ii", len(body) + 4, kind) + body


def ok() -> bytes:
    """Return the answer to a command that nsqd accepted."""
    return frame(RESPONSE, b"OK")


def heartbeat() -> bytes:
    """Return nsqd's question whether the client lives."""
    return frame(RESPONSE, b"_heartbeat_")


def error(text: str) -> bytes:
    """Return an error frame: `error("E_INVALID what is wrong")`."""
    return frame(ERROR, text.encode())


def identified(*, max_rdy: int = 2500, msg_timeout_ms: int = 60_000, version: str = "1.3.0") -> bytes:
    """Return nsqd's answer to IDENTIFY, as far as a client reads it."""
    answer = {"max_rdy_count": max_rdy, "msg_timeout": msg_timeout_ms, "version": version, "tls_v1": False}
    return frame(RESPONSE, json.dumps(answer).encode())


def message(body: bytes, *, message_id: bytes = b"0123456789abcdef", attempts: int = 1, timestamp_ns: int = 7) -> bytes:
    """Return a message; `attempts` has 16 bits without a sign."""
    return frame(MESSAGE, struct.pack(">qH", timestamp_ns, attempts) + message_id + body)
