# SPDX-License-Identifier: GPL-2.0-or-later
"""A gate whose time the test sets, and whose probes say what the test says."""

from __future__ import annotations

from collections.abc import Mapping

from kemi_nsq.consumer.gate import Gate
from kemi_nsq.consumer.outage import Kind
from kemi_nsq.errors import StoreError
from kemi_nsq.host import Host
from kemi_nsq.names import Subscription
from kemi_nsq.page import Page
from tests.support.doubles import Clock


class FakeValve:
    """Remembers what it was told: a topic and its limit, None for as usual."""

    def __init__(self) -> None:
        self.told: list[tuple[Subscription, int | None]] = []

    def pause(self, subscription: Subscription) -> None:
        self.told.append((subscription, 0))

    def resume(self, subscription: Subscription, limit: int | None = None) -> None:
        self.told.append((subscription, limit))


class TestedGate(Gate):
    """A `Gate` with fakes around it.

    Attributes:
        clock: its time.
        failing: what fails when it is probed, and why.
        probed: what was probed, and when.
        page: what it shows.
    """

    __test__ = False

    def __init__(self, host: Host, *, backoff_max_s: float = 0, page: Page | None = None) -> None:
        self.clock = Clock()
        self.page = page or Page()
        self.failing: dict[Kind, str] = {}
        self.probed: list[tuple[Kind, float]] = []
        probes: Mapping[Kind, Probe] = {kind: Probe(self, kind) for kind in Kind}
        super().__init__(host, self.page, probes, backoff_max_s=backoff_max_s, clock=self.clock)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and do what is due in it, when it is due."""
        end = self.clock.now + seconds
        while (due := self.next_due()) is not None and due <= end:
            self.clock.now = max(self.clock.now, due)
            self.tick()
        self.clock.now = end


class Probe:
    """Says whether something fails."""

    def __init__(self, gate: TestedGate, kind: Kind) -> None:
        self._gate, self._kind = gate, kind

    def __call__(self) -> None:
        self._gate.probed.append((self._kind, self._gate.clock.now))
        if self._kind in self._gate.failing:
            raise StoreError(self._gate.failing[self._kind])
