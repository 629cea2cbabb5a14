# SPDX-License-Identifier: GPL-2.0-or-later
"""The main loop of the relay: gathers what workers hand over, and forwards it.

A process of its own: in a consumer, what handles an event would keep Python's lock, and a burst of events would hold up
what workers publish. Like a consumer it belongs to Kamailio's evrexec module, and neither returns nor raises.
"""

from __future__ import annotations

import gc
import threading
from functools import partial

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.counters import Counter
from kemi_nsq.errors import NsqError
from kemi_nsq.host import Host, Level
from kemi_nsq.nsq.outbox import Outbox
from kemi_nsq.quiet import Quiet
from kemi_nsq.relay.backlog import Backlog
from kemi_nsq.relay.forwarding import Forwarding, Publishes
from kemi_nsq.relay.gathering import Gathering
from kemi_nsq.restarts import keep_running, tell_and_wait
from kemi_nsq.runtime.ending import GRACE_S
from kemi_nsq.runtime.page import RELAY, Fact, Gauge
from kemi_nsq.settings import Settings

#: How often it looks whether its socket is still there, and whether it shall end.
_LOOK_S = 1.0
#: How soon what nobody took is tried again; `Publisher` leaves a nsqd that failed alone for longer.
_AGAIN_S = 0.1
#: After something came, so long is waited for more. Then many leave together, and who hands one over wakes nobody.
_GATHER_S = 0.005
#: So long one nsqd may be waited for, or the signal to end would be heard too late.
_TRY_S = 0.5
#: Of the grace, for what workers have handed over.
_FLUSH_S = 0.6 * GRACE_S
#: Workers end, too: what a socket has, it has by then.
_QUIET_S = 0.05


class Relay:
    """The relay of one Kamailio.

    Args:
        settings: how much a message may have.
        host: the SIP server.
        publisher: takes messages.
        outbox: keeps what no nsqd takes, or None.
        clock: tells the time.
    """

    def __init__(
        self, settings: Settings, host: Host, publisher: Publishes, outbox: Outbox | None, clock: Clock = SYSTEM
    ) -> None:
        self._settings = settings
        self._host = host
        self._clock = clock
        self._quiet = Quiet(host, clock)
        #: What a start of the loop leaves behind, the next one finds.
        self._backlog = Backlog()
        self._forwarding = Forwarding(self._backlog, host, publisher, outbox, clock)
        self._gathering: Gathering | None = None
        self._problem = ""
        self._stopping = threading.Event()

    def run_forever(self) -> None:
        """Run the loop, and start it again after any exception. Returns only after `stop`."""
        gc.freeze()  # as a consumer does
        self._host.page.role(RELAY)
        self._host.page.set(Gauge.ROUTE_TIMEOUT, self._settings.route_timeout)
        self._host.ending.begin(self._wake)
        keep_running(self._run, recover=self._recover, over=self._is_over, clock=self._clock)
        if self._host.ending.asked:
            self._host.ending.end()

    def stop(self) -> None:
        """Let `run_forever` return, from another thread: for tests. Kamailio ends the whole process instead."""
        self._stopping.set()
        self._wake()

    def _wake(self) -> None:
        if self._gathering is not None:
            self._gathering.wake()

    def _is_over(self) -> bool:
        return self._stopping.is_set() or self._host.ending.asked

    def _recover(self, failures: int, trace: str) -> None:
        tell_and_wait("the relay", failures, trace, self._host, self._stopping.wait, self._clock)

    def _run(self) -> None:
        place = self._host.place
        if place is None:
            raise NsqError("there is no runtime folder for the relay's socket")
        if self._gathering is None:
            say = partial(self._quiet.log, Level.ERROR, "relay")
            took = partial(self._host.mirror, Counter.QUEUED)  # the workers have counted them in their pages
            self._gathering = Gathering(place, self._backlog, self._settings.max_message_size, took=took, say=say)
        look_due, wait_s, failed = 0.0, 0.0, bool(self._host.page.shown(Fact.FAILED))
        while not self._is_over():
            if self._clock.monotonic() >= look_due:
                self._keep_open(self._gathering)
                look_due = self._clock.monotonic() + _LOOK_S
            self._host.page.wait()
            came = self._gathering.read(wait_s)
            wait_s = self._forward()
            if failed:
                failed = False
                self._host.page.show(Fact.FAILED, "")
            if came:
                self._clock.sleep(_GATHER_S)
        self._finish(self._gathering)

    def _forward(self) -> float:
        """Forward one batch; return how long to wait for more before the next."""
        if not self._backlog.messages:
            return _LOOK_S
        self._host.page.begin("publishing what workers have handed over")
        more = self._forwarding.step(until=self._clock.monotonic() + _TRY_S)
        self._host.page.set(Gauge.RELAY_MESSAGES, self._backlog.messages)
        self._host.page.set(Gauge.RELAY_BYTES, self._backlog.size)
        if not self._backlog.messages:
            return _LOOK_S
        return 0.0 if more else _AGAIN_S

    def _finish(self, gathering: Gathering) -> None:
        """Send what workers have handed over until now: what is not sent then is lost, and said to be."""
        deadline, wait_s, quiet = self._clock.monotonic() + _FLUSH_S, 0.0, False
        while not quiet and self._clock.monotonic() < deadline:
            came = gathering.read(wait_s)
            more = self._forwarding.step(until=deadline)
            quiet = bool(wait_s) and not (came or more or self._backlog.messages)
            wait_s = 0.0 if more else _QUIET_S
        self._forwarding.lose()
        gathering.close()
        self._gathering = None

    def _keep_open(self, gathering: Gathering) -> None:
        """See that workers find the socket: somebody may have removed it, or the folder around it."""
        try:
            if self._host.place is not None:
                self._host.place.restore()
            gathering.keep_open()
            self._problem = ""
        except NsqError as error:
            if str(error) != self._problem:
                text = f"{error}; until that changes nsq_publish_async fails in workers that have not called it before"
                self._host.log(Level.ERROR, text)
                self._host.count(Counter.RUN_FOLDER_LOST)
            self._problem = str(error)
