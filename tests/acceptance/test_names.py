# SPDX-License-Identifier: GPL-2.0-or-later
"""A SIP worker of a real Kamailio publishes to a nsqd whose name does not resolve: its call ends in time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.calls import Caller, calls_chain, result
from tests.support.kamailio import quoted
from tests.support.until import until

PUBLISH_TIMEOUT_S = 0.3
#: How late an answer may be on a busy machine.
LATE_S = 0.2

#: A name server that does not answer, as far as one name is asked for.
SCRIPT = """
import socket
import threading

import nsq

real = socket.getaddrinfo

def getaddrinfo(host, *arguments, **options):
    if host == "hangs.example.com" and not options["flags"]:
        threading.Event().wait(HANGS_S)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]
    return real(host, *arguments, **options)

socket.getaddrinfo = getaddrinfo
mod_init = nsq.mod_init
"""


@pytest.mark.parametrize("hangs_s", [60.0, 1.0])
def test_a_resolver_that_hangs_costs_a_worker_no_more_than_the_timeout(tmp_path: Path, hangs_s: float) -> None:
    """Nor a resolver that is slower than the timeout for good: what it said late is used by the next call."""
    script = tmp_path / "names.py"
    script.write_text(SCRIPT.replace("HANGS_S", str(hangs_s)))
    with (
        calls_chain(
            "native",
            tmp_path,
            TEST_CHILDREN=1,
            NSQ_SCRIPT=quoted(script),
            NSQ_PUBLISH_TIMEOUT=str(PUBLISH_TIMEOUT_S),
            NSQ_PUBLISH_TRANSPORT="http",
            NSQ_NSQD_ADDRESS=quoted("hangs.example.com:1"),
        ) as chain,
        Caller(chain.kamailio.sip_target) as caller,
    ):
        for _ in range(3):
            started = time.monotonic()
            assert result(caller.call("nsq_publish", "names {}").wait())[0] == -1
            assert time.monotonic() - started < PUBLISH_TIMEOUT_S + LATE_S

        def is_said(reason: str) -> bool:
            assert result(caller.call("nsq_publish", "names {}").wait())[0] == -1
            return reason in chain.kamailio.log_text()

        assert is_said("hangs.example.com:1: the name does not resolve in time")
        if hangs_s < PUBLISH_TIMEOUT_S * 10:
            until(lambda: is_said("hangs.example.com:1: Connection refused"), timeout_s=15, what="the late answer")
