# SPDX-License-Identifier: GPL-2.0-or-later
"""A real Kamailio finds nsqd by an honest nsqlookupd among hostile ones: within 3 s of start, and of nsqd's return."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kemi_nsq.monitoring.status import look
from kemi_nsq.runtime.page import CONSUMER
from tests.support import hostile
from tests.support.chain import TOPIC, Chain, event
from tests.support.database import rows
from tests.support.hostile import HostileHttp, black_hole
from tests.support.kamailio import quoted
from tests.support.nsqd import Nsqlookupd
from tests.support.until import until

PROMISED_S = 3.0
AWAY_S = 5.0
EXPECTED_LINES = (
    r"nsqlookupd 127\.0\.0\.1:\d+: ",
    r"cannot connect to nsqd 127\.",
    r"lost .* at 127\.0\.0\.1",
    r"consuming .* at 127\.0\.0\.1:\d+ again",
)


@pytest.fixture
def lookupds(tmp_path: Path) -> Iterator[tuple[Nsqlookupd, list[str]]]:
    """Run an honest nsqlookupd, and return the addresses of hostile ones, too."""
    with ExitStack() as stack:
        port = stack.enter_context(black_hole())
        holes = hostile.nodes((f"127.{number // 250}.1.{number % 250 + 1}", port) for number in range(5000))
        odd = hostile.nodes([("a b", 4150), ("127.0.1.1", port)])
        behaviours = [
            hostile.drips_head,
            hostile.drips_body,
            hostile.says_nothing,
            hostile.huge_body,
            hostile.bomb(),
            hostile.redirects("http://127.0.0.1:1/nodes"),
            hostile.answer(odd),
            hostile.answer(holes),
        ]
        addresses = [stack.enter_context(HostileHttp(each)).address for each in behaviours]
        yield stack.enter_context(Nsqlookupd(tmp_path / "lookupd")), addresses


def stored(chain: Chain) -> set[str]:
    return {str(row["username"]) for row in rows(chain.database, "dialog")}


def is_consumed(chain: Chain, user: str, *, since: float) -> None:
    until(lambda: user in stored(chain), timeout_s=since + PROMISED_S - time.monotonic(), what=f"the call of {user}")


def call(user: str) -> bytes:
    return event("dialog", user, To="sip:bob@example.com", Call_ID=user, State="confirmed")


def test_consuming_at_start_and_at_nsqds_return(
    kind: str, tmp_path: Path, lookupds: tuple[Nsqlookupd, list[str]]
) -> None:
    honest, addresses = lookupds
    chain = Chain(
        kind,
        tmp_path,
        defines={"NSQ_LOOKUPD_ADDRESS": quoted(",".join([*addresses, honest.http_address]))},
        nsqd_options={"lookupd_tcp_address": honest.tcp_address},
    )
    with chain:
        started = time.monotonic()
        chain.nsqd.publish(TOPIC, call("first"))
        is_consumed(chain, "first", since=started)
        (consumer,) = [
            each for each in look(chain.kamailio.pages_folder, time.time()).processes if each.role == CONSUMER
        ]
        assert any(each.text.startswith("discovery: nsqlookupd 127.0.0.1:") for each in consumer.problems)

        chain.nsqd.stop()
        away_until = time.monotonic() + AWAY_S
        until(lambda: time.monotonic() > away_until, timeout_s=2 * AWAY_S, what="nsqd to be away for a while")
        chain.nsqd.start()
        returned = time.monotonic()
        chain.nsqd.publish(TOPIC, call("second"))
        is_consumed(chain, "second", since=returned)
    assert chain.complaints(EXPECTED_LINES) == []
