# SPDX-License-Identifier: GPL-2.0-or-later
"""What a consumer process does besides handling messages: NOTIFYs that were held back, expiry, probes."""

from __future__ import annotations

import time

from kemi_nsq.consumer.gate import Gate
from kemi_nsq.consumer.outage import Kind
from kemi_nsq.counters import Counter
from kemi_nsq.errors import RowRefused, StoreError, TransientError
from kemi_nsq.host import Host, Level
from kemi_nsq.presence.expiry import SWEEP_INTERVAL_S, Expiry
from kemi_nsq.presence.probe import Probe
from kemi_nsq.presence.writer import PresenceWriter
from kemi_nsq.quiet import Quiet

#: A probe that no nsqd took is tried again after so long.
PROBE_RETRY_S = 5


class Chores:
    """Does what is due; an error is logged and counted, and the next time may be better.

    Args:
        host: the SIP server.
        pua: has NOTIFYs that were held back.
        upkeep: ends what expires; None where there is no presentity table.
        probe: asks producers for their state.
        gate: probes what fails; while the database does, nothing here tries it.
    """

    def __init__(self, host: Host, pua: PresenceWriter, upkeep: Expiry | None, probe: Probe, gate: Gate) -> None:
        self._host = host
        self._pua = pua
        self._upkeep = upkeep
        self._probe = probe
        self._gate = gate
        self._quiet = Quiet(host)
        self._sweep_due = time.monotonic()
        self._probe_due: float | None = None

    def begin(self) -> None:
        """Take up what can only be done in a process that calls `tick`."""
        self._pua.begin_ticking()

    def next_due(self) -> float | None:
        """Return the monotonic second at which `tick` has something to do, or None for never."""
        dues = [self._gate.next_due(), self._probe_due]
        if not self._gate.lasts(Kind.DATABASE):
            dues += [self._pua.next_due(), self._sweep_due if self._upkeep else None]
        return min((due for due in dues if due is not None), default=None)

    def tick(self) -> None:
        """Do what is due."""
        self._gate.tick()
        now = time.monotonic()
        if not self._gate.lasts(Kind.DATABASE):
            self._tick_presence()
            if self._upkeep is not None and now >= self._sweep_due:
                self._sweep_due = now + SWEEP_INTERVAL_S
                self._sweep(self._upkeep)
        if self._probe_due is not None and now >= self._probe_due:
            self._ask_everybody(now)

    def connected(self) -> None:
        """Have all states asked for, after a start or an outage: at once, or as soon as that may be done again."""
        self._probe_due = max(time.monotonic(), self._probe.everybody_due())

    def _tick_presence(self) -> None:
        try:
            self._pua.tick()
        except StoreError as error:  # calls that are over are shown until a sweep after it
            self._database_failed(error)

    def _ask_everybody(self, now: float) -> None:
        self._probe_due = None
        try:
            if self._probe.everybody():
                self._host.count(Counter.PROBED)
        except TransientError as error:
            self._probe_due = now + PROBE_RETRY_S
            self._quiet.log(Level.ERROR, "probe", f"no probe: {error}; trying again in {PROBE_RETRY_S} s")

    def _sweep(self, upkeep: Expiry) -> None:
        try:
            upkeep.sweep()
        except StoreError as error:
            self._database_failed(error)
        except RowRefused as error:
            self._host.count(Counter.PUA_DATABASE_ERROR)
            self._quiet.log(Level.ERROR, "sweep", f"expiry waits: {error}")

    def _database_failed(self, error: StoreError) -> None:
        self._host.count(Counter.PUA_DATABASE_ERROR)
        self._gate.failed(Kind.DATABASE, (), str(error))
