# SPDX-License-Identifier: GPL-2.0-or-later
"""Two Kamailio nodes: what may be shared, and who tells whom. docs/channels-and-nodes.md stands on these tests."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from tests.support.chain import CHANNEL, DOMAIN, SHIPPED, TOPIC, event
from tests.support.nodes import Node, nodes
from tests.support.notify import Notify
from tests.support.nsqd import Nsqd
from tests.support.sip_message import Address
from tests.support.sqlservers import SqlServer, postgresql
from tests.support.subscription import Subscription
from tests.support.until import until

SHARED, OWN = {"a": CHANNEL, "b": CHANNEL}, {"a": "node-a", "b": "node-b"}
CALLS = 40
#: Three of four tries show it.
TRIES = 20
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[SqlServer]:
    """Run the PostgreSQL that nodes share."""
    with postgresql() as server:
        yield server


@pytest.fixture
def nsqd(tmp_path: Path) -> Iterator[Nsqd]:
    """Run nsqd."""
    with Nsqd(tmp_path / "nsqd") as nsqd:
        yield nsqd


def somebody() -> str:
    return f"somebody{next(_numbers)}"


def call(nsqd: Nsqd, user: str, state: str) -> None:
    """Publish a state of a user's call."""
    fields = {"To": f"sip:bob@{DOMAIN}", "Call_ID": f"{user}-call", "Direction": "inbound", "State": state}
    nsqd.publish(TOPIC, event("dialog", user, **fields))


def uri(user: str) -> str:
    return f"sip:{user}@{DOMAIN}"


def shown(lamp: Subscription, state: str) -> Notify:
    """Wait for a NOTIFY about a call in this state."""
    return lamp.wait(lambda notify: notify.dialog_info.states == (state,), what=state, after=1, timeout_s=10)


def came_from(notify: Notify, node: Node) -> bool:
    """Whether a node's socket sent a NOTIFY."""
    via = next(value for name, value in notify.headers if name == "via")
    return f":{node.kamailio.sip_port};" in via


def contact_port(notify: Notify) -> int:
    contact = next(value for name, value in notify.headers if name == "contact")
    return int(Address.parse(contact).uri.rpartition(":")[2].partition(";")[0])


def all_drained(nsqd: Nsqd, *channels: str) -> None:
    for channel in channels:
        until(lambda: nsqd.channel(TOPIC, channel).drained and not nsqd.topic(TOPIC)["depth"], what="no more events")  # noqa: B023  # called now


def test_own_database_and_own_channel(tmp_path: Path, nsqd: Nsqd) -> None:
    """Each node has all: it tells its own watchers, from its own socket, also after it was away."""
    with nodes(tmp_path, nsqd, server=None, channels=OWN) as both, both.a.watcher() as at_a, both.b.watcher() as at_b:
        user = somebody()
        lamps = {both.a.name: at_a.subscribe(uri(user), "dialog"), both.b.name: at_b.subscribe(uri(user), "dialog")}
        call(nsqd, user, "early")
        for node in (both.a, both.b):
            assert came_from(shown(lamps[node.name], "early"), node)
        both.a.kamailio.stop()
        call(nsqd, user, "confirmed")
        shown(lamps["b"], "confirmed")
        both.a.kamailio.start()
        assert came_from(shown(lamps["a"], "confirmed"), both.a)
        assert both.a.users() == both.b.users() == {user}


def test_shared_database_and_shared_channel(tmp_path: Path, nsqd: Nsqd, server: SqlServer) -> None:
    """A watcher of A is told what B consumed: by B, from B's address; its refresh goes to A all the same."""
    with nodes(tmp_path, nsqd, server=server, channels=SHARED) as both, both.a.watcher() as at_a:
        users = [somebody() for _ in range(CALLS)]
        lamps = at_a.subscribe_many([uri(user) for user in users], "dialog")
        for state in ("early", "confirmed"):
            for user in users:
                call(nsqd, user, state)
            for lamp in lamps:
                shown(lamp, state)
        notifies = [notify for lamp in lamps for notify in lamp.notifies[1:]]
        by_b = [notify for notify in notifies if came_from(notify, both.b)]
        assert 0 < len(by_b) < len(notifies)
        assert {contact_port(notify) for notify in by_b} == {both.a.kamailio.sip_port}
        lamp = next(lamp for lamp in lamps if any(came_from(notify, both.b) for notify in lamp.notifies))
        lamp.refresh()
        lamp.wait(lambda notify: came_from(notify, both.a), what="the refresh, from A", after=3)
        # With one node away, the other one tells the watchers of both.
        both.a.kamailio.stop()
        call(nsqd, users[0], "terminated")
        assert came_from(shown(lamps[0], "terminated"), both.b)


