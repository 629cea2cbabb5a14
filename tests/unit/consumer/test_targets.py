# SPDX-License-Identifier: GPL-2.0-or-later
"""Which nsqd are connected to, and when again."""

from __future__ import annotations

import pytest

from kemi_nsq.consumer.targets import IDLE_S, MOST_CONNECTIONS, REMEMBER_LOST_S, STEADY_S, Target, Targets
from kemi_nsq.delays import RECONNECT_MAX_S, RETRY_FIRST_S, RETRY_MAX_S
from kemi_nsq.names import Address, Subscription

START = 1000.0
#: Of the dice: no spread at all.
LATEST = 1.0
ONE, TWO = Address("one", 4150), Address("two", 4150)
LOOKUPD, LIAR = Address("lookupd", 4161), Address("liar", 4161)
PAIR, OTHER = Subscription("t", "c"), Subscription("other", "c")


def named(*addresses: Address) -> Targets:
    """Return targets at the nsqd that the settings name."""
    return Targets(addresses, (PAIR,))


def looked_up(*addresses: Address) -> Targets:
    """Return targets at the nsqd that nsqlookupd has named."""
    targets = Targets((), (PAIR,))
    assert targets.found(LOOKUPD, addresses, START)
    return targets


def open_all(targets: Targets, now: float) -> list[Address]:
    """Connect to what is due."""
    due = targets.due(now)
    for target in due:
        targets.opened(target, now)
    return [target.address for target in due]


def test_each_subscription_is_due_once_at_each_nsqd() -> None:
    targets = Targets((TWO, ONE), (PAIR, OTHER))
    expected = [Target(ONE, PAIR), Target(ONE, OTHER), Target(TWO, PAIR), Target(TWO, OTHER)]
    assert targets.due(START) == expected
    for target in expected:
        targets.opened(target, START)
    assert targets.due(START + 1000) == []
    assert targets.next_due(START) == START + IDLE_S, "nothing is due"


def test_one_that_does_not_answer_is_left_alone_for_longer_each_time() -> None:
    targets, now, delays = named(ONE), START, []
    for failures in range(1, 11):
        (target,) = targets.due(now)
        assert targets.failed(target, now, LATEST) == failures
        assert targets.due(now) == []
        delays.append(targets.next_due(now) - now)
        now = targets.next_due(now)
    assert delays[:3] == pytest.approx([RETRY_FIRST_S, 2 * RETRY_FIRST_S, 4 * RETRY_FIRST_S])
    assert delays[-1] == pytest.approx(RECONNECT_MAX_S)


def test_chance_spreads_the_second_half_of_a_delay() -> None:
    targets = named(ONE)
    (target,) = targets.due(START)
    targets.failed(target, START, 0.0)
    assert targets.next_due(START) == START + RETRY_FIRST_S / 2


def test_one_that_stood_is_tried_soon_and_one_that_did_not_later_each_time() -> None:
    targets, now = named(ONE), START
    for delay, was_subscribed in ((1, False), (2, True), (4, False)):
        assert open_all(targets, now) == [ONE]
        targets.closed(Target(ONE, PAIR), was_subscribed, now, LATEST)
        assert targets.next_due(now) == pytest.approx(now + delay * RETRY_FIRST_S)
        now = targets.next_due(now)
    assert open_all(targets, now) == [ONE]
    now += STEADY_S
    targets.closed(Target(ONE, PAIR), True, now, LATEST)
    assert targets.next_due(now) == pytest.approx(now + RETRY_FIRST_S)


def test_one_that_answers_and_never_serves_is_left_alone_for_longer_than_one_that_is_away() -> None:
    targets, now = named(ONE), START
    for _ in range(20):
        assert open_all(targets, now) == [ONE]
        targets.closed(Target(ONE, PAIR), True, now, LATEST)
        now = targets.next_due(now)
    assert open_all(targets, now) == [ONE]
    targets.closed(Target(ONE, PAIR), True, now, LATEST)
    assert targets.next_due(now) == pytest.approx(now + RETRY_MAX_S)


