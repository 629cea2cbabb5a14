# SPDX-License-Identifier: GPL-2.0-or-later
"""RDY shares and delays."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemi_nsq.consumer.connection import ready_share
from kemi_nsq.delays import (
    RECONNECT_MAX_S,
    REQUEUE_FIRST_MS,
    REQUEUE_MAX_MS,
    RETRY_FIRST_S,
    RETRY_MAX_S,
    breaker_delay_s,
    reconnect_delay_s,
    requeue_delay_ms,
    retry_delay_s,
)

COUNTS = st.integers(1, 10_000)


@pytest.mark.parametrize(
    ("max_in_flight", "connections", "max_rdy", "share"),
    [
        (5, 1, 2500, 5),
        (5, 2, 2500, 2),
        (6, 2, 2500, 3),
        (2500, 1, 2500, 2500),
        (2500, 1, 100, 100),
        (1, 1, 2500, 1),
        (1, 3, 2500, 1),  # else two of three nsqd would never be served
        (5, 0, 2500, 5),
        (5, 1, 0, 1),
    ],
)
def test_ready_share(max_in_flight: int, connections: int, max_rdy: int, share: int) -> None:
    assert ready_share(max_in_flight, connections, max_rdy) == share


@given(COUNTS, COUNTS, COUNTS)
def test_shares_keep_the_limit_and_starve_nobody(max_in_flight: int, connections: int, max_rdy: int) -> None:
    share = ready_share(max_in_flight, connections, max_rdy)
    assert 1 <= share <= max_rdy
    assert share * connections <= max(max_in_flight, connections)


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("delay_s", "most_s"), [(retry_delay_s, RETRY_MAX_S), (reconnect_delay_s, RECONNECT_MAX_S)])
def test_a_delay_doubles_up_to_its_limit(delay_s: Callable[[int, float], float], most_s: float, chance: float) -> None:
    delays = [delay_s(failures, chance) for failures in range(1, 20)]
    assert delays[0] == RETRY_FIRST_S * (0.5 + chance / 2)
    assert delays[1] == pytest.approx(2 * delays[0])
    assert delays == sorted(delays)
    assert delays[-1] == most_s * (0.5 + chance / 2)


@given(st.integers(1, 10**9), st.floats(0, 1))
def test_a_delay_is_never_nothing_and_never_above_its_limit(failures: int, chance: float) -> None:
    assert RETRY_FIRST_S / 2 <= reconnect_delay_s(failures, chance) <= RECONNECT_MAX_S
    assert RETRY_FIRST_S / 2 <= retry_delay_s(failures, chance) <= RETRY_MAX_S


def test_requeue_delay_doubles_with_each_attempt() -> None:
    assert [requeue_delay_ms(attempts) for attempts in (1, 2, 3, 4)] == [500, 1000, 2000, 4000]


@given(st.integers(0, 65535))
def test_requeue_delay_has_limits(attempts: int) -> None:
    assert REQUEUE_FIRST_MS <= requeue_delay_ms(attempts) <= REQUEUE_MAX_MS
    assert requeue_delay_ms(attempts) <= requeue_delay_ms(attempts + 1)


@given(st.integers(1, 10**9))
def test_breaker_delay_has_limits(failures: int) -> None:
    assert 0.1 <= breaker_delay_s(failures) <= 5.0