@pytest.mark.parametrize(
    ("channels", "calls"), [(SHARED, ("one", "two")), (OWN, ("one",))], ids=["shared channel", "own channels"]
)
def test_a_shared_database_bears_no_two_consumers_at_once(
    tmp_path: Path, nsqd: Nsqd, server: SqlServer, channels: dict[str, str], calls: tuple[str, ...]
) -> None:
    """Wrong: Kamailio reads a subscription's CSeq, adds one and sends; two nodes at once send the same number twice.

    A watcher refuses the second NOTIFY. The table is right all the same. Here both nodes are made to store at once.
    """
    with nodes(tmp_path, nsqd, server=server, channels=channels) as both:
        for _ in range(TRIES):
            user, watcher = somebody(), both.a.watcher()
            watcher.subscribe(uri(user), "dialog")
            with table_locked(server) as waiting:
                for name in calls:
                    nsqd.publish(TOPIC, event("dialog", user, To=f"sip:bob@{DOMAIN}", Call_ID=name, State="early"))
                until(lambda: waiting() == 2, what="both nodes to wait")
            all_drained(nsqd, *channels.values())
            assert len(both.a.execute(f"SELECT 1 FROM presentity WHERE username = '{user}'")) == len(calls)
            with suppress(AssertionError):
                watcher.__exit__(None, None, None)
            if any("CSeq 2 after CSeq 2" in error for error in watcher.errors):
                return
    pytest.fail("both nodes told the watcher, and never with one number: is the page still right?")


@contextmanager
def table_locked(server: SqlServer) -> Iterator[Callable[[], int]]:
    """Let nobody write to the presentity table; yield what tells how many wait."""
    with psycopg.connect(server.kamailio_url.replace("postgres://", "postgresql://")) as connection:
        connection.execute("LOCK TABLE presentity IN EXCLUSIVE MODE")
        yield lambda: int(str(server.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")[0][0]))
        connection.commit()


def test_own_databases_and_a_shared_channel_lose_events(tmp_path: Path, nsqd: Nsqd) -> None:
    """Wrong: what one node consumed, the other one never learns."""
    with nodes(tmp_path, nsqd, server=None, channels=SHARED) as both, both.a.watcher() as at_a:
        users = [somebody() for _ in range(CALLS)]
        lamps = at_a.subscribe_many([uri(user) for user in users], "dialog")
        for user in users:
            call(nsqd, user, "early")
        all_drained(nsqd, CHANNEL)
        at_b = both.b.users()
        assert both.a.users() | at_b == set(users)
        assert not both.a.users() & at_b
        assert at_b, "B consumed nothing"
        for lamp, user in zip(lamps, users, strict=True):
            if user not in at_b:
                shown(lamp, "early")
            else:
                assert len(lamp.notifies) == 1


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_subscriptions_in_memory_are_known_to_their_own_node_alone(
    tmp_path: Path, nsqd: Nsqd, server: SqlServer, mode: int
) -> None:
    """Wrong with a shared channel: with `subs_db_mode` 0, 1 or 2 the consumer of B does not know the watchers of A."""
    config = tmp_path / "memory.cfg"
    config.write_text(f'include_file "{SHIPPED / "kamailio.cfg"}"\nmodparam("presence", "subs_db_mode", {mode})\n')
    away = {"a": "idle", "b": CHANNEL}
    with nodes(tmp_path, nsqd, server=server, channels=away, config=config) as both, both.a.watcher() as at_a:
        nsqd.http("POST", "/channel/pause", topic=TOPIC, channel="idle")
        user = somebody()
        lamp = at_a.subscribe(uri(user), "dialog")
        call(nsqd, user, "early")
        until(lambda: user in both.b.users(), what="the row")
        all_drained(nsqd, CHANNEL)
        lamp.refresh()
        shown(lamp, "early")
        assert len(lamp.notifies) == 2  # the first one, and that of the refresh: none for the event