def test_while_somebody_connects_nothing_is_due() -> None:
    targets = named(ONE)
    (target,) = targets.due(START)
    targets.begun(target)
    assert targets.due(START) == []
    assert targets.next_due(START) == START + IDLE_S
    targets.failed(target, START, LATEST)
    assert targets.next_due(START) == pytest.approx(START + RETRY_FIRST_S)


def test_what_failed_least_is_tried_first() -> None:
    targets = named(ONE, TWO)
    one, two = targets.due(START)
    targets.failed(one, START, LATEST)
    assert targets.due(START + 1) == [two, one]


# nsqlookupd


def test_each_nsqlookupd_adds_what_it_names() -> None:
    targets = looked_up(ONE)
    assert targets.found(LIAR, [TWO, ONE], START)
    assert open_all(targets, START) == [ONE, TWO]
    assert targets.lookupds(ONE) == [LOOKUPD, LIAR]
    assert targets.lookupds(TWO) == [LIAR]


def test_one_that_no_nsqlookupd_names_is_tried_no_more_but_its_connection_stays() -> None:
    targets = looked_up(ONE, TWO)
    one, two = targets.due(START)
    targets.opened(one, START)
    targets.failed(two, START, LATEST)
    targets.found(LOOKUPD, [], START + 20)
    assert targets.due(START + 20) == []
    targets.closed(one, True, START + 21, LATEST)
    targets.found(LOOKUPD, [], START + 30)
    assert targets.due(START + 30) == [one], "it may just restart"
    until = START + 21 + REMEMBER_LOST_S
    targets.found(LOOKUPD, [], until)
    assert targets.due(until) == []


def test_one_that_only_a_silent_nsqlookupd_knew_is_kept() -> None:
    targets = looked_up(ONE)
    targets.found(LIAR, [TWO], START + 20)
    assert open_all(targets, START + 20) == [ONE, TWO]
    targets.closed(Target(ONE, PAIR), True, START + 40, LATEST)
    targets.found(LIAR, [TWO], START + 200)
    assert open_all(targets, START + 200) == [ONE]


def test_one_that_is_away_while_it_is_tried_may_still_be_there() -> None:
    targets = looked_up(ONE)
    (target,) = targets.due(START)
    targets.begun(target)
    targets.found(LOOKUPD, [], START + 1)
    assert targets.due(START + 1) == []
    targets.opened(target, START + 1)
    targets.closed(target, True, START + 2, LATEST)
    assert targets.due(START + 3) == [target]


def many(first: int) -> list[Address]:
    return [Address(f"n{number}", 4150) for number in range(first, first + 5000)]


def test_thousands_leave_room_for_what_another_nsqlookupd_names() -> None:
    targets = Targets((), (PAIR, OTHER))
    assert not targets.found(LIAR, many(0), START)
    assert targets.found(LOOKUPD, [ONE, TWO], START)
    due = targets.due(START)
    assert len(due) == MOST_CONNECTIONS
    assert {Target(ONE, PAIR), Target(TWO, OTHER)} <= set(due)


def test_new_names_at_each_look_up_add_up_to_no_more() -> None:
    """Neither those that never answer, nor those that do and keep their connections, nor those that hang up."""
    targets, now = Targets((), (PAIR,)), START
    opened: set[Target] = set()
    for turn in range(20):
        now += 2
        targets.found(LIAR, many(turn * 5000), now)
        for number, target in enumerate(targets.due(now)):
            match number % 3:
                case 0:
                    targets.opened(target, now)
                    opened.add(target)
                case 1:
                    targets.opened(target, now)
                    targets.closed(target, True, now, LATEST)
                case 2:
                    targets.failed(target, now, LATEST)
        assert len(targets._attempts) <= 3 * MOST_CONNECTIONS
        assert len(targets._lost) <= MOST_CONNECTIONS
    assert len(opened) <= MOST_CONNECTIONS
    assert targets.found(LOOKUPD, [ONE], now)
    assert Target(ONE, PAIR) in targets.due(now)


def test_who_is_connected_stays_when_there_is_no_more_room() -> None:
    targets = looked_up(ONE)
    open_all(targets, START)
    assert not targets.found(LOOKUPD, [*many(0), ONE], START + 2)
    targets.closed(Target(ONE, PAIR), True, START + 10, LATEST)
    assert targets.due(START + 11)[-1] == Target(ONE, PAIR)
