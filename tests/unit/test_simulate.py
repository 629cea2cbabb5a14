# SPDX-License-Identifier: GPL-2.0-or-later
"""Days that a seed found: each was a fault once. What is printed for a seed that fails belongs here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulate.steps import At, Database, Say, Scenario, Subscribe, Wait, scenario
from tests.simulate.truth import run

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
}


@pytest.mark.parametrize("day", DAYS)
def test_a_day_that_was_bad_once(day: str, tmp_path: Path) -> None:
    assert run(DAYS[day], tmp_path)[0] == []


def test_a_seed_makes_the_same_day_each_time(tmp_path: Path) -> None:
    assert scenario(7) == scenario(7)
    assert run(scenario(7), tmp_path) == run(scenario(7), tmp_path)
