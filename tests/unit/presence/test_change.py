# SPDX-License-Identifier: GPL-2.0-or-later
"""When others, who change seats of a presentity at the same time, may give too many: then it is looked at once more.

At once where a few that do as much are enough; by the next sweep where any can.
"""

from __future__ import annotations

import pytest

from kemi_nsq.presence.change import Crowd, Plan
from kemi_nsq.presence.row import Row
from tests.support.tables import made

WHO = ("alice", "example.com")
MOST = 100


def planned(number: int, crowd: Crowd, *, state: str = "early") -> Plan:
    """Seat some dialogs of a presentity that has a crowd."""
    rows = [made(position=5, message=each, Call_ID=f"call-{each}", State=state) for each in range(number)]
    plan = Plan({key(row): row for row in rows}, {})
    plan.seat({WHO: crowd}, MOST)
    return plan


def key(row: Row) -> tuple[str, str, str, str]:
    """Return the key of a row."""
    return row.username, row.domain, row.event, row.etag


@pytest.mark.parametrize(("shown", "new"), [(0, 1), (16, 1), (10, 10), (91, 1)])
def test_where_eight_writers_who_do_the_same_find_room_nobody_looks_again(shown: int, new: int) -> None:
    assert planned(new, Crowd(shown=shown)).unsettled == set()


@pytest.mark.parametrize(("shown", "near"), [(11, False), (12, True), (91, True)])
def test_where_others_could_give_too_many_the_sweep_looks(shown: int, near: bool) -> None:
    assert (WHO in planned(1, Crowd(shown=shown)).near) is near


@pytest.mark.parametrize(("shown", "new"), [(0, 13), (16, 11), (93, 1), (100, 1)])
def test_eight_writers_who_do_the_same_could_give_too_many_seats(shown: int, new: int) -> None:
    assert WHO in planned(new, Crowd(shown=shown)).unsettled


def test_one_that_ends_where_others_may_have_found_no_room_is_looked_at_again() -> None:
    assert WHO in planned(1, Crowd(shown=95), state="terminated").unsettled
