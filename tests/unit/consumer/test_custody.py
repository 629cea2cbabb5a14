# SPDX-License-Identifier: GPL-2.0-or-later
"""A message is in the hands of one thread, or given back; never both."""

from __future__ import annotations

import threading

from kemi_nsq.consumer.message import Custody, Delivery
from tests.support.deliveries import delivery


def arrived(*numbers: int) -> tuple[Custody, list[Delivery]]:
    custody, deliveries = Custody(), [delivery(b"12345", number=number) for number in numbers]
    for each in deliveries:
        custody.arrived(each)
    return custody, deliveries


def test_what_was_begun_is_not_given_back() -> None:
    custody, (one, two) = arrived(1, 2)
    assert custody.begin(one)
    assert custody.give_back() == [two]
    assert not custody.begin(two)
    assert custody.give_back() == []


def test_what_was_set_aside_may_be_given_back_or_kept() -> None:
    custody, (one, two) = arrived(1, 2)
    for each in (one, two):
        assert custody.begin(each)
    custody.set_aside(one)
    assert custody.keep(one)
    custody.set_aside(two)
    assert custody.give_back() == [two]
    assert not custody.keep(two)


def test_the_same_message_that_comes_again_is_another_one() -> None:
    custody, (one,) = arrived(1)
    again = delivery(b"12345", number=1)
    assert custody.give_back() == [one]
    custody.arrived(again)
    assert not custody.begin(one)
    assert custody.begin(again)


def test_the_queue_is_what_came_and_was_not_begun_given_back_or_not() -> None:
    custody, (one, two) = arrived(1, 2)
    custody.give_back()
    assert (custody.came, custody.queued, custody.queued_bytes) == (2, 2, 10)
    custody.begin(one)
    assert (custody.queued, custody.queued_bytes) == (1, 5)
    custody.begin(two)
    custody.set_aside(two)
    custody.keep(two)
    assert (custody.queued, custody.queued_bytes) == (0, 0)


def test_two_threads_never_have_the_same_message() -> None:
    custody, deliveries = arrived(*range(50_000))
    given: list[Delivery] = []
    stop = threading.Event()

    def give_back() -> None:
        while not stop.is_set():
            given.extend(custody.give_back())

    thread = threading.Thread(target=give_back)
    mine = []
    thread.start()
    for each in deliveries:
        if custody.begin(each):
            custody.set_aside(each)
            mine.append(each)
    kept = [each for each in mine if custody.keep(each)]
    stop.set()
    thread.join()
    assert len(kept) + len(given) == len(deliveries)
    assert not {each.message.message_id for each in kept} & {each.message.message_id for each in given}
