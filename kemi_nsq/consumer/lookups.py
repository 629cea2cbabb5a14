# SPDX-License-Identifier: GPL-2.0-or-later
"""Asks nsqlookupd which nsqd there are: a thread for each, so that one that does not answer keeps no other waiting."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.consumer.message import Item
from kemi_nsq.errors import TransientError
from kemi_nsq.host import Broken
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


class Lookups(threading.Thread):
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
        super().__init__(name="nsq-lookups", daemon=True)
        self._lookupd = lookupd
        self._found = found
        self._emit = emit
        self._clock = clock
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End the thread after what it is asking now."""
        self._stopping.set()

    def run(self) -> None:
        """Ask and wait, until `stop`; an error of ours is handed to the main thread."""
        try:
            while not self._stopping.is_set():
                self._found(Found(lookupd=self._lookupd, listed=self._ask()))
                self._stopping.wait(LOOKUP_INTERVAL_S * (0.8 + 0.4 * self._clock.chance()))
        except BaseException:  # whatever it is, the main thread must learn that nobody asks any more
            self._emit(Broken(trace=traceback.format_exc()))

    def _ask(self) -> nodes.Listed | TransientError:
        try:
            answer = httpapi.get(self._lookupd, nodes.PATH, timeout_s=LOOKUP_TIMEOUT_S)
            return nodes.read(answer.body, self._lookupd, "tcp_port")
        except TransientError as error:
            return error
