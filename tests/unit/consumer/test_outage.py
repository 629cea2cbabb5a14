# SPDX-License-Identifier: GPL-2.0-or-later
"""Outages and backoff: who waits for how long, when it is probed, what is said of it and shown."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemi_nsq.consumer import backoff, outage
from kemi_nsq.consumer.backoff import Backoff
from kemi_nsq.consumer.outage import Kind, Outage
from kemi_nsq.counters import Counter
from kemi_nsq.names import Subscription
from kemi_nsq.runtime.page import Fact
from kemi_nsq.testing import FakeHost
from tests.support.gates import FakeValve, TestedGate

A, B, C = (Subscription(topic, "kamailio") for topic in "abc")


class Stage:
    """A gate, and what it told whom."""

    def __init__(self, *, backoff_max_s: float = 0) -> None:
        self.host = FakeHost()
        self.gate = TestedGate(self.host, backoff_max_s=backoff_max_s)
        self.valve = FakeValve()
        self.gate.attach(self.valve)

    @property
    def lines(self) -> list[str]:
        return [text for _, text in self.host.lines]

    def fail(self, *topics: Subscription) -> None:
        """Begin an outage of the database."""
        self.gate.failing[Kind.DATABASE] = "refused"
        self.gate.failed(Kind.DATABASE, topics, "refused")


# Outages


def test_the_topics_that_met_it_are_paused_and_go_on_when_a_probe_succeeds() -> None:
    stage = Stage()
    stage.fail(A)
    assert (stage.gate.holds(A), stage.gate.holds(B)) == (True, False)
    stage.fail(B)
    assert stage.valve.told == [(A, 0), (B, 0)]
    del stage.gate.failing[Kind.DATABASE]
    stage.gate.pass_time(outage.TRIAL_MAX_S)
    assert stage.valve.told[2:] == [(A, None), (B, None)]
    assert not stage.gate.holds(A)
    assert stage.host.counters == {Counter.OUTAGES: 1}


def test_ten_minutes_are_one_line_at_the_start_one_a_minute_and_one_at_the_end() -> None:
    stage = Stage()
    stage.fail(A, B)
    stage.gate.pass_time(600)
    assert stage.valve.told == [(A, 0), (B, 0)]
    del stage.gate.failing[Kind.DATABASE]
    stage.gate.pass_time(3600)
    start, *minutes, end = stage.lines
    assert start == ("the database fails: refused; nothing is taken from a:kamailio, b:kamailio until that is over")
    assert len(minutes) in (9, 10)
    assert all(
        re.match(r"the database fails, for \d+ s now: refused; nothing is taken from a:", line) for line in minutes
    )
    assert re.fullmatch(r"the database works again, after 60\d\.\d s; consuming a:kamailio, b:kamailio again", end)
    assert stage.host.counters == {Counter.OUTAGES: 1}


def test_probes_come_soon_then_later_and_never_too_late() -> None:
    stage = Stage()
    began = stage.gate.clock.monotonic
    stage.fail(A)
    stage.gate.pass_time(60)
    times = [when - began for _, when in stage.gate.tried]
    gaps = [later - sooner for sooner, later in pairwise(times)]
    assert times[0] == pytest.approx(outage.TRIAL_FIRST_S)
    assert gaps == pytest.approx(sorted(gaps))
    assert max(gaps) == pytest.approx(outage.TRIAL_MAX_S)


def test_a_probe_that_waited_long_is_followed_by_a_rest() -> None:
    """It held up the main loop, and with it the topics that need no database."""
    for took_s, rest_s in ((0.0, 0.2), (0.1, 0.2), (1.0, 1.0), (2.0, 2.0), (30.0, outage.TRIAL_REST_S)):
        policy = Outage(Kind.DATABASE)
        policy.failed("gone", [A], 0)
        policy.tried("gone", took_s, took_s=took_s)
        assert policy.trial_due is not None
        assert policy.trial_due - took_s == pytest.approx(rest_s)


def test_another_topic_that_meets_it_is_named_once() -> None:
    stage = Stage()
    stage.fail()
    assert stage.lines == ["the database fails: refused; expiry and hiding wait"]
    for _ in range(3):
        stage.fail(A)
    assert stage.lines[1:] == ["the database fails: nothing is taken from a:kamailio either"]


def test_two_kinds_hold_a_topic_until_both_are_over() -> None:
    stage = Stage()
    for kind in Kind:
        stage.gate.failing[kind] = "gone"
        stage.gate.failed(kind, [A], "gone")
    del stage.gate.failing[Kind.DATABASE]
    stage.gate.pass_time(5)
    assert stage.gate.holds(A)
    stage.gate.failing.clear()
    stage.gate.pass_time(5)
    assert not stage.gate.holds(A)
    assert stage.valve.told == [(A, 0), (A, None)]
    assert stage.host.counters == {Counter.OUTAGES: 2}


def test_what_fails_again_at_once_is_the_same_outage_and_does_not_fill_the_log() -> None:
    """The probe succeeds each time, as on a disk with room for a small row; what comes then fails."""
    stage = Stage()
    for _ in range(300):
        stage.gate.failed(Kind.DATABASE, [A], "no space left")
        stage.gate.pass_time(outage.TRIAL_MAX_S)
    assert len(stage.gate.tried) < 400
    assert len(stage.lines) <= 3 + 300 * outage.TRIAL_MAX_S / outage.SAY_AGAIN_S
    assert stage.lines[2].startswith("the database fails, after it seemed to be over: no space left; nothing is taken")
    assert stage.gate.page.shown(Fact.DATABASE).endswith(": no space left")
    stage.gate.pass_time(outage.RELAPSE_S)
    assert re.fullmatch(r"the database works again, after \d+\.\d s", stage.lines[-1])
    assert stage.gate.page.shown(Fact.DATABASE) == ""
    assert stage.host.counters == {Counter.OUTAGES: 1}


def test_what_fails_long_after_is_another_outage() -> None:
    stage = Stage()
    for _ in range(2):
        stage.gate.failed(Kind.DATABASE, [A], "gone")
        stage.gate.pass_time(outage.RELAPSE_S * 3)
    assert stage.host.counters == {Counter.OUTAGES: 2}
    assert len(stage.lines) == 4


def test_it_is_shown_while_it_lasts() -> None:
    stage = Stage()
    assert stage.gate.page.shown(Fact.DATABASE) == ""
    stage.fail(A)
    assert re.fullmatch(r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d: refused", stage.gate.page.shown(Fact.DATABASE))
    assert stage.gate.page.shown(Fact.DEAD_LETTERS) == ""
    stage.gate.failing.clear()
    stage.gate.pass_time(5)
    assert stage.gate.page.shown(Fact.DATABASE) == ""


def test_a_new_io_thread_is_told_what_is_paused() -> None:
    stage = Stage()
    stage.fail(A)
    other = FakeValve()
    stage.gate.attach(other)
    assert other.told == [(A, 0)]


def test_nothing_is_due_while_all_is_well() -> None:
    stage = Stage(backoff_max_s=60)
    stage.gate.route_failed(A, "1")
    stage.gate.route_succeeded(A)
    stage.gate.tick()
    assert (stage.gate.next_due(), stage.lines, stage.valve.told) == (None, [], [])


@given(st.lists(st.tuples(st.floats(0.001, 30), st.sampled_from(["failed", "probe failed", "probe ok", "tick"]))))
def test_a_topic_that_waits_is_always_probed_for(steps: list[tuple[float, str]]) -> None:
    """Whatever happens, in whatever order: nobody waits without a probe that is due soon."""
    policy, now = Outage(Kind.DATABASE), 0.0
    for wait, step in steps:
        now += wait
        if step == "failed":
            policy.failed("gone", [A], now)
        elif step.startswith("probe") and policy.trial_due is not None:
            policy.tried("" if step.endswith("ok") else "gone", now)
        policy.tick(now)
        if policy.held:
            assert policy.lasts
        if policy.lasts:
            assert policy.trial_due is not None
            assert policy.trial_due <= now + outage.TRIAL_MAX_S
            due = policy.next_due()
            assert due is not None
            assert due <= policy.trial_due


# Backoff


def fail_all(stage: Stage, topic: Subscription = A, count: int = backoff.FAILURES) -> None:
    for number in range(count):
        stage.gate.route_failed(topic, str(number))


def test_a_route_that_fails_for_five_messages_in_a_row_rests_and_then_tries_one() -> None:
    stage = Stage(backoff_max_s=60)
    fail_all(stage, count=backoff.FAILURES - 1)
    assert stage.valve.told == []
    stage.gate.route_failed(A, "another")
    assert stage.valve.told == [(A, 0)]
    assert (stage.gate.holds(A), stage.gate.holds(B)) == (True, False)
    stage.gate.pass_time(backoff.FIRST_S)
    assert stage.valve.told == [(A, 0), (A, 1)]
    assert not stage.gate.holds(A)
    stage.gate.route_succeeded(A)
    assert stage.valve.told[2:] == [(A, None)]
    assert stage.lines == [
        "5 events of a:kamailio failed in a row: nothing is taken from it for 1 s, then one on trial, and so on, later "
        "each time",
        "events of a:kamailio succeed again, after 1 s",
    ]
    assert stage.host.counters == {Counter.BACKOFFS: 1}


def test_it_rests_twice_as_long_after_each_trial_up_to_the_limit() -> None:
    stage = Stage(backoff_max_s=10)
    fail_all(stage)
    rested = []
    for _ in range(6):
        began, told = stage.gate.clock.monotonic, len(stage.valve.told)
        while len(stage.valve.told) == told:
            stage.gate.pass_time(0.5)
        rested.append(stage.gate.clock.monotonic - began)
        stage.gate.route_failed(A, "trial")
    assert rested == [1, 2, 4, 8, 10, 10]


def test_one_message_that_fails_for_ever_holds_nobody_up() -> None:
    stage = Stage(backoff_max_s=60)
    for _ in range(50):
        stage.gate.route_failed(A, "the one")
    assert stage.valve.told == []
    for number in range(50):
        stage.gate.route_failed(A, str(number))
        stage.gate.route_succeeded(A)
    assert stage.valve.told == []


def test_a_backoff_is_told_of_once_a_minute_and_shown() -> None:
    stage = Stage(backoff_max_s=60)
    fail_all(stage)
    assert re.fullmatch(r"a:kamailio until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", stage.gate.page.shown(Fact.BACKOFF))
    for second in range(600):
        stage.gate.pass_time(1)
        if not stage.gate.holds(A):
            stage.gate.route_failed(A, str(second))
    assert 9 <= len(stage.lines) <= 11
    stage.gate.pass_time(60)
    stage.gate.route_succeeded(A)
    assert stage.gate.page.shown(Fact.BACKOFF) == ""


def test_without_a_limit_there_is_none() -> None:
    stage = Stage(backoff_max_s=0)
    fail_all(stage, count=100)
    assert (stage.valve.told, stage.lines) == ([], [])


def test_an_outage_within_a_backoff_leaves_it_as_it_was() -> None:
    stage = Stage(backoff_max_s=60)
    fail_all(stage)
    stage.gate.pass_time(backoff.FIRST_S)
    stage.fail(A)
    stage.gate.failing.clear()
    stage.gate.pass_time(5)
    assert stage.valve.told == [(A, 0), (A, 1), (A, 0), (A, 1)]


def test_a_limit_below_the_first_rest_is_kept() -> None:
    assert Backoff(A, 0.5).failed("1", 0) == ""
    policy = Backoff(A, 0.5)
    for number in range(backoff.FAILURES):
        policy.failed(str(number), 0)
    assert policy.until == 0.5
