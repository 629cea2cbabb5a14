# SPDX-License-Identifier: GPL-2.0-or-later
"""The thread of a consumer process that serves NSQ_METRICS_ADDRESS, for all processes of this Kamailio.

Each consumer has it, and the one that can listen serves; the others try again now and then, so that somebody serves
when that one has ended.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path

from kemi_nsq.background import Background
from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.consumer.message import Item
from kemi_nsq.errors import ConnectionLost, NsqError
from kemi_nsq.host import Level, Report
from kemi_nsq.monitoring import metrics
from kemi_nsq.monitoring.scrape import PATH, Scraped
from kemi_nsq.monitoring.status import look
from kemi_nsq.names import Address

#: Seconds after which it is tried again to listen where somebody else does.
RETRY_S = 5.0
#: The thread looks so often whether it shall stop.
_LOOK_S = 0.5
#: Seconds that may be spent asking the other consumers and nsqd; Prometheus waits for 10 by default.
_WITHIN_S = 4.0


class Metrics(Background):
    """Serves metrics.

    Args:
        address: where to listen.
        folder: the runtime folder, whose pages are read.
        first: whether this process says where they are, or why not: of several, one does.
        emit: takes what the main thread should log.
        clock: tells the time.
    """

    def __init__(
        self, address: Address, folder: Path, *, first: bool, emit: Callable[[Item], None], clock: Clock = SYSTEM
    ) -> None:
        super().__init__("nsq-metrics", emit)
        self._address = address
        self._folder = folder
        self._first = first
        self._emit = emit
        self._clock = clock
        self._scraped: Scraped | None = None
        self._said = ""

    def _work(self) -> None:
        if not self._first:  # or, at the start, the first one would find its address taken by one of us
            self._stopping.wait(RETRY_S)
        while not self._stopping.is_set():
            if self._scraped is not None:
                self._scraped.serve(_LOOK_S)
                continue
            try:
                self._scraped = Scraped(self._address, self._text)
                # An end is said at the level of its beginning.
                self._say(Level.WARNING if self._said else Level.INFO, f"metrics are at http://{self._address}{PATH}")
            except ConnectionLost as error:
                self._say(Level.WARNING, f"no metrics: NSQ_METRICS_ADDRESS {error}; trying again every {RETRY_S:.0f} s")
                self._stopping.wait(RETRY_S)

    def _end(self) -> None:
        if self._scraped is not None:
            self._scraped.close()

    def _say(self, level: Level, text: str) -> None:
        if self._first and text != self._said:
            self._emit(Report(level=level, text=text))
        self._said = text

    def _text(self) -> bytes:
        try:
            return metrics.text(look(self._folder, self._clock.wall(), within_s=_WITHIN_S))
        except NsqError as error:  # the folder is gone, and will be made again
            return f"# {error}\n".encode()


def warning(address: Address) -> str:
    """Return what is to be said of an address that other machines may reach, '' for one of loopback."""
    try:
        safe = ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        safe = address.host == "localhost"
    return "" if safe else f"NSQ_METRICS_ADDRESS {address} is open to other machines, and asks for no password"
