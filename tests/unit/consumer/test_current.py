# SPDX-License-Identifier: GPL-2.0-or-later
"""What functions that are called in a route can see of its message, and say about it."""

from __future__ import annotations

import pytest

from kemi_nsq.consumer.message import Current, Fault, Handled
from kemi_nsq.errors import DatabaseError
from tests.support.deliveries import event, handled
from tests.support.tables import made

EVENT = event('{"n": 1}')


@pytest.fixture
def message() -> Handled:
    return handled(EVENT)


def test_the_event_is_there_while_its_route_runs(message: Handled) -> None:
    current = Current()
    assert current.event is None
    current.begin(message)
    assert current.event is EVENT
    current.end()
    assert current.event is None


def test_outside_a_batch_no_row_is_collected(message: Handled) -> None:
    current = Current()
    current.begin(message)
    assert not current.collect(made())
    assert (message.rows, current.collected()) == ([], [])


def test_in_a_batch_each_message_has_its_rows_and_a_function_sees_all(message: Handled) -> None:
    current, other = Current(), Handled(delivery=message.delivery, event=EVENT)
    rows = [made(number) for number in range(3)]
    current.begin_batch()
    for row, one in zip(rows, (message, other, other), strict=True):
        current.begin(one)
        assert current.collect(row)
        current.end()
    assert (message.rows, other.rows) == (rows[:1], rows[1:])
    assert not current.collect(rows[0]), "no route runs"
    current.end_batch()
    assert current.collected() == []


@pytest.mark.parametrize(
    ("error", "said"), [(DatabaseError("locked"), (None, "locked")), (RuntimeError("a bug"), (Fault.OWN, ""))]
)
def test_whose_fault_a_failure_is(message: Handled, error: Exception, said: tuple[Fault | None, str]) -> None:
    current = Current()
    current.begin(message)
    current.fail(error)
    assert (message.again, message.database) == said
    assert message.refused == ""


def test_a_message_that_is_refused_needs_no_counter_here(message: Handled) -> None:
    current = Current()
    current.begin(message)
    current.refuse("no state")
    assert (message.refused, message.counter, message.again) == ("no state", None, None)


def test_outside_a_route_nothing_is_said_about_anything() -> None:
    current = Current()
    current.refuse("no state")
    current.fail(DatabaseError("locked"))
    assert current.event is None
