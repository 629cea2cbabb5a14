# SPDX-License-Identifier: GPL-2.0-or-later
"""The drivers of database servers, made to keep a deadline whatever the server does.

A server that hangs, or that was stopped by a signal, still has a kernel that acknowledges all it is sent: TCP never
notices. So each wait for the server looks at the clock itself. No thread does that for it: in a SIP worker none runs.

A driver is imported when a database of its kind is opened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeVar

from kemi_nsq.clock import SYSTEM, Clock

#: In these steps MySQL's driver is told how much time is left: telling it is a system call.
_STEPS_PER_S = 10

Wanted = TypeVar("Wanted")
Result = TypeVar("Result")


class Deadline:
    """By when the work at hand must be over.

    Args:
        timeout_s: seconds that a piece of work has, unless it has less.
        clock: tells the time.

    Attributes:
        now: returns the monotonic second.
        at: monotonic second; a new one has none.
        span_s: seconds that the work at hand has.
    """

    def __init__(self, timeout_s: float, clock: Clock = SYSTEM) -> None:
        self.now = clock.monotonic
        self._timeout_s = self.span_s = timeout_s
        self.at = self._end = math.inf

    @property
    def text(self) -> str:
        """What to say of work that is not over."""
        return f"no answer within {self.span_s:g} s"

    @property
    def over(self) -> bool:
        """Whether no time is left."""
        return self.now() >= self.at

    def start(self, limit_s: float | None = None) -> None:
        """Begin a piece of work, which may have less time than others."""
        self.span_s = self._timeout_s if limit_s is None else min(limit_s, self._timeout_s)
        self.at = self._end = self.now() + self.span_s

    def spare_half(self) -> None:
        """Take half of the time from what comes first: if that fails, there must be time for another way."""
        self.at = self._end - self.span_s / 2

    def spend(self) -> None:
        """Give all the time that is left to what comes now."""
        self.at = self._end


def _postgresql(deadline: Deadline) -> Callable[..., Any]:
    import psycopg
    from psycopg.abc import PQGen, PQGenConn

    def keep(
        work: Generator[Wanted, Any, Result], give_up: Callable[[], None] = lambda: None
    ) -> Generator[Wanted, Any, Result]:
        """Pass on what a generator of the driver waits for; the driver comes back at least every tenth of a second."""
        try:
            wanted = next(work)
            while True:
                ready = yield wanted
                if deadline.now() >= deadline.at:
                    give_up()
                    raise psycopg.OperationalError(deadline.text)
                wanted = work.send(ready)
        except StopIteration as done:
            result: Result = done.value
            return result

    class Connection(psycopg.Connection[Any]):
        @classmethod
        def _connect_gen(cls, conninfo: str = "") -> PQGenConn[Any]:
            return keep(super()._connect_gen(conninfo))

        def wait(self, gen: PQGen[Result], *arguments: Any, **named: Any) -> Result:
            # Closed at once: SQLAlchemy would wait for a rollback on a connection that looks alive.
            return super().wait(keep(gen, self.pgconn.finish), *arguments, **named)

    return Connection.connect


def _mysql(deadline: Deadline) -> Callable[..., Any]:
    import pymysql
    from pymysql.constants import CR

    def left_s() -> float:
        left = min(deadline.at - deadline.now(), deadline.span_s)
        return max(math.ceil(left * _STEPS_PER_S), 1) / _STEPS_PER_S

    class Connection(pymysql.connections.Connection):  # type: ignore[misc]  # the driver has no types
        def __init__(self, *arguments: Any, password: str = "", **named: Any) -> None:
            # As Kamailio's driver sends it; this one would send a text in Latin-1, or fail.
            super().__init__(*arguments, password=password.encode(), **named)

        def _read_packet(self, *arguments: Any) -> Any:
            self._read_timeout = left_s()
            try:
                return super()._read_packet(*arguments)
            except pymysql.err.OperationalError as error:
                if deadline.over:
                    raise pymysql.err.OperationalError(CR.CR_SERVER_LOST, deadline.text) from error
                raise

        def _write_bytes(self, data: bytes) -> None:
            self._write_timeout = left_s()
            super()._write_bytes(data)

    return Connection


#: SQLAlchemy's name of a database that has a server to what makes its function `connect`.
CONNECTORS: Mapping[str, Callable[[Deadline], Callable[..., Any]]] = {"postgresql": _postgresql, "mysql": _mysql}
