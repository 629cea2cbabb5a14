# SPDX-License-Identifier: GPL-2.0-or-later
"""Publishing to the first nsqd that takes a message, with one deadline for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.delays import breaker_delay_s
from kemi_nsq.errors import ConnectionLost, NsqdRefused, TransientError
from kemi_nsq.names import Address
from kemi_nsq.nsq.ways import Batch, Outgoing, Way, Ways, ways
from kemi_nsq.settings import Settings

#: What nsqd answers when the message itself is wrong, or one of a batch; another nsqd would answer the same. The second
#: line is for HTTP (nsqd/http.go).
_MESSAGE_IS_WRONG = frozenset(
    {"E_BAD_MESSAGE", "E_BAD_TOPIC", "E_INVALID", "E_BAD_BODY"}
    | {"MSG_TOO_BIG", "MSG_EMPTY", "INVALID_TOPIC", "INVALID_DEFER", "BODY_TOO_BIG", "BAD_MESSAGE", "BAD_BODY"}
)


@dataclass(slots=True, kw_only=True)
class _Nsqd:
    """One nsqd and its circuit breaker: after a failure it is left alone until `closed_until`."""

    address: Address
    way: Way
    failures: int = 0
    closed_until: float = 0.0


class Publisher:
    """Publishes to the first nsqd that takes the message.

    Args:
        settings: addresses, transport and timeout.
        clock: tells the time.
        make_ways: makes the ways to the nsqd that the settings name.
    """

    def __init__(self, settings: Settings, clock: Clock = SYSTEM, make_ways: Callable[[Settings], Ways] = ways) -> None:
        self._timeout_s = settings.publish_timeout
        self._clock = clock
        self._nsqds = [_Nsqd(address=address, way=way) for address, way in make_ways(settings)]

    def publish(self, message: Outgoing | Batch, *, until: float = math.inf) -> None:
        """Publish a message, or several, and wait until a nsqd has taken it.

        Args:
            message: what to publish.
            until: second of the clock at which the caller gives up, if that is before NSQ_PUBLISH_TIMEOUT is over.

        Raises:
            NsqdRefused: nsqd said that the message is wrong.
            ConnectionLost: no nsqd took it; the text says why, for each.
        """
        now = self._clock.monotonic()
        deadline = min(now + self._timeout_s, until)
        reasons = []
        candidates = [nsqd for nsqd in self._nsqds if now >= nsqd.closed_until]
        for position, nsqd in enumerate(candidates):
            # One that is frozen must leave time for the others.
            share = (deadline - now) / (len(candidates) - position)
            try:
                nsqd.way.publish(message, now + share)
            except TransientError as error:
                if isinstance(error, NsqdRefused) and error.code in _MESSAGE_IS_WRONG:
                    raise
                now = self._clock.monotonic()
                nsqd.failures += 1
                nsqd.closed_until = now + breaker_delay_s(nsqd.failures)
                reasons.append(_reason(nsqd, error))
            else:
                nsqd.failures = 0
                return
        waiting = [
            f"{nsqd.address} left alone after {nsqd.failures} failures"
            for nsqd in self._nsqds
            if nsqd not in candidates
        ]
        raise ConnectionLost("; ".join(reasons + waiting))

    def trial(self) -> None:
        """Find out whether a nsqd answers, those that are left alone included; the one that does no longer is.

        Raises:
            ConnectionLost: none answers; the text says why, for each.
        """
        now = self._clock.monotonic()
        deadline = now + self._timeout_s
        reasons = []
        for position, nsqd in enumerate(self._nsqds):
            try:
                nsqd.way.trial(now + (deadline - now) / (len(self._nsqds) - position))
            except TransientError as error:
                now = self._clock.monotonic()
                reasons.append(_reason(nsqd, error))
            else:
                nsqd.failures, nsqd.closed_until = 0, 0.0
                return
        raise ConnectionLost("; ".join(reasons))


def _reason(nsqd: _Nsqd, error: TransientError) -> str:
    """Say which nsqd it was, if the error does not."""
    text, address = str(error), str(nsqd.address)
    return text if text.startswith(address) else f"{address} {text}"
