# SPDX-License-Identifier: GPL-2.0-or-later
"""Free ports on loopback, for servers that must have the same one when they start again.

They lie below those that the kernel hands out (ip(7), `ip_local_port_range`: from 32768 on), so nobody is given one
while its server is down. Each worker of pytest-xdist has ports of its own, and none comes again before all others have
come.
"""

from __future__ import annotations

import itertools
import os
import random
import socket

LOOPBACK = "127.0.0.1"

#: More workers than any machine has use for.
_WORKERS = 32
#: pytest-xdist's name for this process is gw0, gw1 and so on.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
_OWN = range(10_000 + _WORKER, 32_768, _WORKERS)
#: From anywhere on, so that two runs on one machine are not in each other's way.
_turn = itertools.islice(itertools.cycle(_OWN), random.randrange(len(_OWN)), None)


def free_tcp_port() -> int:
    """Return a TCP port of loopback that nobody uses at this moment."""
    return _free_port(socket.SOCK_STREAM)


def free_udp_port() -> int:
    """Return a UDP port of loopback that nobody uses at this moment."""
    return _free_port(socket.SOCK_DGRAM)


def _free_port(kind: socket.SocketKind) -> int:
    for port in itertools.islice(_turn, len(_OWN)):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
        return port
    raise AssertionError(f"all ports of {_OWN} are in use")
