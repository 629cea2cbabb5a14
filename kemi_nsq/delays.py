# SPDX-License-Identifier: GPL-2.0-or-later
"""Delays that grow: before a connect, before a message comes again, for whatever failed and is left alone."""

from __future__ import annotations

RETRY_FIRST_S = 0.1
RETRY_MAX_S = 10.0
#: A nsqd that returns is to be consumed within 3 seconds.
RECONNECT_MAX_S = 2.0
REQUEUE_FIRST_MS = 500
#: nsqd's default for --max-req-timeout is one hour; a lamp that waits longer than a minute is wrong anyway.
REQUEUE_MAX_MS = 60_000
#: A nsqd that failed to take a message is left alone for this long, doubled with each failure.
BREAKER_FIRST_S = 0.1
BREAKER_MAX_S = 5.0


def reconnect_delay_s(failures: int, chance: float) -> float:
    """Return the seconds to wait before connecting again to a nsqd that does not answer; see `retry_delay_s`."""
    return min(RECONNECT_MAX_S * (0.5 + chance / 2), retry_delay_s(failures, chance))


def retry_delay_s(failures: int, chance: float) -> float:
    """Return the seconds to wait before something that failed is tried again.

    Args:
        failures: in a row, 1 or more.
        chance: between 0 and 1; spreads the clients of a restarted nsqd over the second half of the delay.
    """
    delay = min(RETRY_MAX_S, RETRY_FIRST_S * 2.0 ** min(failures - 1, 16))
    return delay * (0.5 + chance / 2)


def breaker_delay_s(failures: int) -> float:
    """Return the seconds for which a nsqd is left alone after `failures` publishes in a row that it did not take."""
    return min(BREAKER_MAX_S, BREAKER_FIRST_S * 2.0 ** min(failures - 1, 16))


def requeue_delay_ms(attempts: int) -> int:
    """Return the milliseconds that a message waits before its next delivery, doubled with each attempt."""
    return min(REQUEUE_MAX_MS, REQUEUE_FIRST_MS * (1 << min(max(attempts, 1) - 1, 16)))
