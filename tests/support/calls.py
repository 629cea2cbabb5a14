# SPDX-License-Identifier: GPL-2.0-or-later
"""A Kamailio whose routes call what a request names (tests/acceptance/configs/calls.cfg), and the caller."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.chain import SHIPPED, Chain
from tests.support.nsqd import Option
from tests.support.ports import LOOPBACK
from tests.support.sip_endpoint import SipEndpoint, Target
from tests.support.sip_message import Headers, Request, Response
from tests.support.until import until

CONFIGS = Path(__file__).parents[1] / "acceptance/configs"


@contextmanager
def calls_chain(
    kind: str,
    folder: Path,
    *,
    nsqd_options: Mapping[str, Option] | None = None,
    options: Sequence[str] = (),
    **defines: str | int,
) -> Iterator[Chain]:
    """Run nsqd and a Kamailio with the routes of calls.cfg, or calls.py.

    Args:
        kind: `native` or `kemi`.
        folder: where logs and data go.
        nsqd_options: options of nsqd.
        options: more options of Kamailio.
        defines: values for `#!define`.
    """
    for file in (CONFIGS / "calls.py", SHIPPED / "nsq.py"):
        (folder / file.name).symlink_to(file)
    script, face = {"native": ("nsq.py", {}), "kemi": ("calls.py", {"NSQ_KEMI": 1})}[kind]
    chain = Chain(
        kind,
        folder,
        config=CONFIGS / "calls.cfg",
        script=folder / script,
        defines={"NSQ_NODE": '"node"', **face, **defines},
        nsqd_options=nsqd_options,
        options=options,
    )
    with chain:
        until(lambda: chain.counter("connected") >= 2, what="the consumer's topic and its reply topic")
        yield chain
        assert chain.kamailio.alive()
    log = chain.kamailio.log_text()
    assert "Unhandled exception" not in log, log
    assert "please report" not in log, log


class Call:
    """One request that is on its way.

    Attributes:
        call_id: its Call-ID.
    """

    def __init__(self, call_id: str) -> None:
        self.call_id = call_id
        self._answered = threading.Event()
        self._answer: Response | None = None

    @property
    def done(self) -> bool:
        """Whether there is a final response."""
        return self._answered.is_set()

    def wait(self, timeout_s: float = 10.0) -> Response:
        """Wait for the final response; raises AssertionError when none comes."""
        assert self._answered.wait(timeout_s), "no final response"
        assert self._answer is not None, "no final response"
        return self._answer

    def finish(self, answer: Response | None) -> None:
        """Take the final response, or None when its time is over."""
        self._answer = answer
        self._answered.set()


class Caller:
    """Sends requests to a Kamailio, and answers 486 to those that come back to it.

    Attributes:
        address: host and port of its socket.
    """

    def __init__(self, server: Target) -> None:
        self._server = server
        self._endpoint = SipEndpoint(lambda request: request.response(486, "Busy Here"), lambda _error: None)
        self.address = self._endpoint.address

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._endpoint.close()

    def send(self, method: str, *, uri: str = "sip:bob@example.com", body: bytes = b"", headers: Headers = ()) -> Call:
        """Send a request and return at once."""
        here = f"sip:alice@{LOOPBACK}:{self.address[1]}"
        call = Call(secrets.token_hex(12))
        own = (
            ("from", f"<{here}>;tag={secrets.token_hex(4)}"),
            ("to", f"<{uri}>"),
            ("call-id", call.call_id),
            ("cseq", f"1 {method}"),
            ("contact", f"<{here}>"),
        )
        self._endpoint.send(
            Request(method=method, uri=uri, headers=own + headers, body=body), self._server, call.finish
        )
        return call

    def repeat(self) -> None:
        """Send each request that has no final response once more, now."""
        self._endpoint.repeat()

    def call(  # each is one thing that a route looks at
        self,
        function: str,
        text: str | bytes = "",
        *,
        timeout: str = "",
        method: str = "MESSAGE",
        newtran: bool = False,
    ) -> Call:
        """Let Kamailio call a function of kemi-nsq with a text.

        Args:
            function: its name.
            text: what it gets.
            timeout: for `$var(nsq_query_timeout)`.
            method: of the request.
            newtran: whether the route calls t_newtran() before.
        """
        headers: Headers = (("x-call", function), ("content-type", "text/plain"))
        if newtran:
            headers += (("x-newtran", "yes"),)
        if timeout:
            headers += (("x-timeout", timeout),)
        body = text.encode() if isinstance(text, str) else text
        return self.send(method, body=body, headers=headers)


def result(answer: Response) -> tuple[int, str]:
    """Return the code and the reason that a function left, as the answer tells them."""
    return int(answer.require("X-Code")), answer.get("X-Reason") or ""
