# SPDX-License-Identifier: GPL-2.0-or-later
"""The servers: two nsqlookupd, three nsqd, one PostgreSQL, and two Kamailio with the shipped configuration.

Each Kamailio has a channel and a database of its own, as docs/channels-and-nodes.md advises; both databases are in the
one PostgreSQL. So each event is handled by both, and each tells its own watchers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import psycopg

from kemi_nsq.names import address
from tests.bench.plain import drain
from tests.chaos.checks import Row, read_row
from tests.chaos.traffic import ORDER_FIELD, sequence_in
from tests.support.chain import CONFIGURATIONS, TOPIC
from tests.support.database import SCHEMAS, share_folder
from tests.support.kamailio import Kamailio, quoted
from tests.support.nsqd import Nsqd, NsqdStats, Nsqlookupd
from tests.support.sqlservers import SqlServer, postgresql
from tests.support.until import until

NAMES = ("a", "b")
DEAD_TOPIC = "dead"
#: The channel from which `drain` reads.
_DEAD_CHANNEL = "bench"
#: nsqd keeps nothing in memory but what is in flight, and says OK when the disk has it: so it may be killed.
_DURABLE = {"mem_queue_size": 0, "sync_every": 1}
_ROWS = "SELECT username, event, etag, expires, body FROM presentity"
_TRACE = "SELECT count(*), coalesce(sum(hashtext(etag || ruid || expires::text)), 0) FROM presentity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One Kamailio.

    Attributes:
        name: its NSQ_NODE and its channel.
        kamailio: the server.
        database: how psycopg reaches its database.
    """

    name: str
    kamailio: Kamailio
    database: str

    def rows(self) -> list[Row]:
        """Return its table."""
        found = _query(self.database, _ROWS)
        return [
            read_row(str(user), str(package), str(etag), int(str(expires)), bytes(body))  # type: ignore[call-overload]
            for user, package, etag, expires, body in found
        ]

    def trace(self) -> tuple[object, ...]:
        """Return something that differs after every change of its table."""
        return _query(self.database, _TRACE)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """All servers.

    Attributes:
        lookupds: the nsqlookupd.
        nsqds: the nsqd, by name.
        server: the PostgreSQL.
        nodes: the Kamailio.
        dead: what was read of the dead letters: name of the node, sequence and reason.
    """

    lookupds: Sequence[Nsqlookupd]
    nsqds: Mapping[str, Nsqd]
    server: SqlServer
    nodes: Sequence[Node]
    dead: list[tuple[str, int, str]] = field(default_factory=list)

    def busy(self) -> dict[tuple[str, str], str]:
        """Return in words what is left to do, by nsqd and channel: what waits, what is in flight, who is not there."""
        return {
            (name, channel): left
            for name, nsqd in self.nsqds.items()
            for channel, left in _left(nsqd.stats()).items()
            if left
        }

    def read_dead_letters(self) -> None:
        """Read the dead letters that have come."""
        for nsqd in self.nsqds.values():
            count = nsqd.topic(DEAD_TOPIC)["depth"] + nsqd.channel(DEAD_TOPIC, _DEAD_CHANNEL).depth
            for body in drain(address(nsqd.tcp_address), DEAD_TOPIC, count):
                letter = json.loads(body)
                self.dead.append((letter["Node"], sequence_in(letter["Payload"]), letter["Reason"]))


@contextmanager
def stage(folder: Path, defines: Mapping[str, str | int], between: Callable[[], None]) -> Iterator[Stage]:
    """Run all servers until both Kamailio consume from every nsqd.

    Args:
        folder: where logs and data go.
        defines: more values for `#!define`.
        between: called between two starts; what it raises ends all that was started.
    """
    with ExitStack() as stack:
        server = stack.enter_context(postgresql())
        lookupds = [stack.enter_context(Nsqlookupd(folder / f"nsqlookupd{number}")) for number in (1, 2)]
        known = [each.tcp_address for each in lookupds]
        nsqds = {
            name: stack.enter_context(Nsqd(folder / name, lookupd_tcp_address=known, **_DURABLE))
            for name in ("nsqd1", "nsqd2", "nsqd3")
        }
        between()
        for nsqd in nsqds.values():
            _announce(nsqd)
        made = Stage(lookupds=lookupds, nsqds=nsqds, server=server, nodes=[])
        nodes = [_node(name, folder / name, made, defines) for name in NAMES]
        for node in nodes:
            stack.enter_context(node.kamailio)
            between()
        made = replace(made, nodes=nodes)
        until(lambda: not made.busy(), timeout_s=20, what="the consumers")
        yield made


def _announce(nsqd: Nsqd) -> None:
    """Make topics and channels before anything is published: a channel keeps only what comes after its making."""
    for topic, channels in ((TOPIC, NAMES), (DEAD_TOPIC, (_DEAD_CHANNEL,))):
        nsqd.create_topic(topic)
        for channel in channels:
            nsqd.create_channel(topic, channel)


def _node(name: str, folder: Path, stage: Stage, defines: Mapping[str, str | int]) -> Node:
    database = f"node_{name}"
    url = f"{stage.server.kamailio_url.rpartition('/')[0]}/{database}"
    reached = url.replace("postgres://", "postgresql://")
    stage.server.execute(f"CREATE DATABASE {database}")
    for schema in SCHEMAS:
        _query(reached, share_folder("postgres").joinpath(schema).read_text(encoding="utf-8"))
    config, script = CONFIGURATIONS["native"]
    values: dict[str, str | int] = {
        "NSQ_SCRIPT": quoted(script),
        "NSQ_NODE": quoted(name),
        "NSQ_LISTEN_CHANNEL": quoted(name),
        "NSQ_LOOKUPD_ADDRESS": quoted(",".join(each.http_address for each in stage.lookupds)),
        "NSQ_NSQD_TCP_ADDRESS": quoted(",".join(each.tcp_address for each in stage.nsqds.values())),
        "NSQ_NSQD_ADDRESS": quoted(",".join(each.http_address for each in stage.nsqds.values())),
        "NSQ_DEAD_LETTER_TOPIC": quoted(DEAD_TOPIC),
        "NSQ_PUA_ORDER_FIELD": quoted(ORDER_FIELD),
        "NSQ_DB_URL": quoted(url),
        "SIP_DB_POSTGRES": 1,
    }
    return Node(name=name, kamailio=Kamailio(config, folder, defines=values | dict(defines)), database=reached)


def _query(database: str, sql: str) -> list[tuple[object, ...]]:
    with psycopg.connect(database, autocommit=True, connect_timeout=5) as connection:
        cursor = connection.execute(sql)
        return cursor.fetchall() if cursor.description else []


def _left(stats: NsqdStats) -> dict[str, str]:
    """Return in words what a channel has left to do, '' for nothing, by channel."""
    topic = next(each for each in stats["topics"] if each["topic_name"] == TOPIC)
    left = {}
    for each in topic["channels"]:
        waiting = topic["depth"] + each["depth"] + each["deferred_count"]
        counts = {"waiting": waiting, "in flight": each["in_flight_count"], "no consumer": not each["client_count"]}
        left[each["channel_name"]] = ", ".join(f"{name}: {int(count)}" for name, count in counts.items() if count)
    return left
