# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose clock is wrong: a nsqd's that was set back, two that differ, what is stored, or ours; nobody's without need."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kemi_nsq.clock import local_time
from kemi_nsq.counters import Counter
from kemi_nsq.host import Level, Report
from kemi_nsq.names import Address
from kemi_nsq.presence.clocks import ALONE_WORTH_S, WORTH_S, Clocks, Reading

A, B = Address("127.0.0.1", 4151), Address("127.0.0.2", 4151)
#: What all clocks should show at the monotonic second 0; not a whole second.
EPOCH = 1_800_000_000.3
#: By the golden ratio looks fall into all parts of a second.
LOOK_S, HOUR_S = 9.618, 3600.0
WENT_BACK = re.compile(rf"the clock of nsqd {A} went back by about (3599|3600|3601) s: ")


class Day:
    """Clocks of some nsqd and ours, as so many seconds off the true time, and a look at them every ten seconds.

    Attributes:
        off: of each nsqd that answers.
        ours: of ours.
        stored: the latest time in the table, in true seconds; 0 for none.
        took_s: what an answer takes.
        shown: what was said to be wrong at the last look.
        lines: all that was said.
    """

    def __init__(self, **off: float) -> None:
        self.off = {A if name == "a" else B: value for name, value in off.items()}
        self.ours = self.stored = 0.0
        self.took_s = 0.01
        self.now = 5.0
        self.asked = set(self.off)
        self.shown = ""
        self.lines: list[Report] = []
        self._clocks = Clocks(lambda: int(self.stored * 1e9))

    @property
    def time(self) -> float:
        """The true time."""
        return EPOCH + self.now

    def look(self, looks: int = 1) -> str:
        for _ in range(looks):
            self.now += LOOK_S
            found = {
                nsqd: Reading(math.floor(self.time + off), self.now - self.took_s / 2, self.now + self.took_s / 2)
                for nsqd, off in self.off.items()
            }
            self._clocks.look_at_table()
            news, self.shown = self._clocks.look(
                self.asked, found, Reading(self.time + self.ours, self.now, self.now, 0.0)
            )
            self.lines += news
        return self.shown

    def said(self) -> list[str]:
        """Return what was said since the last time."""
        lines, self.lines = [report.text for report in self.lines], []
        return lines


def test_of_clocks_that_go_right_nothing_is_said() -> None:
    day = Day(a=0.0, b=0.0)
    for _ in range(100):
        day.stored = day.time
        assert day.look() == ""
    assert day.lines == []


def test_one_that_was_set_back_is_said_once_until_it_has_caught_up() -> None:
    day = Day(a=0.0)
    day.look(5)
    day.off[A] -= HOUR_S
    day.look()
    (report,) = day.lines
    assert WENT_BACK.match(report.text)
    assert any(f": until it shows {local_time(day.time + late)}, " in report.text for late in range(3))
    assert (report.level, report.counter) == (Level.ERROR, Counter.CLOCKS_WRONG)
    assert report.text.startswith(day.shown)
    day.lines.clear()
    day.look(int((HOUR_S - 3 * LOOK_S) / LOOK_S))
    assert "went back" in day.shown
    day.look(6)
    assert day.said()[0] == f"the clock of nsqd {A} has caught up"


def test_after_it_has_caught_up_it_still_differs_from_ours_and_that_is_said() -> None:
    day = Day(a=0.0)
    day.look(5)
    day.off[A] -= 60.0
    day.look(8)
    assert day.shown.startswith(f"our clock is about 60 s ahead of that of nsqd {A}: one of them is wrong")


def test_one_that_was_set_right_again_has_caught_up_at_once() -> None:
    day = Day(a=0.0)
    day.look(5)
    day.off[A] -= HOUR_S
    day.look()
    day.off[A] += HOUR_S
    assert day.look(2) == ""
    assert day.said()[1] == f"the clock of nsqd {A} has caught up"


def test_one_that_was_ahead_and_was_set_right_is_said_too() -> None:
    day = Day(a=HOUR_S)
    assert day.look(5).startswith(f"our clock is about 3600 s behind that of nsqd {A}")
    day.off[A] = 0.0
    assert WENT_BACK.match(day.look())
    assert "our" not in day.shown


