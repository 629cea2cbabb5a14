# SPDX-License-Identifier: GPL-2.0-or-later
"""The producer: a thread that publishes through HTTP to whichever nsqd is up, each event once."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from tests.chaos.ledger import Ledger, Record
from tests.chaos.traffic import Said, Traffic
from tests.support.chain import TOPIC
from tests.support.nsqd import Nsqd
from tests.support.ports import LOOPBACK

#: A nsqd that does not answer within this time is left alone for a while.
_ANSWER_S, _ALONE_S = 0.5, 4.0
#: Of a producer that cannot reach any nsqd.
_AGAIN_S = 0.05


class Mouth:
    """The way to one nsqd.

    Args:
        name: its name.
        nsqd: the server.
    """

    def __init__(self, name: str, nsqd: Nsqd) -> None:
        self.name = name
        self._nsqd = nsqd
        self._connection: http.client.HTTPConnection | None = None
        self._alone_until = 0.0

    @property
    def usable(self) -> bool:
        """Whether it may be tried now."""
        return time.monotonic() >= self._alone_until

    def publish(self, body: bytes) -> bool | None:
        """Publish once; return whether nsqd answered OK, None if it could not be reached and so cannot have it."""
        try:
            connection = self._connection or self._connect()
        except OSError:
            self._leave_alone()
            return None
        try:
            connection.request("POST", f"/pub?topic={TOPIC}", body)
            answer = connection.getresponse()
            if answer.status == http.HTTPStatus.OK and answer.read() == b"OK":
                return True
        except (OSError, http.client.HTTPException):
            pass
        self._leave_alone()
        return False

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(LOOPBACK, self._nsqd.http_port, timeout=_ANSWER_S)
        connection.connect()
        self._connection = connection
        return connection

    def _leave_alone(self) -> None:
        self.close()
        self._alone_until = time.monotonic() + _ALONE_S


class Load:
    """Publishes while its context lasts, at an even rate; at its end the short calls are hung up.

    Args:
        traffic: what to say.
        ledger: where it is written down.
        mouths: the ways to the nsqd, used in turn.
        rate: events a second.
    """

    def __init__(self, traffic: Traffic, ledger: Ledger, mouths: list[Mouth], rate: float) -> None:
        self._traffic, self._ledger, self._mouths, self._rate = traffic, ledger, mouths, rate
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._error: BaseException | None = None
        self._turn = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()
        if error is None and self._error is not None:
            raise self._error

    def say(self, events: Iterable[Said]) -> None:
        """Publish some events at once, each thing's again until nsqd has one; only while the thread does not run."""
        for said in events:
            self._say(said)

    def _run(self) -> None:
        try:
            due = time.monotonic()
            while not self._ending.is_set():
                self._say(self._traffic.next())
                # What could not be said in time is not made up for: people do not call twice as often afterwards.
                due = max(due + 1 / self._rate, time.monotonic() - 1 / self._rate)
                self._ending.wait(max(0.0, due - time.monotonic()))
            while said := self._traffic.hang_up():
                self._say(said)
        except BaseException as caught:
            self._error = caught

    def _say(self, said: Said) -> None:
        """Publish an event. One without an answer is never repeated; a later one says the same, as producers do."""
        while not self._publish(said):
            said = self._traffic.again(said)

    def _publish(self, said: Said) -> bool:
        body = said.body
        while True:
            mouth = self._next_mouth()
            at = time.monotonic()
            if mouth is None or (answer := mouth.publish(body)) is None:
                threading.Event().wait(0 if mouth else _AGAIN_S)
                continue
            self._ledger.add(Record(said=said, accepted=answer, nsqd=mouth.name, at=at))
            return answer

    def _next_mouth(self) -> Mouth | None:
        usable = [mouth for mouth in self._mouths if mouth.usable]
        self._turn += 1
        return usable[self._turn % len(usable)] if usable else None
