# SPDX-License-Identifier: GPL-2.0-or-later
"""A failure that repeats itself does not fill the log, and none is forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kemi_nsq.host import Level
from kemi_nsq.quiet import BURST, WINDOW_S, Quiet
from kemi_nsq.testing import FakeHost
from tests.support.doubles import Clock


def test_a_burst_is_written_and_the_rest_left_out() -> None:
    host, clock = FakeHost(), Clock()
    quiet = Quiet(host, clock)
    for number in range(BURST + 7):
        quiet.log(Level.ERROR, "publish", f"line {number}")
    assert host.lines == [(Level.ERROR, f"line {number}") for number in range(BURST)]


def test_the_next_window_says_how_many_were_left_out() -> None:
    host, clock = FakeHost(), Clock()
    quiet = Quiet(host, clock)
    for _ in range(BURST + 7):
        quiet.log(Level.ERROR, "publish", "line")
    clock.now += WINDOW_S
    quiet.log(Level.WARNING, "publish", "again")
    quiet.log(Level.WARNING, "publish", "once more")
    assert host.lines[BURST:] == [(Level.WARNING, "again (7 more like it before)"), (Level.WARNING, "once more")]


def test_a_window_in_which_all_were_written_adds_nothing() -> None:
    host, clock = FakeHost(), Clock()
    quiet = Quiet(host, clock)
    for _ in range(BURST):
        quiet.log(Level.ERROR, "publish", "line")
    clock.now += WINDOW_S
    quiet.log(Level.ERROR, "publish", "again")
    assert host.lines[-1] == (Level.ERROR, "again")


def test_kinds_do_not_silence_each_other() -> None:
    host = FakeHost()
    quiet = Quiet(host, Clock())
    for _ in range(BURST + 1):
        quiet.log(Level.ERROR, "publish", "line")
    quiet.log(Level.ERROR, "query", "heard")
    assert host.lines[-1] == (Level.ERROR, "heard")


@given(st.lists(st.floats(0, WINDOW_S / 2), max_size=200))
def test_in_any_rhythm_no_window_has_more_than_a_burst(gaps: list[float]) -> None:
    host, clock = FakeHost(), Clock()
    quiet = Quiet(host, clock)
    for gap in gaps:
        clock.now += gap
        quiet.log(Level.ERROR, "publish", str(clock.now))
    written = [float(text.split()[0]) for _, text in host.lines]
    for started in written:  # two windows at most touch any span of that length
        assert sum(started <= at < started + WINDOW_S for at in written) <= 2 * BURST
    left_out = sum(int(text.split("(")[1].split()[0]) for _, text in host.lines if "more like it" in text)
    assert len(written) + left_out <= len(gaps)