def test_a_clock_that_is_set_forward_puts_nothing_out_of_order() -> None:
    day = Day(a=-HOUR_S, b=-HOUR_S)
    day.ours = -HOUR_S
    day.look(5)
    day.off = {A: 0.0, B: 0.0}
    day.ours = 0.0
    assert day.look() == ""
    assert day.lines == []


def test_our_own_clock_that_is_set_is_not_blamed_on_nsqd() -> None:
    day = Day(a=0.0, b=0.0)
    day.look(5)
    day.ours = HOUR_S
    assert day.look() == ("our clock is about 3600 s ahead of those of all 2 nsqd: it is probably ours that is wrong")
    assert day.lines[-1].level is Level.WARNING
    day.ours = 0.0
    assert day.look() == ""
    assert day.said()[-1] == "our clock and those of nsqd agree again"


def test_of_two_nsqd_that_differ_both_are_named_and_how_far_each_is_from_ours() -> None:
    day = Day(a=0.0, b=-30.0)
    assert day.look(5) == f"the clocks of nsqd {B} and {A} are about 30 s apart: from ours they differ by -30 and +0 s"
    assert len(day.said()) == 1
    del day.off[A]  # does not answer: what was known of it holds
    assert "30 s apart" in day.look(3)
    day.asked = {B}  # has gone
    assert "apart" not in day.look()


def test_what_is_stored_and_ahead_of_every_nsqd_is_said_without_any_look_before() -> None:
    day = Day(a=0.0, b=0.0)
    day.stored = day.time + HOUR_S
    assert day.look().startswith("presence is stored that is about 35")
    assert (day.lines[0].level, day.lines[0].counter) == (Level.ERROR, Counter.CLOCKS_WRONG)
    day.now += HOUR_S
    assert day.look() == ""
    assert day.said()[-1] == "the clocks of nsqd have caught up with what is stored"


def test_a_clock_set_back_explains_what_is_stored_and_how_it_differs_from_ours() -> None:
    day = Day(a=0.0)
    day.look(5)
    day.stored = day.time
    day.off[A] -= HOUR_S
    day.look(3)
    assert len(day.lines) == 1


def test_where_no_nsqd_says_the_time_what_is_stored_is_held_against_our_clock() -> None:
    day = Day()
    day.asked = {A}
    day.stored = day.time + ALONE_WORTH_S
    assert day.look() == ""
    day.stored = day.time + ALONE_WORTH_S + LOOK_S + 0.1
    assert day.look().startswith("presence is stored that is about 60 s ahead")


def test_an_answer_that_took_long_proves_nothing() -> None:
    day = Day(a=0.0)
    day.look(5)
    day.took_s = 8.0
    day.off[A] = -3.0
    assert day.look() == ""
    day.took_s = 0.01
    assert day.look(3) != ""


@settings(deadline=None)
@given(back_s=st.floats(WORTH_S + 1.2, 1e6), looks=st.integers(1, 40))
def test_a_step_back_of_some_two_seconds_is_found_after_some_looks(back_s: float, looks: int) -> None:
    day = Day(a=0.0)
    day.look(20 + looks)
    day.off[A] -= back_s
    day.look()
    assert any("went back" in line for line in day.said())


@settings(deadline=None)
@given(off=st.floats(-WORTH_S + 0.05, WORTH_S - 0.05), drift=st.floats(-4e-4, 4e-4))
def test_small_differences_and_clocks_that_run_apart_slowly_are_no_step(off: float, drift: float) -> None:
    day = Day(a=off, b=0.0)
    for _ in range(60):
        day.off[A] += drift * LOOK_S * 0.9
        day.look()
        assert "went back" not in day.shown


@settings(deadline=None)
@given(off=st.floats(-5.0, 5.0))
def test_a_difference_that_stays_is_said_at_most_once(off: float) -> None:
    day = Day(a=off, b=off)
    day.look(100)
    assert len(day.lines) <= 1


@pytest.mark.parametrize("nsqd", [A, B])
def test_of_a_nsqd_that_has_gone_nothing_is_kept(nsqd: Address) -> None:
    day = Day(a=0.0, b=0.0)
    day.look(5)
    day.off[nsqd] -= HOUR_S
    day.look()
    assert "went back" in day.shown
    del day.off[nsqd]
    day.asked.discard(nsqd)
    assert "went back" not in day.look()
