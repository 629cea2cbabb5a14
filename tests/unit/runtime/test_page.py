# SPDX-License-Identifier: GPL-2.0-or-later
"""A page says what was shown, whichever thread or process did, and a reader takes no other layout for this one."""

from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemi_nsq.counters import Counter
from kemi_nsq.runtime import page as layout
from kemi_nsq.runtime.page import Fact, Gauge, Page, Sheet, read


class Shown:
    """A page whose memory the test has."""

    def __init__(self) -> None:
        self.memory = bytearray(layout.SIZE)
        self.page = Page(self._make)

    def _make(self, pid: int) -> bytearray:
        layout.prepare(self.memory, pid, 42)
        return self.memory

    @property
    def sheet(self) -> Sheet:
        """The page as a reader sees it."""
        sheet = read(bytes(self.memory))
        assert sheet is not None
        return sheet


@pytest.fixture
def shown() -> Shown:
    return Shown()


def test_a_new_page_says_whose_it_is_and_nothing_else(shown: Shown) -> None:
    shown.page.role("consumer")
    sheet = shown.sheet
    assert (sheet.pid, sheet.started, sheet.role) == (os.getpid(), 42, "consumer")
    assert (sheet.counters, sheet.facts) == ({}, {})
    assert set(sheet.gauges.values()) == {0.0}


def test_every_counter_gauge_and_fact_has_a_place_of_its_own(shown: Shown) -> None:
    for number, counter in enumerate(Counter, 1):
        for _ in range(number):
            shown.page.count(counter)
    for number, gauge in enumerate(Gauge):
        shown.page.set(gauge, number + 0.5)
    for fact in Fact:
        shown.page.show(fact, f"{fact} " * 1000)
    sheet = shown.sheet
    assert sheet.counters == {counter: number for number, counter in enumerate(Counter, 1)}
    assert sheet.gauges == {gauge: number + 0.5 for number, gauge in enumerate(Gauge)}
    assert sheet.facts == {fact: (f"{fact} " * 1000)[: fact.size] for fact in Fact}


def test_a_fact_can_be_taken_back(shown: Shown) -> None:
    shown.page.show(Fact.DATABASE, "gone")
    assert shown.page.shown(Fact.DATABASE) == shown.sheet.facts[Fact.DATABASE] == "gone"
    shown.page.show(Fact.DATABASE, "")
    assert shown.page.shown(Fact.DATABASE) == ""
    assert shown.sheet.facts == {}


@given(st.text(max_size=600))
def test_any_text_is_shown_as_far_as_there_is_room(text: str) -> None:
    page = Page()
    page.show(Fact.BACKOFF, text)
    shown = page.shown(Fact.BACKOFF)
    assert text.startswith(shown)
    assert len(text.encode()) <= Fact.BACKOFF.size or len(shown.encode()) > Fact.BACKOFF.size - 4


def test_the_ids_of_256_messages_fit() -> None:
    ids = [f"{number:016x}" for number in range(256)]
    page = Page()
    page.show(Fact.HANDLING, " ".join(ids))
    assert page.shown(Fact.HANDLING).split() == ids


def test_a_lone_surrogate_is_no_error() -> None:
    page = Page()
    page.show(Fact.BACKOFF, "a\udc80b")
    assert page.shown(Fact.BACKOFF) == "a?b"


def test_threads_lose_no_count(shown: Shown) -> None:
    def many() -> None:
        for _ in range(20_000):
            shown.page.count(Counter.RECEIVED)

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shown.sheet.counters == {Counter.RECEIVED: 80_000}


def test_a_child_has_a_page_of_its_own() -> None:
    pids: list[int] = []

    def make(pid: int) -> bytearray:
        pids.append(pid)
        return bytearray(layout.SIZE)

    page = Page(make)
    page.count(Counter.BUG)
    child = os.fork()
    if child == 0:
        page.count(Counter.BUG)
        os._exit(0 if pids == [os.getppid(), os.getpid()] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pids == [os.getpid()]


def test_what_is_no_page_of_this_layout_is_not_read(shown: Shown) -> None:
    shown.page.count(Counter.BUG)
    data = bytes(shown.memory)
    for other in (b"", data[:-1], data + b"x", b"x" + data[1:], data[:8] + bytes(4) + data[12:]):
        assert read(other) is None


def test_a_length_that_was_read_while_it_changed_is_no_error(shown: Shown) -> None:
    shown.page.show(Fact.DATABASE, "gone")
    data = shown.memory.replace(b"\4" + bytes(7), b"\xff" * 8)
    sheet = read(bytes(data))
    assert sheet is not None
    assert len(sheet.facts[Fact.DATABASE]) == Fact.DATABASE.size
