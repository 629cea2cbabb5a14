# SPDX-License-Identifier: GPL-2.0-or-later
"""Routes that take longer than nsqd waits: each event runs once all the same."""

from __future__ import annotations

import json
from pathlib import Path

from tests.acceptance.conftest import blocking, custom_chain, with_handlers
from tests.support.chain import CHANNEL, TOPIC, Chain
from tests.support.until import until

#: Seconds after which nsqd delivers a message again, and that a route takes.
MSG_TIMEOUT_S, ROUTE_S = 1, 3
SLOW = b'{"Event-Category": "test", "Event-Name": "patient"}'
EVENTS = 2

PATIENT = f"""
@event_route("nsq:consumer-event-test-patient")
def patient(self, event):
    KSR.notice(f"test: patient {{event.attempts}} begins\\n")
    Never().wait({ROUTE_S})
    KSR.notice(f"test: patient {{event.attempts}} ends\\n")
"""


def ready_counts(chain: Chain) -> list[int]:
    """Return the RDY of each consumer of the channel."""
    stats = json.loads(chain.nsqd.http("GET", "/stats", format="json", topic=TOPIC, channel=CHANNEL))
    return [client["ready_count"] for client in stats["topics"][0]["channels"][0]["clients"]]


def ran(chain: Chain) -> int:
    """How often the route has run to its end."""
    return chain.kamailio.log_text().count("test: patient 1 ends")


def test_a_handler_that_waits_is_touched_and_runs_once(tmp_path: Path) -> None:
    """While it waits the I/O thread runs: it sends TOUCH, and RDY 0, so that others get what comes meanwhile."""
    (tmp_path / "patient.py").write_text(with_handlers(PATIENT))
    with custom_chain("kemi", tmp_path, script="patient.py", NSQ_MSG_TIMEOUT=MSG_TIMEOUT_S) as chain:
        chain.nsqd.publish_many(TOPIC, [SLOW] * EVENTS)
        until(lambda: ready_counts(chain) == [0], timeout_s=10, what="RDY 0")
        until(lambda: ran(chain) == EVENTS, timeout_s=15, what="the end of the handlers")
        until(lambda: ready_counts(chain) == [5], what="RDY as before")
        chain.drain()
        assert chain.nsqd.channel(TOPIC, CHANNEL).timed_out == 0
        assert chain.counter("received") == EVENTS
        until(lambda: chain.counter("stuck") == 1, what="the table to have what the I/O thread has counted")
    assert chain.complaints(("no message was answered for 2 s",)) == []


def test_a_native_route_that_blocks_runs_once_too(tmp_path: Path) -> None:
    """It keeps Python's lock, so there is no TOUCH: nsqd sends the event again, and that one is not handled twice."""
    config = blocking(tmp_path, "patient", ROUTE_S, "patient $var(nqAttempts)")
    with Chain("native", tmp_path, config=config, defines={"NSQ_MSG_TIMEOUT": MSG_TIMEOUT_S}) as chain:
        chain.nsqd.publish_many(TOPIC, [SLOW] * EVENTS)
        until(lambda: ran(chain) == EVENTS, timeout_s=15, what="the end of the routes")
        chain.drain()
        assert chain.nsqd.channel(TOPIC, CHANNEL).timed_out > 0
        assert chain.counter("received") == EVENTS
        assert chain.kamailio.alive()
    assert chain.kamailio.log_text().count(" begins") == EVENTS
