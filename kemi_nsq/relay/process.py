# SPDX-License-Identifier: GPL-2.0-or-later
"""The main loop of the relay: gathers what workers hand over, and forwards it.

A process of its own: in a consumer, what handles an event would keep Python's lock, and a burst of events would hold up
what workers publish. Like a consumer it belongs to Kamailio's evrexec module, and neither returns nor raises.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.counters import Counter
from kemi_nsq.errors import NsqError, RunFolderError
from kemi_nsq.host import Host, Level
from kemi_nsq.memory import collect_seldom
from kemi_nsq.nsq.outbox import Outbox
from kemi_nsq.nsq.publisher import Publisher
from kemi_nsq.quiet import Quiet
from kemi_nsq.relay.backlog import Backlog
from kemi_nsq.relay.forwarding import Forwarding
from kemi_nsq.relay.gathering import Gathering
from kemi_nsq.restarts import keep_running, tell_and_wait
from kemi_nsq.runtime.ending import GRACE_S
from kemi_nsq.runtime.folder import sheets
from kemi_nsq.runtime.page import CONSUMER, RELAY, Fact, Gauge
from kemi_nsq.settings import Settings

#: How often it looks whether its socket is still there, and whether it shall end.
_LOOK_S = 0.3
#: How soon what nobody took is tried again; `Publisher` leaves a nsqd that failed alone for longer.
_AGAIN_S = 0.1
#: After something came, so long is waited for more. Then many leave together, and who hands one over wakes nobody.
_GATHER_S = 0.005
#: So long nsqd may be waited for, whatever NSQ_PUBLISH_TIMEOUT is: after that there must be time left to end in order.
_TRY_S = 0.7 * GRACE_S
#: Of the grace, for what workers have handed over; then for counting what is lost.
_FLUSH_S, _COUNT_S = 0.8 * GRACE_S, 0.1 * GRACE_S
#: How often is looked, at the end, whether somebody may still hand something over.
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
        self, settings: Settings, host: Host, publisher: Publisher, outbox: Outbox | None, clock: Clock = SYSTEM
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
        self._over = False
        self._asked_at = 0.0

    def run_forever(self) -> None:
        """Run the loop, and start it again after any exception. Returns only after `stop`."""
        collect_seldom()
        self._host.page.role(RELAY)
        self._host.page.set(Gauge.ROUTE_TIMEOUT, self._settings.route_timeout)
        self._host.ending.begin(self.stop)
        keep_running(self._run, recover=self._recover, over=lambda: self._over, clock=self._clock)
        self._finish()
        if self._host.ending.asked:
            self._host.ending.end()

    def stop(self) -> None:
        """Let `run_forever` return. Any thread calls this, or a signal handler in the midst of anything: no locks."""
        self._asked_at = self._clock.monotonic()
        self._over = True
        if self._gathering is not None:
            self._gathering.wake()

    def _recover(self, failures: int, trace: str) -> None:
        tell_and_wait("the relay", failures, trace, self._host, self._rest, self._clock)

    def _rest(self, seconds: float) -> None:
        until = self._clock.monotonic() + seconds
        while not self._over and self._clock.monotonic() < until:
            self._clock.sleep(_AGAIN_S)

    def _run(self) -> None:
        place = self._host.place
        if place is None:
            raise NsqError("there is no runtime folder for the relay's socket")
        if self._gathering is None:
            say = partial(self._quiet.log, Level.ERROR, "relay")
            took = partial(self._host.mirror, Counter.QUEUED)  # the workers have counted them in their pages
            self._gathering = Gathering(place, self._backlog, self._settings.max_message_size, took=took, say=say)
        look_due, wait_s, failed = 0.0, 0.0, bool(self._host.page.shown(Fact.FAILED))
        while not self._over:
            if self._clock.monotonic() >= look_due:
                self._keep_open(self._gathering)
                look_due = self._clock.monotonic() + _LOOK_S
            self._host.page.wait()
            came = self._gathering.read(wait_s)
            wait_s = self._forward()
            if failed:
                failed = False
                self._host.page.show(Fact.FAILED, "")
            if came and not self._gathering.much:
                self._clock.sleep(_GATHER_S)

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

    def _finish(self) -> None:
        """Send what workers have handed over until now; what is not sent then is lost, and said to be."""
        gathering, left = self._gathering, 0
        try:
            if gathering is not None:
                self._flush(gathering)
                deadline = self._clock.monotonic() + _COUNT_S
                left = gathering.count_left(lambda: self._clock.monotonic() >= deadline)
        except Exception as error:  # whatever is wrong, it must be said what is lost
            self._host.log(Level.CRITICAL, f"the relay failed while it ended: {error!r}; please report this")
            self._host.count(Counter.BUG)
        self._forwarding.lose(left)
        if gathering is not None:
            gathering.close()

    def _flush(self, gathering: Gathering) -> None:
        deadline = self._asked_at + _FLUSH_S
        wait_s, quiet = 0.0, False
        while not quiet and self._clock.monotonic() < deadline:
            came = gathering.read(wait_s)
            more = self._forwarding.step(until=deadline)
            quiet = bool(wait_s) and not (came or more or self._backlog.messages or self._somebody_works(gathering))
            wait_s = 0.0 if more else _QUIET_S

    def _somebody_works(self, gathering: Gathering) -> bool:
        """Whether a process may still publish: workers end at once, consumers finish what they have begun."""
        place = self._host.place
        if gathering.peers or place is None:
            return gathering.peers > 0
        with suppress(RunFolderError):  # it was removed
            # By the descriptor: the user of `kamailio -u` may not have the right to go along the path.
            found = sheets(Path(f"/proc/self/fd/{place.descriptor}"))
            return any(alive and sheet.role == CONSUMER for sheet, alive in found)
        return False

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
