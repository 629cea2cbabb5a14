# SPDX-License-Identifier: GPL-2.0-or-later
"""The pace of NOTIFYs: never more often than the interval, none lost, the first and urgent ones at once; retries."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemi_nsq.presence import pacing
from kemi_nsq.presence.pacing import Pacer, Untold
from kemi_nsq.presence.row import Key

A, B = ("sip:a@x", "dialog"), ("sip:b@x", "dialog")
#: Seconds that pass, then a key that wants to go, and whether it is urgent; or, for None, a look at what is due.
STEPS = st.lists(st.tuples(st.floats(0, 3), st.sampled_from([A, B, None]), st.booleans()), max_size=60)
#: What time.monotonic() returns on machines that run for up to a year.
CLOCKS = st.floats(0, 3e7)


def test_without_an_interval_all_go_at_once() -> None:
    pacer = Pacer(0)
    assert [pacer.admit(A, 5.0, urgent=False) for _ in range(3)] == [True] * 3
    assert pacer.next_due() is None


@given(now=CLOCKS, interval=st.floats(0.001, 60))
def test_the_first_goes_at_once_whatever_the_clock_says(now: float, interval: float) -> None:
    pacer = Pacer(interval)
    assert pacer.admit(A, now, urgent=False)
    assert not pacer.admit(A, now, urgent=False)
    assert pacer.admit(B, now, urgent=False)


def test_what_is_held_back_goes_once_when_the_interval_is_over() -> None:
    pacer = Pacer(2.0)
    assert [pacer.admit(A, now, urgent=False) for now in (10.0, 10.5, 11.0)] == [True, False, False]
    assert pacer.next_due() == 12.0
    assert pacer.due(11.9) == []
    assert pacer.due(12.0) == [A]
    assert pacer.next_due() is None
    assert pacer.due(99.0) == []


def test_the_urgent_goes_at_once_and_takes_along_what_was_held_back() -> None:
    pacer = Pacer(2.0)
    pacer.admit(A, 10.0, urgent=False)
    pacer.admit(A, 10.1, urgent=False)
    assert pacer.admit(A, 10.2, urgent=True)
    assert pacer.next_due() is None
    assert not pacer.admit(A, 12.1, urgent=False), "it counts as one that went"
    assert pacer.next_due() == pytest.approx(12.2)


@given(start=CLOCKS, steps=STEPS, interval=st.floats(0.1, 5))
def test_never_more_often_than_the_interval_and_nothing_lost(
    start: float, steps: list[tuple[float, Key | None, bool]], interval: float
) -> None:
    pacer, now = Pacer(interval), start
    went: dict[Key, list[tuple[float, bool]]] = {A: [], B: []}
    wanted: dict[Key, float] = {}
    for wait, key, urgent in steps:
        now += wait
        if key is None:
            for each in pacer.due(now):
                went[each].append((now, False))
        else:
            wanted[key] = now
            if pacer.admit(key, now, urgent=urgent):
                went[key].append((now, urgent))
            assert went[key], "the first went"
            assert not urgent or went[key][-1] == (now, True)
    while (due := pacer.next_due()) is not None:  # what the main loop waits for
        assert due <= now + interval
        now = max(now, due)
        ready = pacer.due(now)
        assert ready, "it does not wake up for nothing"
        for each in ready:
            went[each].append((now, False))
    for key, times in went.items():
        assert all(
            urgent or later >= earlier + interval * (1 - 1e-9) for (earlier, _), (later, urgent) in pairwise(times)
        )
        assert key not in wanted or times[-1][0] >= wanted[key], "the last change was told"


def test_what_is_remembered_is_bounded_by_the_interval() -> None:
    pacer = Pacer(1.0)
    for number in range(1000):
        pacer.admit((f"sip:{number}@x", "dialog"), number / 10, urgent=False)
    assert len(pacer._sent) <= 10
    assert math.isclose(pacer._sent[("sip:999@x", "dialog")], 99.9)


# What could not be told


def test_what_is_refused_is_due_soon_then_less_often_and_soon_again_after_a_success() -> None:
    untold, now, waits = Untold(0.5), 10.0, []
    for _ in range(9):
        untold.add([A], now)
        due = untold.next_due()
        assert due is not None
        assert untold.take(now) == [], "not yet"
        waits.append(due - now)
        now = due
        assert untold.take(now) == [A]
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    untold.succeeded(now)
    untold.add([A], now)
    assert untold.next_due() == now + 0.5


def test_of_very_many_some_are_tried_and_the_rest_only_if_that_succeeds() -> None:
    untold, now = Untold(0.5), 10.0
    keys = [(f"sip:{number}@x", "dialog") for number in range(3 * pacing.AT_ONCE)]
    untold.add(keys, now - 0.5)
    first = untold.take(now)
    assert first == keys[: pacing.AT_ONCE]
    assert untold.take(now) == []
    assert untold.next_due() == now + 1.0, "the rest waits with those that were refused"
    untold.add(first[:1], now)
    untold.succeeded(now)
    rest = untold.take(now)
    untold.succeeded(now)
    rest += untold.take(now)
    assert rest == keys[pacing.AT_ONCE :], "at once, and before what was refused"
    untold.succeeded(now)
    assert untold.take(now) == first[:1]
    assert untold.next_due() is None


def test_a_package_that_is_always_refused_keeps_no_other_waiting() -> None:
    untold = Untold(0.5)
    untold.add([(f"sip:{number}@x", "reg") for number in range(3 * pacing.AT_ONCE)], 1.0)
    untold.add([A], 1.0)
    taken = untold.take(2.0)
    assert len(taken) == pacing.AT_ONCE + 1
    assert A in taken


def test_what_was_told_meanwhile_is_not_told_again() -> None:
    untold = Untold(0.5)
    untold.add([A, B], 1.0)
    untold.told(A)
    assert untold.take(2.0) == [B]


def test_what_could_not_be_told_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "_MOST", 2)
    untold = Untold(0.5)
    assert untold.add([A, B], 1.0)
    assert untold.add([A], 1.0)
    assert not untold.add([("sip:c@x", "dialog")], 1.0)
    assert untold.take(2.0) == [A, B]
