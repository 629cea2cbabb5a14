# SPDX-License-Identifier: GPL-2.0-or-later
"""Clocks of real nsqd that are set back or differ, noticed by a consumer that looks ten times a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kemi_nsq.consumer import chores, nsqdwatch
from kemi_nsq.counters import Counter
from kemi_nsq.jsontext import json_object
from kemi_nsq.presence.row import Order
from kemi_nsq.presence.table import PresentityTable
from kemi_nsq.runtime.page import Fact
from tests.support.chain import event
from tests.support.consuming import Consuming
from tests.support.nsqd import Nsqd
from tests.support.presentity_table import create_presentity_table
from tests.support.rows import event_row
from tests.support.shifted import ShiftedNsqd
from tests.support.until import until

HOUR_S = 3600


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nsqdwatch, "LOOK_INTERVAL_S", 0.1)
    monkeypatch.setattr(chores, "SWEEP_INTERVAL_S", 0.1)


@pytest.fixture
def nsqd(tmp_path: Path) -> Iterator[ShiftedNsqd]:
    with Nsqd(tmp_path / "nsqd") as behind, ShiftedNsqd(behind) as nsqd:
        yield nsqd


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return create_presentity_table(tmp_path / "presence.db")


def consuming(database: Path | None, *nsqds: ShiftedNsqd, **values: str) -> Consuming:
    return Consuming(
        None,
        lambda _: None,
        db_url=f"sqlite:///{database}" if database else "",
        nsqd_address=",".join(nsqd.http_address for nsqd in nsqds),
        nsqd_tcp_address=",".join(nsqd.tcp_address for nsqd in nsqds),
        **values,
    )


def shown(consumer: Consuming) -> str:
    return consumer.host.page.shown(Fact.CLOCKS)


def told(consumer: Consuming) -> list[str]:
    return [line for line in consumer.lines if "clock" in line]


def looked_for(seconds: float) -> Callable[[], bool]:
    """Let some looks pass."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def test_a_clock_that_is_set_back_is_told_once_counted_shown_and_told_again_when_right(
    nsqd: ShiftedNsqd, database: Path
) -> None:
    with consuming(database, nsqd) as consumer:
        until(looked_for(1.0), what="some looks")
        assert (told(consumer), shown(consumer)) == ([], "")
        nsqd.shift_s = -HOUR_S
        until(lambda: shown(consumer), what="the clock to be seen")
        until(looked_for(0.5), what="some looks")
        assert shown(consumer).startswith(f"the clock of nsqd {nsqd.http_address} went back by about ")
        assert consumer.host.counters[Counter.CLOCKS_WRONG] == 1
        nsqd.shift_s = 0
        until(lambda: not shown(consumer), what="the clock to be right")
        until(lambda: len(told(consumer)) == 2, what="both lines")
    assert told(consumer)[1] == f"the clock of nsqd {nsqd.http_address} has caught up"


def test_two_clocks_that_differ_are_told(nsqd: ShiftedNsqd, database: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        other = stack.enter_context(ShiftedNsqd(stack.enter_context(Nsqd(tmp_path / "other"))))
        other.shift_s = -HOUR_S
        consumer = stack.enter_context(consuming(database, nsqd, other))
        until(lambda: shown(consumer), what="the clocks to be seen")
        until(looked_for(0.5), what="some looks")
        assert shown(consumer).startswith(f"the clocks of nsqd {other.http_address} and {nsqd.http_address} are about ")
        assert len(told(consumer)) == 1


def test_our_clock_is_told_if_all_nsqd_differ_from_it(nsqd: ShiftedNsqd, database: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        other = stack.enter_context(ShiftedNsqd(stack.enter_context(Nsqd(tmp_path / "other"))))
        nsqd.shift_s = other.shift_s = HOUR_S
        consumer = stack.enter_context(consuming(database, nsqd, other))
        until(lambda: shown(consumer), what="the clocks to be seen")
        assert shown(consumer).endswith("s behind those of all 2 nsqd: it is probably ours that is wrong")


def test_what_is_stored_and_ahead_is_told_after_a_start(nsqd: ShiftedNsqd, database: Path) -> None:
    fields = json_object(event("presence", "alice", State="busy").decode())
    table = PresentityTable(f"sqlite:///{database}", "presentity")
    table.save(event_row(fields, Order(time.time_ns() + HOUR_S * 10**9, "0" * 16), now=int(time.time())))
    table.close()
    with consuming(database, nsqd) as consumer:
        until(lambda: shown(consumer), what="the row to be seen")
        until(lambda: told(consumer), what="a line about it")
    assert shown(consumer) == ""
    assert told(consumer)[0].startswith("presence is stored that is about 3")


@pytest.mark.parametrize("why", ["producers count", "no presence"])
def test_where_clocks_put_nothing_in_order_nobody_speaks_of_them(nsqd: ShiftedNsqd, database: Path, why: str) -> None:
    nsqd.shift_s = HOUR_S
    table, field = (None, "") if why == "no presence" else (database, "Seq")
    with consuming(table, nsqd, pua_order_field=field) as consumer:
        until(lambda: consumer.host.counters[Counter.CONNECTED], what="a connection")
        until(looked_for(1.0), what="some looks")
        assert shown(consumer) == ""
    assert told(consumer) == []
