# SPDX-License-Identifier: GPL-2.0-or-later
"""A responder in a thread of the test: what it was asked, and whatever a test wants it to reply."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from kemi_nsq.errors import NsqError, PayloadError
from kemi_nsq.tools import responder
from tests.support.nsqd import Nsqd
from tests.support.settings import settings
from tests.support.until import until

STOP_TIMEOUT_S = 10.0
#: Msg-ID of the request that ends the responder.
_LAST = "the test is over"

Request = dict[str, Any]


class _OverError(Exception):
    """Ends the thread; no error of the package, so that `responder.serve` lets it pass."""


class Responding:
    """Runs `responder.serve` on a topic of one nsqd.

    Args:
        nsqd: where the requests come.
        topic: what to listen on.
        answer: makes the reply's fields from the request's; None for no reply.

    Attributes:
        answer_request: makes the reply; a test may change it.
        requests: the requests so far.
        said: what it said of each.
    """

    def __init__(self, nsqd: Nsqd, topic: str, answer: Callable[[Request], Request | None]) -> None:
        self.requests: list[Request] = []
        self._nsqd = nsqd
        self._topic = topic
        self.answer_request = answer
        self.said: list[str] = []
        self._failure: NsqError | None = None
        self._thread = threading.Thread(target=self._run, name=f"responder of {topic}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        until(lambda: self.said or self._failure, what="the responder to listen")
        assert self._failure is None, self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread.is_alive():
            self._nsqd.publish(self._topic, json.dumps({"Msg-ID": _LAST, "Server-ID": "nobody"}).encode())
            self._thread.join(STOP_TIMEOUT_S)
        assert not self._thread.is_alive()

    def reply(self, request: Request, body: bytes, *, through: Nsqd | None = None) -> None:
        """Publish any bytes to who asked, through this nsqd or another."""
        (through or self._nsqd).publish(request["Server-ID"], body)

    def _run(self) -> None:
        values = settings(nsqd_tcp_address=self._nsqd.tcp_address)
        try:
            responder.serve(values, self._topic, self._answer, self.said.append)
        except _OverError:
            pass
        except NsqError as error:  # its nsqd has ended
            self._failure = error

    def _answer(self, text: str) -> Request:
        request: Request = json.loads(text)
        if request["Msg-ID"] == _LAST:
            raise _OverError
        self.requests.append(request)
        fields = self.answer_request(request)
        if fields is None:
            raise PayloadError("the test wants no reply")
        return fields


def reply_to(request: Request, **fields: Any) -> bytes:
    """Write a reply to a request, with fields besides its Msg-ID."""
    return json.dumps({"Msg-ID": request["Msg-ID"], **fields}).encode()
