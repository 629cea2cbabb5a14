# SPDX-License-Identifier: GPL-2.0-or-later
"""The one lock: waited for, but not for ever, and never in silence."""

from __future__ import annotations

import pytest

from kemi_nsq.counters import Counter
from kemi_nsq.host import Level
from kemi_nsq.presence.lock import IMPATIENCE_S, PATIENCE_S, PresenceLock
from kemi_nsq.testing import FakeHost
from tests.support.clock import SetClock

NAME = "presence"


class BusyHost(FakeHost):
    """A host on which somebody else has the lock for a while.

    Attributes:
        free_after: how many tries are in vain; None for ever.
        tries: how many there were.
    """

    def __init__(self, free_after: int | None) -> None:
        super().__init__()
        self.free_after = free_after
        self.tries = 0

    def try_lock(self, name: str) -> bool | None:
        self.tries += 1
        self.locked_elsewhere = {name} if self.free_after is None or self.tries <= self.free_after else set()
        return super().try_lock(name)


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


def made(host: FakeHost, clock: SetClock) -> PresenceLock:
    return PresenceLock(host, NAME, one_writer=True, clock=clock.clock)


def test_a_lock_that_is_free_costs_one_try_and_no_time(clock: SetClock) -> None:
    host, before = BusyHost(0), clock.monotonic
    with made(host, clock).writing():
        assert host.locked == {NAME}
    assert (host.tries, clock.monotonic, host.locked, host.lines) == (1, before, set(), [])


def test_one_that_another_has_for_a_moment_is_waited_for_in_silence(clock: SetClock) -> None:
    host, before = BusyHost(210), clock.monotonic
    with made(host, clock).held("a test"):
        assert host.locked == {NAME}
    assert 0 < clock.monotonic - before < 0.01
    assert (host.lines, host.counters) == ([], {})


def test_after_a_while_the_work_goes_on_without_it_and_a_line_says_what_to_look_for(clock: SetClock) -> None:
    host, before = BusyHost(None), clock.monotonic
    with made(host, clock).held("nsq_pua_handle"):
        assert PATIENCE_S <= clock.monotonic - before < PATIENCE_S + 0.1
    assert host.locked == set()
    assert host.counters == {Counter.LOCK_FAILED: 1}
    ((level, line),) = host.lines
    assert level is Level.ERROR
    assert line.startswith("nsq_pua_handle goes on without the lock 'presence', so ")
    assert 'was not given within 10 s: whoever has it keeps it. The usual cause is lock("presence") in' in line


def test_then_others_wait_for_a_moment_only_until_it_is_given_again(clock: SetClock) -> None:
    host = BusyHost(None)
    lock = made(host, clock)
    waits = []
    for free_after in (None, None, 0, None):
        host.tries, host.free_after, before = 0, free_after, clock.monotonic
        with lock.held("a test"):
            waits.append(clock.monotonic - before)
    assert waits == [pytest.approx(wait, abs=0.01) for wait in (PATIENCE_S, IMPATIENCE_S, 0, PATIENCE_S)]


def test_where_there_are_no_locks_nobody_waits(clock: SetClock) -> None:
    host, before = FakeHost(), clock.monotonic
    host.has_locks = False
    with made(host, clock).held("a test"):
        pass
    assert clock.monotonic == before
    assert host.lines[0][1].endswith("it was refused. Is cfgutils' lock_set_size set?")


def test_who_has_it_may_take_it_again(clock: SetClock) -> None:
    host = BusyHost(0)
    lock = made(host, clock)
    with lock.held("presence_lock"):
        with lock.held("nsq_pua_handle"):
            assert host.locked == {NAME}
        assert host.locked == {NAME}, "the inner block gives it not back"
    assert (host.locked, host.tries) == (set(), 1)


def test_what_the_work_raises_leaves_it_free(clock: SetClock) -> None:
    host = BusyHost(0)
    with pytest.raises(KeyError), made(host, clock).held("a test"):
        raise KeyError
    assert host.locked == set()


def test_without_a_name_there_is_none(clock: SetClock) -> None:
    host = BusyHost(None)
    with PresenceLock(host, "", one_writer=True, clock=clock.clock).held("a test"):
        pass
    assert host.tries == 0
