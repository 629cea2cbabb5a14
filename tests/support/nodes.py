# SPDX-License-Identifier: GPL-2.0-or-later
"""Two Kamailio nodes on one nsqd, with what they share and what each has alone chosen by the test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.chain import CONFIGURATIONS, TOPIC
from tests.support.database import create_database
from tests.support.kamailio import Kamailio, quoted
from tests.support.nsqd import Nsqd
from tests.support.sqlservers import SqlServer
from tests.support.stored import Execute, sqlite_execute
from tests.support.until import until
from tests.support.watcher import Watcher

NAMES = ("a", "b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One Kamailio and the database that it uses.

    Attributes:
        name: its NSQ_NODE.
        kamailio: the server.
        execute: runs an SQL statement in its database.
    """

    name: str
    kamailio: Kamailio
    execute: Execute

    def watcher(self) -> Watcher:
        """Return a watcher whose SUBSCRIBEs go to this node."""
        return Watcher(self.kamailio.sip_target)

    def users(self) -> set[str]:
        """Return the users that have a presentity row here."""
        return {str(user) for (user,) in self.execute("SELECT username FROM presentity")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """Both nodes and their nsqd."""

    nsqd: Nsqd
    a: Node
    b: Node


@contextmanager
def nodes(
    folder: Path,
    nsqd: Nsqd,
    *,
    server: SqlServer | None,
    channels: Mapping[str, str],
    config: Path | None = None,
    **defines: str | int,
) -> Iterator[Nodes]:
    """Run both nodes until they consume.

    Args:
        folder: where logs and data go.
        nsqd: what they consume from.
        server: the PostgreSQL that they share; without one, each has an SQLite file of its own.
        channels: the channel of each node, by name.
        config: a configuration instead of the shipped one.
        defines: more values for `#!define`.
    """
    shipped, script = CONFIGURATIONS["native"]
    with ExitStack() as stack:
        made = {}
        for name in NAMES:
            database = _database(folder / f"{name}.db", server)
            values: dict[str, str | int] = {
                "NSQ_SCRIPT": quoted(script),
                "NSQ_NODE": quoted(name),
                "NSQ_NSQD_TCP_ADDRESS": quoted(nsqd.tcp_address),
                "NSQ_LISTEN_CHANNEL": quoted(channels[name]),
                "NSQ_MAX_IN_FLIGHT": 1,
            }
            kamailio = Kamailio(config or shipped, folder / name, defines=values | database.defines | defines)
            made[name] = Node(name=name, kamailio=stack.enter_context(kamailio), execute=database.execute)
        clients = {channel: list(channels.values()).count(channel) for channel in channels.values()}
        for channel, count in clients.items():
            until(lambda: nsqd.channel(TOPIC, channel).clients == count, what="the consumers")  # noqa: B023  # called now
        yield Nodes(nsqd=nsqd, a=made["a"], b=made["b"])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Database:
    defines: dict[str, str | int]
    execute: Execute


def _database(path: Path, server: SqlServer | None) -> _Database:
    if server is None:
        create_database(path)
        return _Database(defines={"NSQ_DB_URL": quoted(f"sqlite:///{path}")}, execute=sqlite_execute(path))
    defines: dict[str, str | int] = {"NSQ_DB_URL": quoted(server.kamailio_url), "SIP_DB_POSTGRES": 1}
    return _Database(defines=defines, execute=server.execute)
