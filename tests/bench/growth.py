# SPDX-License-Identifier: GPL-2.0-or-later
"""How the speed changes as something grows: rows in the table, live calls of a presentity, watchers of a presentity.

The value is that of a larger size, the baseline that of the smallest, in the same run: so the ratio says how it grows.
All on SQLite, with one consumer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from kemi_nsq.presence.row import RANK_INDEX, Row
from kemi_nsq.presence.statements import CHANGED, KEY
from tests.bench.calls import PRESENTITIES, STATES, URIS, call, rounds, row, waves
from tests.bench.figures import Figure
from tests.bench.phones import Phones
from tests.bench.served import Database, Served, database, served

_WARM_UP = 400
#: Room for all of the largest number, so that none waits hidden: NSQ_PUA_MAX_DIALOGS.
MAX_DIALOGS = 200
#: Of the NOTIFYs. A batch of half of them never has two states of one, so each update is told.
_WATCHED = URIS[:100]
WATCHED_BATCH = len(_WATCHED) // 2
#: By kamcmd, which waits ten seconds for its answer.
_REFRESHES = 200

_Samples = Mapping[int, list[float]]


def measure(folder: Path, *, quick: bool) -> list[Figure]:
    """Measure what grows, one after the other."""
    with database("sqlite", folder / "growth-database") as stored:
        stored_figures = _stored(stored, folder / "growth-stored", quick=quick)
        return stored_figures + _watched(stored, folder / "growth-watched", quick=quick)


def _stored(stored: Database, folder: Path, *, quick: bool) -> list[Figure]:
    """Let others be in the table, or standing calls of the same presentities, while some calls come and go."""
    count, blocks = (2, 1) if quick else (6, 3)
    tables, crowds = ((100, 10_000), (1, 10)) if quick else ((100, 10_000, 100_000), (1, 10, 100))
    bodies = [*rounds(count)]
    others: dict[int, list[float]] = {size: [] for size in tables}
    cpu_us: dict[int, list[float]] = {size: [] for size in tables}
    calls: dict[int, list[float]] = {size: [] for size in crowds}
    with served(stored, folder, NSQ_PUA_MAX_DIALOGS=MAX_DIALOGS) as server:
        server.consume([call(number, STATES[0]) for number in range(_WARM_UP)])
        for _ in range(blocks):
            for size in tables:
                _fill(stored, size, of_others=True)
                consumed, cpu_s = server.cpu_of_consuming(bodies)
                others[size].append(consumed.rate)
                cpu_us[size].append(cpu_s / len(bodies) * 1e6)
            for size in crowds:
                _fill(stored, (size - 1) * PRESENTITIES, of_others=False)
                calls[size].append(server.consume(bodies).rate)
        server.check_stored(_WARM_UP + blocks * (len(tables) + len(crowds)) * len(bodies))
        refreshes = _refreshes(server, folder, crowds, blocks)
    return [
        *_figures("grown to {} presentities in the table", others, "updates/s"),
        *_figures("the consumer's CPU, {} presentities in the table", cpu_us, "us/update"),
        *_figures("grown to {} live calls each", calls, "updates/s"),
        *_figures("NOTIFYs of {} live calls", refreshes, "NOTIFYs/s"),
    ]


def _refreshes(server: Served, folder: Path, sizes: Sequence[int], blocks: int) -> _Samples:
    """Return the NOTIFYs/s of the presence module alone for presentities with so many live calls."""
    rates: dict[int, list[float]] = {size: [] for size in sizes}
    with Phones(server.kamailio.sip_target, _WATCHED) as phones:
        phones.wait(len(_WATCHED), "first NOTIFYs")
        for _ in range(blocks):
            for size in sizes:
                _fill(server.database, size * PRESENTITIES, of_others=False)
                phones.forget()
                began_ns = server.refresh(folder, _WATCHED, _REFRESHES)
                phones.wait(_REFRESHES, "NOTIFYs of the refreshes")
                rates[size].append(_REFRESHES / ((phones.last_ns() - began_ns[0]) / 1e9))
    server.database.execute("DELETE FROM active_watchers")
    return rates


def _watched(stored: Database, folder: Path, *, quick: bool) -> list[Figure]:
    """Let each presentity have more and more watchers, and count updates and NOTIFYs until the last one."""
    sizes, blocks = ((1, 5), 1) if quick else ((1, 5, 20), 3)
    updates: dict[int, list[float]] = {size: [] for size in sizes}
    notifies: dict[int, list[float]] = {size: [] for size in sizes}
    with served(stored, folder, NSQ_BATCH=WATCHED_BATCH) as server, ExitStack() as stack:
        phones: list[Phones] = []
        for size in sizes:
            server.empty()
            for number in range(len(phones), size):
                phones.append(stack.enter_context(Phones(server.kamailio.sip_target, _WATCHED, f"phone{number}-")))
                phones[-1].wait(len(_WATCHED), "first NOTIFYs")
            for block in range(blocks):
                rate = _told_rate(server, phones, block)
                updates[size].append(rate)
                notifies[size].append(rate * size)
    return [
        *_figures("grown to {} watchers each", updates, "updates/s"),
        *_figures("NOTIFYs to {} watchers each", notifies, "NOTIFYs/s"),
    ]


def _told_rate(server: Served, phones: Sequence[Phones], block: int) -> float:
    """Let each presentity have a call, and wait until each phone has been told each of its states."""
    for each in phones:
        each.forget()
    numbers = range(block * PRESENTITIES, block * PRESENTITIES + len(_WATCHED))
    bodies = [*waves(numbers)]
    consumed = server.consume(bodies)
    for each in phones:
        each.wait(len(bodies), "NOTIFYs")
    return len(bodies) / ((max(each.last_ns() for each in phones) - consumed.started_ns) / 1e9)


def _fill(stored: Database, count: int, *, of_others: bool) -> None:
    """Have so many live calls in the table and nothing else, one each of others, or in turn of the presentities."""
    stored.execute("DELETE FROM presentity")
    stored.execute(fill_statement(row(call(0, "confirmed"), 0), count, of_others=of_others))
    # Else the consumer would pay for moving them from the WAL into the file.
    stored.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def fill_statement(model: Row, count: int, *, of_others: bool) -> str:
    """Return what makes so many rows like one in an SQLite table.

    Args:
        model: a row of the first presentity.
        count: how many.
        of_others: each is of a presentity of its own, that lies between the others in the index; else the others have
            them, in turn.
    """
    user = f"'user' || (i % {PRESENTITIES})"
    message = RANK_INDEX + 2  # where the order key has the message's id, which must differ
    values = {
        "username": f"{user} || '.' || i" if of_others else user,
        "etag": "'grown.' || i",
        "body": f"CAST(replace(CAST(X'{model.body.hex()}' AS TEXT), 'call0', 'grown' || i) AS BLOB)",
        "ruid": f"'{model.ruid[:message]}' || printf('%016x', i) || '{model.ruid[message + 16 :]}'",
    }
    columns = (*KEY, *CHANGED)
    chosen = ", ".join(values.get(name) or repr(getattr(model, name)) for name in columns)
    numbers = f"number(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM number WHERE i + 1 < {count})"
    chosen += f" FROM number WHERE i < {count}"  # for none: the first number is always there
    return f"INSERT INTO presentity ({', '.join(columns)}) WITH RECURSIVE {numbers} SELECT {chosen}"


def _figures(measure: str, samples: _Samples, unit: str) -> list[Figure]:
    """Compare each size but the smallest with that."""
    smallest, *larger = samples
    return [
        Figure(measure=measure.format(size), value=median(samples[size]), unit=unit, baseline=median(samples[smallest]))
        for size in larger
    ]
