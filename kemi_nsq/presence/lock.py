# SPDX-License-Identifier: GPL-2.0-or-later
"""The lock NSQ_PUA_LOCK, which consumers share with the routes that handle a SUBSCRIBE.

db_sqlite does not wait for another writer, and a NOTIFY for a subscription that a worker is refreshing would use its
CSeq twice.

`writer`, `watchers` and `expiry` take it, and the function `nsq_pua_handle` of routes does. A Python script that calls
the presence module itself takes it by `presence_lock` of `plugin.face`; a native route had better not: what ends it
leaves the lock taken.

Nobody waits for it without an end, nor in silence. Kamailio's locks do not know who has them: a route that takes this
one and then calls `nsq_pua_handle` would wait for itself, with the phone unanswered and every consumer behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.counters import Counter
from kemi_nsq.host import Host, Level
from kemi_nsq.quiet import Quiet

#: Longer than Kamailio holds it for a statement that a frozen database does not answer: 6 seconds (nsq-presence.cfg).
PATIENCE_S = 10.0
#: After a wait that was in vain, until the lock is given again: the next SUBSCRIBE shall not wait as long.
IMPATIENCE_S = 0.1
#: Tries at first, between which only others are let run: as Kamailio waits for a lock (core/fastlock.h). A NOTIFY takes
#: no longer, mostly.
_YIELDS = 200
#: Then between two tries, growing; but never so long that others, who ask at shorter intervals, are always first.
_FIRST_NAP_S, _LONGEST_NAP_S = 0.00005, 0.0005
_GROWTH = 1.5


class PresenceLock:
    """A lock of the SIP server, which all its processes share; who has it may take it again.

    Args:
        host: the SIP server.
        name: NSQ_PUA_LOCK; '' for none.
        one_writer: the database has one writer at a time, for which Kamailio's driver does not wait.
        clock: tells the time, and lets it pass.

    Attributes:
        name: as given.
    """

    def __init__(self, host: Host, name: str, *, one_writer: bool, clock: Clock = SYSTEM) -> None:
        self._host = host
        self.name = name
        self._one_writer = one_writer
        self._clock = clock
        self._quiet = Quiet(host, clock)
        self._held = False
        self._patience_s = PATIENCE_S

    @contextmanager
    def held(self, purpose: str) -> Iterator[None]:
        """Hold it while the context lasts; where it is not given, that is said, and the work is done without it.

        To go on is right also where a route of the operator's has it around our call: then nobody else is inside. If
        somebody is, a watcher may miss one NOTIFY, and a row comes again; a process that waits for ever tells nobody
        anything.

        Args:
            purpose: what wants it, for the log.
        """
        if not self.name or self._held:
            yield
            return
        self._held = self._take(purpose)
        try:
            yield
        finally:
            if self._held:
                self._held = False
                self._host.unlock(self.name)

    def writing(self) -> AbstractContextManager[None]:
        """Hold it for a write, where the database needs that."""
        return self.held("storing presence") if self._one_writer else nullcontext()

    def _take(self, purpose: str) -> bool:
        given = self._host.try_lock(self.name)
        if given is False:
            given = self._wait()
        if given:
            self._patience_s = PATIENCE_S
            return True
        self._host.count(Counter.LOCK_FAILED)
        if given is None:
            why = "was refused. Is cfgutils' lock_set_size set?"
        else:
            why = (
                f"was not given within {self._patience_s:g} s: whoever has it keeps it. The usual cause is "
                f'lock("{self.name}") in kamailio.cfg around route(NSQ_PRESENCE) or python_exec("nsq_pua_handle"), '
                "which take it themselves: remove it there. Another is a database that does not answer"
            )
            self._patience_s = IMPATIENCE_S
        self._quiet.log(
            Level.ERROR,
            "lock",
            f"{purpose} goes on without the lock {self.name!r}, so SUBSCRIBEs may fail and a NOTIFY may repeat a "
            f"CSeq: it {why}",
        )
        return False

    def _wait(self) -> bool | None:
        """Ask for it until it is given, or patience is over; the threads of a consumer run meanwhile."""
        until, nap_s = self._clock.monotonic() + self._patience_s, _FIRST_NAP_S
        given: bool | None = False
        for _ in range(_YIELDS):
            self._clock.sleep(0)
            if (given := self._host.try_lock(self.name)) is not False:
                return given
        while given is False and self._clock.monotonic() < until:
            self._clock.sleep(nap_s)
            nap_s = min(nap_s * _GROWTH, _LONGEST_NAP_S)
            given = self._host.try_lock(self.name)
        return given
