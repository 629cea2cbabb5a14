# SPDX-License-Identifier: GPL-2.0-or-later
"""The CPU by stage: each function has its own time alone, timers cost nothing, and all adds up to what was measured."""

from __future__ import annotations

import io
import threading
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.bench.stages import ALL, REST, Block, as_table
from tests.bench.timers import Stage, Timers, net_ns

STAGES = st.dictionaries(
    st.text("abc", min_size=1),
    st.builds(Stage, calls=st.integers(1, 1000), own_ns=st.integers(0, 10**9), inner=st.integers(0, 1000)),
    min_size=1,
)
TIMES = st.floats(min_value=1e6, max_value=1e12)


class Work:
    """Functions that take time, by a clock that only they move.

    Attributes:
        now: what the clock shows.
    """

    def __init__(self) -> None:
        self.now = 0
        self.timers = Timers(lambda: self.now)
        self.inner = self.timers.timed("inner", self.take)
        self.outer = self.timers.timed("outer", self._outer)

    def take(self, nanoseconds: int) -> int:
        """Take time."""
        self.now += nanoseconds
        return self.now

    def fail(self, nanoseconds: int) -> None:
        """Take time, and fail."""
        self.take(nanoseconds)
        raise ValueError

    def _outer(self) -> None:
        self.take(1)
        self.inner(10)
        self.inner(nanoseconds=20)
        self.take(2)


class TestTimers:
    def test_a_stage_has_its_own_time_without_that_of_others_inside(self) -> None:
        work = Work()
        work.outer()
        work.outer()
        assert work.timers.stages == {
            "inner": Stage(calls=4, own_ns=60, inner=0),
            "outer": Stage(calls=2, own_ns=6, inner=4),
        }

    def test_functions_of_one_stage_count_together_also_one_inside_the_other(self) -> None:
        work = Work()
        work.timers.timed("inner", work.outer)()
        work.inner(5)
        assert work.timers.stages["inner"] == Stage(calls=4, own_ns=35, inner=1)

    def test_it_does_what_the_function_does(self) -> None:
        work = Work()
        assert work.inner(7) == 7
        with pytest.raises(ValueError, match=r"^$"):
            work.timers.timed("fails", work.fail)(3)
        assert work.timers.stages["fails"] == Stage(calls=1, own_ns=3, inner=0)
        assert work.inner.__name__ == "take"

    def test_what_failed_is_inside_no_more(self) -> None:
        work = Work()
        fails = work.timers.timed("fails", work.fail)

        def twice() -> None:
            for _ in range(2):
                with suppress(ValueError):
                    fails(3)
            work.take(1)

        work.timers.timed("outer", twice)()
        assert work.timers.stages["outer"] == Stage(calls=1, own_ns=1, inner=2)

    def test_another_thread_is_not_inside(self) -> None:
        work = Work()

        def in_a_thread() -> None:
            thread = threading.Thread(target=work.inner, args=(10,))
            thread.start()
            thread.join()

        work.timers.timed("outer", in_a_thread)()
        assert work.timers.stages["outer"].inner == 0

    def test_it_begins_anew(self) -> None:
        work = Work()
        work.outer()
        work.timers.reset()
        work.inner(4)
        assert work.timers.stages == {"inner": Stage(calls=1, own_ns=4, inner=0), "outer": Stage()}

    def test_a_trial_tells_the_parts_of_the_cost(self) -> None:
        assert 0 < Timers().share_inside() <= 1
        assert Timers(lambda: 0).share_inside() == 0.5  # a clock that does not see it


def test_timers_cost_inside_a_stage_and_around_it() -> None:
    assert net_ns(Stage(calls=2, own_ns=1000, inner=3), cost_ns=100, share_inside=0.25) == 1000 - 50 - 225


class TestProfile:
    @given(STAGES, TIMES, TIMES, st.floats(0, 1))
    def test_stages_and_rest_add_up_to_what_was_measured(
        self, stages: dict[str, Stage], plain_ns: float, timed_ns: float, share: float
    ) -> None:
        block = Block(events=100, plain_ns=plain_ns, timed_ns=timed_ns, stages=stages, share_inside=share)
        profile = block.profile()
        assert [*profile] == [*stages, REST, ALL]
        assert profile[ALL] == pytest.approx(plain_ns / 100 / 1000)
        assert sum(profile.values()) - profile[ALL] == pytest.approx(profile[ALL], rel=1e-6, abs=1e-3)

    def test_what_the_timers_cost_is_what_their_process_took_more(self) -> None:
        stages = {"outer": Stage(calls=10, own_ns=60_000, inner=30), "inner": Stage(calls=30, own_ns=90_000, inner=0)}
        block = Block(events=10, plain_ns=120_000, timed_ns=160_000, stages=stages, share_inside=0.5)
        # 40 timers for 40,000 ns
        assert block.profile() == {"outer": 4.0, "inner": 7.5, REST: 0.5, ALL: 12.0}

    def test_timers_that_seem_to_save_time_cost_nothing(self) -> None:
        block = Block(events=1, plain_ns=5000, timed_ns=4000, stages={"a": Stage(1, 3000, 0)}, share_inside=0.5)
        assert block.profile() == {"a": 3.0, REST: 2.0, ALL: 5.0}

    def test_the_table_has_a_row_for_each_stage_and_a_column_for_each_way(self) -> None:
        file = io.StringIO()
        profile = {"JSON": 1.25, REST: 0.5, ALL: 1.75}
        Console(file=file, width=100).print(as_table({"one way": profile, "another": profile | {"JSON": 3}}))
        rows = [[cell.strip() for cell in line.strip("┃│").split("│")] for line in file.getvalue().splitlines()]
        assert ["JSON", "1.2", "3.0"] in rows
        assert [ALL, "1.8", "1.8"] in rows
