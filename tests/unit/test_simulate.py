# SPDX-License-Identifier: GPL-2.0-or-later
"""Days that a seed found: each was a fault once. What is printed for a seed that fails belongs here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NoReturn

import pytest

from kemi_nsq.names import Subscription
from kemi_nsq.plugin.nsq_functions import NsqFunctions
from kemi_nsq.testing import FakeHost
from tests.simulate import hoards
from tests.simulate.faults import FAULTS, put_back
from tests.simulate.steps import At, Database, Kill, Publish, Say, Scenario, Subscribe, Wait, scenario
from tests.simulate.truth import run
from tests.support.gates import TestedGate
from tests.support.interrupt import INTERRUPTED
from tests.support.looked_at import REWRITTEN, LookedAt
from tests.support.until import until

_DEFAULTS = {
    "batch": "100",
    "max_in_flight": "50",
    "max_attempts": "3",
    "pua_max_dialogs": "3",
    "notify_interval": "0",
    "pua_watchers_table": "",
    "pua_order_field": "",
}

DAYS = {
    "a call that came after the reset of its sender, and was said before it": Scenario(
        seed=327,
        consumers=1,
        clocks=[0.0],
        settings=_DEFAULTS,
        steps=[Say("call", thing=1), Say("reset")],
    ),
    "a batch whose commit had no answer, just after an outage": Scenario(
        seed=3914,
        consumers=1,
        clocks=[0.0, 30.0, -2.0],
        settings=_DEFAULTS | {"pua_max_dialogs": "0"},
        steps=[
            Database("frozen"),
            Say("call", nsqd=2, thing=6, state="terminated", sender=1, short=True),
            Subscribe(0, mailbox=True),
            Wait(12.0),
            Say("mailbox", thing=3),
            At(3, 30, "lost"),
            Database("works"),
            Wait(12.0),
        ],
    ),
    "a process that dies with a NOTIFY that it held back": Scenario(
        seed=7124,
        consumers=1,
        clocks=[0.0],
        settings=_DEFAULTS | {"notify_interval": "1.5"},
        steps=[
            Subscribe(2),
            Say("call", user=2, thing=19),
            Wait(0.3),
            Say("call", user=2, thing=16),
            Wait(0.6),
            Kill(0),
        ],
    ),
}


#: A seed that finds each fault. Where `steps` was changed, `python -m tests.simulate 300 --fault FAULT` finds others.
FOUND_BY = {
    "a tombstone is visible": 1,
    "an outage costs attempts": 11,
    "what nsqd has taken is sent again while the outbox cannot be written": 2,
    "a reset forgets its sender": 69,
    "what was refused, or had no answer, is not told again": 8,
    "what a dead process had still to tell is told by nobody": 190,
}


@pytest.mark.parametrize("day", DAYS)
def test_a_day_that_was_bad_once(day: str, tmp_path: Path) -> None:
    assert run(DAYS[day], tmp_path)[0] == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_is_put_back_is_found(fault: str, tmp_path: Path) -> None:
    day = scenario(FOUND_BY[fault])
    with put_back(fault):
        assert run(day, tmp_path)[0]
    assert run(day, tmp_path)[0] == []


def test_a_bug_that_only_a_worker_meets_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> NoReturn:
        raise RuntimeError

    day = Scenario(seed=1, consumers=1, clocks=[0.0], settings=_DEFAULTS, steps=[Publish(1)])
    assert run(day, tmp_path)[0] == []
    monkeypatch.setattr(NsqFunctions, "publish", broken)
    assert run(day, tmp_path)[0] == ["1 bugs"]


def test_what_is_never_forgotten_is_a_hoard() -> None:
    gate = TestedGate(FakeHost())
    assert hoards.hoards(gate) == []
    gate._limits.update({Subscription("t", str(number)): 1 for number in range(hoards.MOST + 1)})
    assert hoards.hoards(gate) == [f"TestedGate._limits holds {hoards.MOST + 1} things"]


def test_a_seed_makes_the_same_day_each_time(tmp_path: Path) -> None:
    assert scenario(7) == scenario(7)
    assert run(scenario(7), tmp_path) == run(scenario(7), tmp_path)


def test_on_a_terminal_it_shows_how_far_it_is_in_one_line(tmp_path: Path) -> None:
    with LookedAt("tests.simulate", "4", terminal=True, folder=tmp_path) as simulate:
        assert simulate.wait_exit() == 0
        assert re.search(r"\d of 4 seeds, 0 failed, \d+ seeds/s, \d+ s, about \d+ s left", simulate.errors)
        assert simulate.errors.endswith(REWRITTEN)
        assert simulate.output.startswith("4 seeds in ")


def test_in_a_pipe_it_shows_nothing_of_that(tmp_path: Path) -> None:
    with LookedAt("tests.simulate", "4", terminal=False, folder=tmp_path) as simulate:
        assert (simulate.wait_exit(), simulate.errors) == (0, "")
        assert simulate.output.startswith("4 seeds in ")


@pytest.mark.parametrize("terminal", [True, False])
def test_ctrl_c_ends_it_and_leaves_nothing(terminal: bool, tmp_path: Path) -> None:
    with LookedAt("tests.simulate", "100000", terminal=terminal, folder=tmp_path) as simulate:
        until(lambda: any(simulate.temporary.glob("*/*/*")), timeout_s=30, what="a worker that works")
        simulate.interrupt()
        assert simulate.wait_exit() == INTERRUPTED
        assert re.fullmatch(r"incomplete: \d+ of 100000 seeds in [\d.]+ s, \d+ failed\n", simulate.output)
        assert "Traceback" not in simulate.errors
        assert simulate.left_behind() == []
        assert list(simulate.temporary.iterdir()) == []
