# SPDX-License-Identifier: GPL-2.0-or-later
"""Outages of the database: no event is lost, whatever its limit of attempts, and what needs no database goes on.

`OUTAGE_S` and `OUTAGE_EVENTS` of the environment make the long one longer: 600 and 10000 are the issue's own numbers.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import sqlservers
from tests.support.chain import CHANNEL, SHIPPED, TOPIC, Chain, event
from tests.support.kamailio import quoted
from tests.support.responding import Responding
from tests.support.stored import SERVERS
from tests.support.until import until

#: A publisher keeps its connections as long as its process lives, so the responder's has no `close`.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

PLAIN, DEAD = "plain", "dead"
OUTAGE_S, EVENTS = float(os.environ.get("OUTAGE_S", "5")), int(os.environ.get("OUTAGE_EVENTS", "2000"))
#: So soon after the end of an outage all is to be consumed; the machine of the tests may be slow.
PROMISED_S, PATIENCE_S = 5.0, 30.0
MAX_ATTEMPTS = 2

#: What Kamailio's own modules, which have the same database, say of an outage.
KAMAILIO_SAYS = (r"db_postgres", r"presence \[", r"<core> \[db", r"usrloc", r"registrar", r"pua ", r"db_\w+\.c")
STARTS, ENDS = "kemi-nsq: the database fails: ", "kemi-nsq: the database works again, after "
WE_SAY = ("kemi-nsq: the database fails", ENDS)

ROUTES = f"""include_file "{SHIPPED}/kamailio.cfg"
debug=1
event_route[nsq:consumer-event-test-plain] {{
    xlog("L_NOTICE", "test: plain $(var(nqE){{json.parse,n}})\\n");
}}
event_route[nsq:consumer-event-test-ask] {{
    python_exec("nsq_query", "where {{\\"n\\": 1}}");
    xlog("L_NOTICE", "test: replied $var(nqR)\\n");
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A chain, and the server of its database."""

    chain: Chain
    server: sqlservers.SqlServer

    def rows(self, state: str = "confirmed") -> int:
        """Return how many rows show a state of a call."""
        bodies = (body for (body,) in self.server.execute("SELECT body FROM presentity"))
        return sum(isinstance(body, bytes) and f"<state>{state}</state>".encode() in body for body in bodies)

    def says(self, text: str) -> list[str]:
        """Return the lines of the log that have a text."""
        return [line for line in self.chain.kamailio.log_text().splitlines() if text in line]


@contextmanager
def running(folder: Path, database: str = "postgresql") -> Iterator[Running]:
    config = folder / "outage.cfg"
    config.write_text(ROUTES)
    start, define = SERVERS[database]
    with start() as server:
        wanted: dict[str, str | int] = {
            define: 1,
            "NSQ_DB_URL": quoted(server.kamailio_url),
            "NSQ_TOPIC_CHANNEL": quoted(f"{TOPIC}:{CHANNEL},{PLAIN}:{CHANNEL}"),
            "NSQ_MAX_ATTEMPTS": MAX_ATTEMPTS,
            "NSQ_MAX_IN_FLIGHT": 100,
            "NSQ_DEAD_LETTER_TOPIC": DEAD,
        }
        with Chain("native", folder, config=config, defines=wanted, nsqd_options={"mem_queue_size": 50_000}) as chain:
            yield Running(chain=chain, server=server)
            assert chain.kamailio.alive()
        assert chain.complaints((*KAMAILIO_SAYS, *WE_SAY)) == []


def calls(first: int, count: int, state: str) -> list[bytes]:
    fields = {"To": "sip:bob@example.com", "Call_ID": "c", "State": state}
    return [event("dialog", f"user{number}", **fields) for number in range(first, first + count)]


def check_nothing_lost(running: Running, count: int, ended_at: float) -> float:
    """Wait until all is consumed, and look whether it is right; return the seconds since the end of the outage."""
    running.chain.drain(timeout_s=PATIENCE_S)
    consumed_s = time.monotonic() - ended_at
    assert running.rows() == count
    counters = running.chain.counters()
    assert {"gave_up", "dead_letters", "restarted", "bug"}.isdisjoint(counters), counters
    return consumed_s


@pytest.mark.parametrize("database", SERVERS)
def test_an_outage_costs_no_event_anything(database: str, tmp_path: Path) -> None:
    with (
        running(tmp_path, database) as r,
        Responding(r.chain.nsqd, "where", lambda _: {"at": "home"}) as responding,
        r.chain.watcher() as watcher,
    ):
        r.chain.nsqd.publish_many(TOPIC, calls(0, 100, "early"))
        lamp = watcher.subscribe("sip:user1@example.com", "dialog")
        r.chain.drain()
        with r.server.outage():
            began = time.monotonic()
            for first in range(0, EVENTS, 1000):
                r.chain.nsqd.publish_many(TOPIC, calls(first, min(1000, EVENTS - first), "confirmed"))
            until(lambda: r.says(STARTS), timeout_s=15, what="the line about the start")
            until(lambda: r.chain.nsqd.channel(TOPIC, CHANNEL).in_flight == 0, what="all to be given back")
            r.chain.publish(json.dumps({"Event-Category": "test", "Event-Name": "plain", "n": 7}).encode(), topic=PLAIN)
            until(lambda: r.says("test: plain 7"), what="an event that needs no database")
            r.chain.publish(b'{"Event-Category": "test", "Event-Name": "ask"}', topic=PLAIN)
            until(lambda: r.says('"at":"home"'), what="the reply to a query")
            assert len(responding.requests) == 1
            assert r.chain.counter("outages") == 1
            until(lambda: time.monotonic() - began >= OUTAGE_S, timeout_s=OUTAGE_S + 5, what="the outage to be long")
            depth = r.chain.nsqd.channel(TOPIC, CHANNEL).depth
            requeued = r.chain.nsqd.channel(TOPIC, CHANNEL).requeued
            assert (depth, requeued <= 100 + 5) == (EVENTS, True), "given back once"
        ended_at = time.monotonic()
        consumed_s = check_nothing_lost(r, EVENTS, ended_at)
        print(f"{EVENTS} events were consumed {consumed_s:.1f} s after the return of the database")
        lamp.wait(lambda notify: notify.dialog_info.states == ("confirmed",), what="the lamp", after=1, timeout_s=10)
        until(lambda: r.says(ENDS), what="the line about the end")
        assert (len(r.says(STARTS)), len(r.says(ENDS))) == (1, 1)
        minutes = r.says("kemi-nsq: the database fails, for ")
        assert len(minutes) == int(OUTAGE_S // 60)
        assert consumed_s < PATIENCE_S
        assert "stuck" not in r.chain.counters()


def test_a_database_that_takes_no_writes_is_an_outage_too(tmp_path: Path) -> None:
    """A read would succeed, so only a write can tell that it is over."""
    with running(tmp_path) as r:
        r.chain.nsqd.publish_many(TOPIC, calls(0, 10, "early"))
        r.chain.drain()
        set_read_only(r.server, read_only=True)
        r.chain.nsqd.publish_many(TOPIC, calls(0, 200, "confirmed"))
        until(lambda: r.says(STARTS), timeout_s=15, what="the line about the start")
        began = time.monotonic()
        until(lambda: time.monotonic() - began > 5, timeout_s=10, what="some probes")
        assert r.says(ENDS) == []
        set_read_only(r.server, read_only=False)
        consumed_s = check_nothing_lost(r, 200, time.monotonic())
        print(f"200 events were consumed {consumed_s:.1f} s after the database took writes again")
        until(lambda: r.says(ENDS), what="the line about the end")
        assert (len(r.says(STARTS)), len(r.says(ENDS))) == (1, 1)


def set_read_only(server: sqlservers.SqlServer, *, read_only: bool) -> None:
    """Let the sessions of Kamailio's database write, or not; those that are open are ended, as by a failover."""
    value = "on" if read_only else "off"
    server.execute(
        f"SET transaction_read_only = off; ALTER DATABASE kamailio SET default_transaction_read_only = {value}"
    )
    if read_only:
        server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND datname = 'kamailio'"
        )
