# SPDX-License-Identifier: GPL-2.0-or-later
"""The presence server that is measured: nsqd, one of the databases, Kamailio with `lamps.cfg`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kemi_nsq.runtime.page import CONSUMER
from tests.bench import load
from tests.bench.figures import Spoiled
from tests.support.database import create_database
from tests.support.kamailio import Kamailio, quoted
from tests.support.nsqd import Nsqd
from tests.support.stored import SERVERS, Execute, sqlite_execute
from tests.support.until import until

TOPIC = CHANNEL = "kamailio"
#: What is measured with: enough in flight that a batch waits while another is handled.
IN_FLIGHT, BATCH = 800, 400
_HERE = Path(__file__).parent
_PUBLISHED_AT_ONCE = 1_000
_SHORT = 30
#: A NOTIFY occupies some 15 KB for the 5 s that tm keeps its transaction, and thousands leave in a second.
SHARED_MEMORY_MB = 512
#: Counters that must stay where they are in a run that has a figure.
_TROUBLE = (
    "requeued",
    "given_back",
    "gave_up",
    "unrouted",
    "invalid",
    "pua_invalid",
    "pua_database_error",
    "refresh_failed",
    "bug",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """A database with Kamailio's tables.

    Attributes:
        name: `sqlite`, `postgresql` or `mariadb`.
        kamailio_url: its URL as Kamailio writes it.
        defines: what the shipped configuration wants defined for it.
        execute: runs an SQL statement and returns its rows.
    """

    name: str
    kamailio_url: str
    defines: dict[str, str | int]
    execute: Execute


@contextmanager
def database(name: str, folder: Path) -> Iterator[Database]:
    """Start a database server, or make the file."""
    if name == "sqlite":
        folder.mkdir(parents=True, exist_ok=True)
        path = create_database(folder / "kamailio.db")
        yield Database(name=name, kamailio_url=f"sqlite:///{path}", defines={}, execute=sqlite_execute(path))
        return
    start, define = SERVERS[name]
    with start() as server:
        yield Database(name=name, kamailio_url=server.kamailio_url, defines={define: 1}, execute=server.execute)


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumed:
    """The monotonic nanosecond at which the first message could leave nsqd, and messages/s until the last FIN."""

    started_ns: int
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running presence server."""

    nsqd: Nsqd
    kamailio: Kamailio
    database: Database

    def consume(self, bodies: Sequence[bytes], topic: str = TOPIC, channel: str = CHANNEL) -> Consumed:
        """Let messages wait in a paused channel, then have them all consumed.

        Raises:
            Spoiled: nsqd had to send one of them again.
        """
        before = self.nsqd.channel(topic, channel)
        self.pause(True, topic, channel)
        for start in range(0, len(bodies), _PUBLISHED_AT_ONCE):
            self.nsqd.publish_many(topic, bodies[start : start + _PUBLISHED_AT_ONCE])
        until(lambda: self.nsqd.channel(topic, channel).depth == len(bodies), what="the messages to wait")
        started_ns = time.monotonic_ns()
        self.pause(False, topic, channel)
        until(lambda: self.nsqd.channel(topic, channel).drained, timeout_s=120, what="the messages to be consumed")
        taken_s = (time.monotonic_ns() - started_ns) / 1e9
        after = self.nsqd.channel(topic, channel)
        again = after.requeued - before.requeued + after.timed_out - before.timed_out
        if again or after.messages - before.messages != len(bodies):
            raise Spoiled(f"{again} of {len(bodies)} messages were sent again; {self.errors()}")
        return Consumed(started_ns=started_ns, rate=len(bodies) / taken_s)

    def pause(self, paused: bool, topic: str = TOPIC, channel: str = CHANNEL) -> None:
        """Pause a channel, or let it go on."""
        verb = "pause" if paused else "unpause"
        self.nsqd.http("POST", f"/channel/{verb}", topic=topic, channel=channel)

    def check_counters(self, **wanted: int) -> None:
        """Check some of kemi-nsq's counters, and that those which tell of trouble are 0.

        Raises:
            Spoiled: one has another value.
        """
        counters = dict.fromkeys(_TROUBLE, 0) | wanted
        found = {name: load.counter(self.kamailio, name) for name in counters}
        if found != counters:
            wrong = [f"{name} {found[name]}, not {value}" for name, value in counters.items() if found[name] != value]
            raise Spoiled(f"{'; '.join(wrong)}; {self.errors()}")

    def check_stored(self, count: int) -> None:
        """Check that so many messages came, and that each was stored and changed something.

        Raises:
            Spoiled: it was not so.
        """
        self.check_counters(received=count, pua_stored=count, pua_stale=0, pua_unchanged=0)

    def refresh(self, folder: Path, uris: Sequence[str], count: int, every_s: float = 0) -> list[int]:
        """Refresh watchers by the presence module alone; return the monotonic nanosecond at which each began."""
        result = folder / "refresh.json"
        wanted = {"uris": list(uris), "count": count, "every_s": every_s, "result": str(result)}
        self.kamailio.rpc("evrexec.run", "bench:refresh", json.dumps(wanted))
        began_ns: list[int] = json.loads(result.read_text(encoding="utf-8"))
        return began_ns

    def process(self, role: str) -> int:
        """Return the process id of the relay, or of the consumer where there is one."""
        (pid,) = (pid for pid, text in self.kamailio.pids().items() if text.endswith(role))
        return pid

    def cpu_of_consuming(self, bodies: Sequence[bytes]) -> tuple[Consumed, float]:
        """Have messages consumed as `consume` does; return also the CPU seconds that the one consumer took."""
        consumer = self.process(CONSUMER)
        before_s = load.cpu_of_s(consumer)
        consumed = self.consume(bodies)
        return consumed, load.cpu_of_s(consumer) - before_s

    def empty(self) -> None:
        """Delete all presentity rows."""
        self.database.execute("DELETE FROM presentity")

    def errors(self) -> str:
        """Return Kamailio's last errors."""
        lines = [line for line in self.kamailio.log_text().splitlines() if "ERROR" in line or "CRITICAL" in line]
        return "\n".join(lines[-_SHORT:])


@contextmanager
def served(
    stored: Database,
    folder: Path,
    *,
    consumers: int = 1,
    environment: dict[str, str] | None = None,
    **defines: str | int,
) -> Iterator[Served]:
    """Run the presence server, and wait until its consumers have subscribed."""
    with Nsqd(folder / "nsqd", mem_queue_size=200_000) as nsqd:
        nsqd.create_topic(TOPIC)
        nsqd.create_channel(TOPIC, CHANNEL)
        made: dict[str, str | int] = {
            "NSQ_SCRIPT": quoted(_HERE / "lamps.py"),
            "NSQ_NSQD_TCP_ADDRESS": quoted(nsqd.tcp_address),
            "NSQ_DB_URL": quoted(stored.kamailio_url),
            "NSQ_CONSUMERS": consumers,
            "NSQ_MAX_IN_FLIGHT": IN_FLIGHT,
            "NSQ_BATCH": BATCH,
            **stored.defines,
        } | defines
        with Kamailio(
            _HERE / "lamps.cfg",
            folder / "kamailio",
            defines=made,
            environment=environment,
            shared_memory_mb=SHARED_MEMORY_MB,
        ) as kamailio:
            until(lambda: nsqd.channel(TOPIC, CHANNEL).clients == consumers, timeout_s=10, what="the subscriptions")
            yield Served(nsqd=nsqd, kamailio=kamailio, database=stored)
