# SPDX-License-Identifier: GPL-2.0-or-later
"""Presence updates a second, stored and acknowledged: without watchers, and with 500 of them.

Each update is one event that changes one row. Without watchers the baseline is a plain driver that writes the same
rows, each durable by itself. With watchers it is the presence module, asked in a loop to tell them: what is measured
then lasts until the last NOTIFY.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from kemi_nsq.presence.row import TOMBSTONE_BODY
from tests.bench.baseline import plain_rate
from tests.bench.calls import PRESENTITIES, STATES, URIS, call, row, waves
from tests.bench.figures import Aim, Figure, Spoiled
from tests.bench.phones import Phones
from tests.bench.served import Database, Served, database, served
from tests.support.until import until

CONSUMERS = (1, 2)
#: Of the ratio, by the number of consumers.
_AIMS = {1: 3.8, 2: 5.0}
#: Of the ratio of subscriptions in memory to those in the database.
_AIMS_IN_MEMORY = {"sqlite": 2.0, "postgresql": 1.8, "mariadb": 1.8}
_WARM_UP = 400
_HIDDEN_S = 5


def measure(folder: Path, *, name: str, quick: bool) -> list[Figure]:
    """Measure one database, with one consumer and with two."""
    calls, blocks = (4_000, 1) if quick else (8_000, 5)
    with database(name, folder / f"{name}-updates") as stored:
        return [_unwatched(stored, folder / f"{name}-updates-{each}", each, calls, blocks) for each in CONSUMERS]


def measure_watched(folder: Path, *, name: str, quick: bool) -> list[Figure]:
    """Measure one database, with one consumer and with two, while each presentity is watched."""
    blocks = 1 if quick else 5
    with database(name, folder / f"{name}-watched") as stored:
        return [_watched(stored, folder / f"{name}-watched-{each}", each, blocks) for each in CONSUMERS]


def measure_in_memory(folder: Path, *, name: str, quick: bool) -> list[Figure]:
    """Measure one database with two consumers and subscriptions in memory, against those in the database, in turns."""
    consumers, rates = max(CONSUMERS), (list[float](), list[float]())
    with ExitStack() as stack:
        ready = [stack.enter_context(_ready(folder, name, consumers, in_memory)) for in_memory in (True, False)]
        for block in range(1, 4 if quick else 11):
            for (server, phones), told in zip(ready, rates, strict=True):
                server.empty()
                phones.forget()
                told.append(_told_rate(server, phones, block))
        named = _named(server.database, consumers)
    return [
        Figure(
            measure=f"updates to {PRESENTITIES} watchers in memory, {named}",
            value=median(rates[0]),
            unit="updates/s",
            baseline=median(rates[1]),
            aim=Aim(of="ratio", relation=">=", limit=_AIMS_IN_MEMORY[name]),
        )
    ]


@contextmanager
def _ready(folder: Path, name: str, consumers: int, in_memory: bool) -> Iterator[tuple[Served, Phones]]:
    """Run a server with its own database, and phones that have been told of a first call each."""
    files = folder / f"{name}-{'memory' if in_memory else 'database'}"
    environment = {"NSQ_SUBSCRIPTIONS_IN_MEMORY": "1"} if in_memory else None
    with (
        database(name, files) as stored,
        served(stored, files / "served", consumers=consumers, environment=environment) as server,
        Phones(server.kamailio.sip_target, URIS) as phones,
    ):
        server.consume([call(number, STATES[0]) for number in range(PRESENTITIES)])
        # In memory the first one after a start is sent twice.
        count = (3 if in_memory else 2) * PRESENTITIES
        until(lambda: phones.count() == count, timeout_s=20, what="the first NOTIFYs")
        yield server, phones


def _unwatched(stored: Database, folder: Path, consumers: int, calls: int, blocks: int) -> Figure:
    rates, plain_rates = [], []
    bodies = [*waves(range(calls))]
    rows = [row(body, number) for number, body in enumerate(bodies)]
    with served(stored, folder, consumers=consumers) as server:
        server.consume([call(number, STATES[0]) for number in range(_WARM_UP)])
        for block in range(1, blocks + 1):
            server.empty()
            rates.append(server.consume(bodies).rate)
            taken = _WARM_UP + block * len(bodies)
            server.check_stored(taken)
            _check_rows(stored, {(each.username, each.etag) for each in rows})
            server.empty()
            plain_rates.append(plain_rate(stored.kamailio_url, rows))
    return Figure(
        measure=f"updates, {_named(stored, consumers)}",
        value=median(rates),
        unit="updates/s",
        baseline=median(plain_rates),
        aim=Aim(of="ratio", relation=">=", limit=_AIMS[consumers]),
    )


def _check_rows(stored: Database, wanted: set[tuple[str, str]]) -> None:
    """All calls are over: each row is hidden before long, as a tombstone."""

    def wrong() -> int:
        found = stored.execute("SELECT username, etag, body FROM presentity WHERE expires < 0")
        right = {(str(user), str(etag)) for user, etag, body in found if _bytes(body) == TOMBSTONE_BODY}
        return len(wanted ^ right) + len(stored.execute("SELECT 1 FROM presentity WHERE expires > 0"))

    try:
        until(lambda: wrong() == 0, timeout_s=_HIDDEN_S, what="calls that are over to be hidden")
    except AssertionError:
        raise Spoiled(f"{wrong()} of {len(wanted)} rows are wrong") from None


def _bytes(body: object) -> bytes:
    return body.encode() if isinstance(body, str) else bytes(body)  # type: ignore[call-overload]


def _watched(stored: Database, folder: Path, consumers: int, blocks: int) -> Figure:
    rates, alone_rates = [], []
    with served(stored, folder, consumers=consumers) as server:
        server.empty()
        server.consume([call(0, "early")] * consumers)
        with Phones(server.kamailio.sip_target, URIS) as phones:
            for block in range(blocks):
                server.empty()
                phones.forget()
                rates.append(_told_rate(server, phones, block))
                alone_rates.append(_alone_rate(server, phones, folder))
    return Figure(
        measure=f"updates to {PRESENTITIES} watchers, {_named(stored, consumers)}",
        value=median(rates),
        unit="updates/s",
        baseline=median(alone_rates),
        aim=Aim(of="ratio", relation=">=", limit=0.6),
    )


def _told_rate(server: Served, phones: Phones, block: int) -> float:
    """Publish a call of each presentity, and wait until each phone has shown how it ended."""
    numbers = range(block * PRESENTITIES, (block + 1) * PRESENTITIES)
    bodies = [*waves(numbers)]
    consumed = server.consume(bodies)
    # Where the other consumer told of it late, when it was hidden already, the dummy dialog says that there is none.
    wanted = {
        uri: ({f"call{number}": "terminated"}, {"": "terminated"}) for uri, number in zip(URIS, numbers, strict=True)
    }
    until(
        lambda: all(phones.states(uri) in states for uri, states in wanted.items()),
        timeout_s=20,
        what="the last NOTIFYs",
    )
    if phones.count() > len(bodies):
        raise Spoiled(f"{len(bodies)} updates, {phones.count()} NOTIFYs; {server.errors()}")
    return len(bodies) / ((phones.last_ns() - consumed.started_ns) / 1e9)


def _alone_rate(server: Served, phones: Phones, folder: Path) -> float:
    phones.forget()
    count = len(STATES) * PRESENTITIES
    began_ns = server.refresh(folder, URIS, count)
    phones.wait(count, "NOTIFYs of the refreshes")
    return count / ((phones.last_ns() - began_ns[0]) / 1e9)


def _named(stored: Database, consumers: int) -> str:
    return f"{stored.name}, {consumers} consumer{'s' if consumers > 1 else ''}"
