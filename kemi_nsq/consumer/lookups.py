# SPDX-License-Identifier: GPL-2.0-or-later
"""Asks nsqlookupd which nsqd there are: a thread for each, so that one that does not answer keeps no other waiting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kemi_nsq.background import Background
from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.consumer.message import Item
from kemi_nsq.errors import TransientError
from kemi_nsq.names import Address
from kemi_nsq.nsq import httpapi, nodes

#: Each nsqlookupd is asked so often: what it names is to be consumed within 3 seconds.
LOOKUP_INTERVAL_S = 2.0
LOOKUP_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What came of asking a nsqlookupd.

    Attributes:
        lookupd: its address.
        listed: which nsqd it names, or why that is not known.
    """

    lookupd: Address
    listed: nodes.Listed | TransientError


class Lookups(Background):
    """Asks one nsqlookupd, for ever.

    Args:
        lookupd: its address.
        found: takes what came of it, each time.
        emit: learns that this thread broke.
        clock: throws dice.
    """

    def __init__(
        self,
        lookupd: Address,
        *,
        found: Callable[[Found], None],
        emit: Callable[[Item], None],
        clock: Clock = SYSTEM,
    ) -> None:
        super().__init__("nsq-lookups", emit)
        self._lookupd = lookupd
        self._found = found
        self._clock = clock

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._found(Found(lookupd=self._lookupd, listed=self._ask()))
            self._stopping.wait(LOOKUP_INTERVAL_S * (0.8 + 0.4 * self._clock.chance()))

    def _ask(self) -> nodes.Listed | TransientError:
        try:
            answer = httpapi.get(self._lookupd, nodes.PATH, timeout_s=LOOKUP_TIMEOUT_S)
            return nodes.read(answer.body, self._lookupd, "tcp_port")
        except TransientError as error:
            return error
