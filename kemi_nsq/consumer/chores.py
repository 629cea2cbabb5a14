# SPDX-License-Identifier: GPL-2.0-or-later
"""What a consumer process does besides handling messages: NOTIFYs held back, hiding, expiry, trials, probes."""

from __future__ import annotations

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.consumer.gate import Gate
from kemi_nsq.consumer.outage import Kind
from kemi_nsq.counters import Counter
from kemi_nsq.errors import DatabaseError, RowRefused, TransientError
from kemi_nsq.host import Host, Level
from kemi_nsq.presence.clocks import Clocks
from kemi_nsq.presence.expiry import SWEEP_INTERVAL_S, Expiry
from kemi_nsq.presence.probe import Probe
from kemi_nsq.presence.watchers import Watchers
from kemi_nsq.quiet import Quiet

#: A probe that no nsqd took is tried again after so long.
PROBE_RETRY_S = 5


class Chores:
    """Does what is due; an error is logged and counted, and the next time may be better.

    Args:
        host: the SIP server.
        watchers: some of their NOTIFYs were held back; None where there is no presentity table.
        expiry: ends what expires; None likewise.
        probe: asks producers for their state.
        gate: makes trials of what fails; while the database does, nothing here touches it.
        clock: tells the time.
    """

    def __init__(  # noqa: PLR0913  # the wiring passes each part in
        self,
        host: Host,
        *,
        watchers: Watchers | None,
        expiry: Expiry | None,
        probe: Probe,
        gate: Gate,
        clock: Clock = SYSTEM,
    ) -> None:
        self._host = host
        self._watchers = watchers
        self._expiry = expiry
        self._probe = probe
        self._gate = gate
        self._clocks: Clocks | None = None
        self._clock = clock
        self._quiet = Quiet(host, clock)
        self._sweep_due = clock.monotonic()
        self._probe_due: float | None = None

    def begin(self) -> None:
        """Take up what can only be done in a process that calls `tick`."""
        if self._watchers is not None:
            self._watchers.begin_ticking()

    def look_for(self, clocks: Clocks | None) -> None:
        """Look, at each sweep, what is stored, for those that want to know; None where nobody judges clocks."""
        self._clocks = clocks

    def next_due(self) -> float | None:
        """Return the monotonic second at which `tick` has something to do, or None for never."""
        dues = [self._gate.next_due(), self._probe_due]
        if not self._gate.lasts(Kind.DATABASE):
            dues.append(self._watchers.next_due() if self._watchers else None)
            dues.append(self._sweep_due if self._expiry else None)
        return min((due for due in dues if due is not None), default=None)

    def tick(self) -> None:
        """Do what is due."""
        self._gate.tick()
        now = self._clock.monotonic()
        if not self._gate.lasts(Kind.DATABASE):
            self._tick_presence()
            if self._expiry is not None and now >= self._sweep_due:
                self._sweep_due = now + SWEEP_INTERVAL_S
                self._sweep(self._expiry)
        if self._probe_due is not None and now >= self._probe_due:
            self._ask_everybody(now)

    def connected(self) -> None:
        """Have all states asked for, after a start or an outage: at once, or as soon as that may be done again."""
        self._probe_due = max(self._clock.monotonic(), self._probe.everybody_due())

    def _tick_presence(self) -> None:
        if self._watchers is None:
            return
        try:
            self._watchers.tick()
        except DatabaseError as error:  # calls that are over are shown until a sweep after it
            self._database_failed(error)

    def _ask_everybody(self, now: float) -> None:
        self._probe_due = None
        try:
            if self._probe.everybody():
                self._host.count(Counter.PROBED)
        except TransientError as error:
            self._probe_due = now + PROBE_RETRY_S
            self._quiet.log(Level.ERROR, "probe", f"no probe: {error}; trying again in {PROBE_RETRY_S} s")

    def _sweep(self, expiry: Expiry) -> None:
        try:
            if expiry.sweep():
                self._sweep_due = self._clock.monotonic()
            if self._clocks is not None:
                self._clocks.look_at_table()
        except DatabaseError as error:
            self._database_failed(error)
        except RowRefused as error:
            self._host.count(Counter.PUA_DATABASE_ERROR)
            self._quiet.log(Level.ERROR, "sweep", f"expiry waits: {error}")

    def _database_failed(self, error: DatabaseError) -> None:
        self._host.count(Counter.PUA_DATABASE_ERROR)
        self._gate.failed(Kind.DATABASE, (), str(error))
