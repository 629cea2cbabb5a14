# SPDX-License-Identifier: GPL-2.0-or-later
"""When the main thread counts as stuck, and that each thing is said once."""

from __future__ import annotations

import pytest

from kemi_nsq.consumer.watchdog import HELD_UP_S, STUCK_S, Judgement, Watchdog
from kemi_nsq.runtime.page import Doing

TURN_S = 0.5
LIMIT_S = 30.0
START = 1000.0
ROUTE = Doing(START, "nsq:x")
OTHER = Doing(START + 100, "nsq:y")


class Watched:
    """A watchdog that is asked twice a second."""

    def __init__(self) -> None:
        self._dog = Watchdog(LIMIT_S)
        self.now = START
        self._dog.look(START, waiting=False, doing=None)
        self._dog.answered(START)

    def until(self, now: float, *, waiting: bool = True, doing: Doing | None = ROUTE) -> list[Judgement]:
        """Go on to a second; return the verdicts of all turns until then."""
        verdicts = []
        while self.now < now:
            self.now = min(now, self.now + TURN_S)
            verdicts.append(self._dog.look(self.now, waiting=waiting, doing=doing))
        return verdicts

    def answered(self) -> None:
        self._dog.answered(self.now)


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_without_an_answer_for_a_while_it_is_stuck_until_there_is_one(watched: Watched) -> None:
    assert not any(verdict.stuck for verdict in watched.until(START + STUCK_S))
    (verdict,) = watched.until(START + STUCK_S + TURN_S)
    assert (verdict.stuck, verdict.silent, verdict.overdue) == (True, True, False)
    watched.answered()
    assert not any(verdict.stuck for verdict in watched.until(watched.now + STUCK_S))


def test_with_nothing_in_flight_nobody_waits_for_an_answer(watched: Watched) -> None:
    assert not any(verdict.stuck for verdict in watched.until(START + LIMIT_S, waiting=False))


@pytest.mark.parametrize("waiting", [True, False])
def test_a_route_that_takes_too_long_is_said_once_and_holds_until_it_ends(watched: Watched, waiting: bool) -> None:
    watched.until(START + LIMIT_S, waiting=waiting)
    first, *later = watched.until(START + LIMIT_S + 10, waiting=waiting)
    assert (first.began, first.overdue, first.stuck) == (ROUTE, True, True)
    assert {(verdict.began, verdict.overdue, verdict.hopeless) for verdict in later} == {(None, True, False)}
    first, *later = watched.until(START + LIMIT_S + 20, waiting=False, doing=None)
    assert (first.ended, first.took_s, first.stuck) == (ROUTE, LIMIT_S + 10 + TURN_S, False)
    assert {verdict.ended for verdict in later} == {None}


def test_after_twice_the_time_its_message_is_hopeless(watched: Watched) -> None:
    assert not any(verdict.hopeless for verdict in watched.until(START + 2 * LIMIT_S))
    assert all(verdict.hopeless for verdict in watched.until(START + 3 * LIMIT_S))


def test_a_route_right_after_one_that_took_too_long_has_its_own_time(watched: Watched) -> None:
    watched.until(START + 100)
    (verdict,) = watched.until(START + 100 + TURN_S, doing=OTHER)
    assert (verdict.ended, verdict.began, verdict.overdue) == (ROUTE, None, False)


def test_two_routes_in_a_row_that_take_too_long_are_said_both(watched: Watched) -> None:
    watched.until(START + 100)
    verdicts = watched.until(START + 100 + LIMIT_S + TURN_S, doing=OTHER)
    assert [verdict.began for verdict in verdicts if verdict.began] == [OTHER]
    assert [verdict.ended for verdict in verdicts if verdict.ended] == [ROUTE]


def test_one_that_was_held_up_itself_does_not_blame_the_main_thread(watched: Watched) -> None:
    watched.until(START + 1)
    watched.now += HELD_UP_S + 5
    assert not any(verdict.silent for verdict in watched.until(watched.now + STUCK_S - TURN_S))
