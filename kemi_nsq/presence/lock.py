# SPDX-License-Identifier: GPL-2.0-or-later
"""The lock NSQ_PUA_LOCK, which consumers share with the routes that handle a SUBSCRIBE.

db_sqlite does not wait for another writer, and a NOTIFY for a subscription that a worker is refreshing would use its
CSeq twice.

`writer`, `watchers` and `expiry` take it, and the function `nsq_pua_handle` of routes does. A Python script that calls
the presence module itself takes it by `presence_lock` of `plugin.face`; a native route had better not: what ends it
leaves the lock taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.counters import Counter
from kemi_nsq.host import Host, Level
from kemi_nsq.quiet import Quiet


class PresenceLock:
    """A lock of the SIP server, which all its processes share.

    Args:
        host: the SIP server.
        name: NSQ_PUA_LOCK; '' for none.
        one_writer: the database has one writer at a time, for which Kamailio's driver does not wait.
        clock: tells the time.
    """

    def __init__(self, host: Host, name: str, *, one_writer: bool, clock: Clock = SYSTEM) -> None:
        self._host = host
        self._name = name
        self._one_writer = one_writer
        self._quiet = Quiet(host, clock)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold it while the context lasts; where it is refused, that is said, and the work is done without it."""
        held = bool(self._name) and self._host.lock(self._name)
        if self._name and not held:
            self._host.count(Counter.LOCK_FAILED)
            self._quiet.log(
                Level.ERROR,
                "lock",
                f"the lock {self._name!r} was refused, so SUBSCRIBEs may fail and a NOTIFY may repeat a CSeq. "
                "Is cfgutils' lock_set_size set?",
            )
        try:
            yield
        finally:
            if held:
                self._host.unlock(self._name)

    def writing(self) -> AbstractContextManager[None]:
        """Hold it for a write, where the database needs that."""
        return self.held() if self._one_writer else nullcontext()
