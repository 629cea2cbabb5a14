# SPDX-License-Identifier: GPL-2.0-or-later
"""Which nsqd are connected to, and when again."""

from __future__ import annotations

import pytest

from kemi_nsq.consumer.targets import LOOKUP_INTERVAL_S, REMEMBER_LOST_S, Target, Targets
from kemi_nsq.delays import RECONNECT_FIRST_S, RECONNECT_MAX_S
from kemi_nsq.names import Address, Subscription

START = 1000.0
#: Of the dice: no spread at all.
LATEST = 1.0
ONE, TWO = Address("one", 4150), Address("two", 4150)
PAIR, OTHER = Subscription("t", "c"), Subscription("other", "c")


def named(*addresses: Address) -> Targets:
    """Return targets at the nsqd that the settings name."""
    return Targets(addresses, (PAIR,), looks_up=False)


def looked_up(*addresses: Address) -> Targets:
    """Return targets at the nsqd that nsqlookupd has named."""
    targets = Targets((), (PAIR,), looks_up=True)
    targets.found(frozenset(addresses), complete=True, now=START, chance=0.5)
    return targets


def open_all(targets: Targets, now: float) -> list[Address]:
    """Connect to what is due."""
    due = targets.due(now)
    for target in due:
        targets.opened(target)
    return [target.address for target in due]


def test_each_subscription_is_due_once_at_each_nsqd() -> None:
    targets = Targets((TWO, ONE), (PAIR, OTHER), looks_up=False)
    expected = [Target(ONE, PAIR), Target(ONE, OTHER), Target(TWO, PAIR), Target(TWO, OTHER)]
    assert targets.due(START) == expected
    for target in expected:
        targets.opened(target)
    assert targets.due(START + 1000) == []
    assert targets.next_due(START) == START + LOOKUP_INTERVAL_S, "nothing is due"
    assert not targets.look_up_due(START + 1000), "there is nobody to ask"


def test_one_that_does_not_answer_is_left_alone_for_longer_each_time() -> None:
    targets, now, delays = named(ONE), START, []
    for failures in range(1, 11):
        (target,) = targets.due(now)
        assert targets.failed(target, now, LATEST) == failures
        assert targets.due(now) == []
        delays.append(targets.next_due(now) - now)
        now = targets.next_due(now)
    assert delays[:3] == pytest.approx([RECONNECT_FIRST_S, 2 * RECONNECT_FIRST_S, 4 * RECONNECT_FIRST_S])
    assert delays[-1] == pytest.approx(RECONNECT_MAX_S)


def test_chance_spreads_the_second_half_of_a_delay() -> None:
    targets = named(ONE)
    (target,) = targets.due(START)
    targets.failed(target, START, 0.0)
    assert targets.next_due(START) == START + RECONNECT_FIRST_S / 2


def test_one_that_was_subscribed_is_tried_soon_and_one_that_was_not_later_each_time() -> None:
    targets, now = named(ONE), START
    for delay in (1, 2, 4):
        assert open_all(targets, now) == [ONE]
        targets.closed(Target(ONE, PAIR), False, now, LATEST)
        assert targets.next_due(now) == pytest.approx(now + delay * RECONNECT_FIRST_S)
        now = targets.next_due(now)
    assert open_all(targets, now) == [ONE]
    targets.closed(Target(ONE, PAIR), True, now, LATEST)
    assert targets.next_due(now) == pytest.approx(now + RECONNECT_FIRST_S)


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.8), (0.5, 1.0), (1.0, 1.2)])
def test_nsqlookupd_is_asked_at_the_start_and_then_about_every_15_seconds(chance: float, share: float) -> None:
    targets = Targets((), (PAIR,), looks_up=True)
    assert targets.look_up_due(START)
    assert targets.due(START) == []
    targets.found(frozenset({ONE}), complete=True, now=START, chance=chance)
    assert open_all(targets, START) == [ONE]
    assert targets.next_due(START) == pytest.approx(START + share * LOOKUP_INTERVAL_S)
    assert not targets.look_up_due(START + share * LOOKUP_INTERVAL_S - 0.001)
    assert targets.look_up_due(START + share * LOOKUP_INTERVAL_S + 0.001)


def test_a_lost_connection_asks_nsqlookupd_at_once() -> None:
    targets = looked_up(ONE)
    open_all(targets, START)
    assert not targets.look_up_due(START + 1)
    targets.closed(Target(ONE, PAIR), True, START + 1, LATEST)
    assert targets.look_up_due(START + 1)


def test_one_that_no_nsqlookupd_names_is_tried_no_more_but_its_connection_stays() -> None:
    targets = looked_up(ONE, TWO)
    one, two = targets.due(START)
    targets.opened(one)
    targets.failed(two, START, LATEST)
    targets.found(frozenset(), complete=True, now=START + 20, chance=0.5)
    assert targets.due(START + 20) == []
    targets.closed(one, True, START + 21, LATEST)
    assert targets.due(START + 30) == [], "nobody has named it since, and nobody has forgotten that"
    targets.found(frozenset(), complete=True, now=START + 30, chance=0.5)
    assert targets.due(START + 30) == [one], "it may just restart"
    until = START + 21 + REMEMBER_LOST_S
    targets.found(frozenset(), complete=True, now=until, chance=0.5)
    assert targets.due(until) == []


def test_one_that_only_a_silent_nsqlookupd_knew_is_kept() -> None:
    targets = looked_up(ONE)
    targets.found(frozenset({TWO}), complete=False, now=START + 20, chance=0.5)
    assert open_all(targets, START + 20) == [ONE, TWO]
    targets.found(frozenset({TWO}), complete=True, now=START + 40, chance=0.5)
    targets.closed(Target(TWO, PAIR), True, START + 40, LATEST)
    assert open_all(targets, START + 60) == [TWO]
