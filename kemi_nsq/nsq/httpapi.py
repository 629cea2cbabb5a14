# SPDX-License-Identifier: GPL-2.0-or-later
"""The HTTP interfaces of nsqd and nsqlookupd. The only module that imports `requests`.

A peer may be slow, huge or hostile. So each call has one deadline and one size, and both stand on the socket: whatever
it drips, headers or body, ends in time, and what is read is never more than that. No redirect is followed, no proxy of
the environment is used, no cookie is kept, and a compressed answer, which may be a thousand times larger than what was
read, is refused.

Sources: nsq.io, "nsqd" and "nsqlookupd", section "HTTP API".
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection

from kemi_nsq.errors import ConnectionLost, DeadlineExceeded, NsqdRefused, ProtocolError, TransientError
from kemi_nsq.names import Address
from kemi_nsq.nsq.sockets import Allowance, LimitedSocket

#: Bytes of an answer, head included. `/nodes` of 64 nsqd with 1,000 topics each has 1.3 MiB; what JSON of this size
#: becomes in memory, at worst, is some 25 times as much.
MOST_BYTES = 2 * 1024 * 1024
_PIECE = 64 * 1024
_WORD = re.compile("[A-Z_]{1,40}")
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "kemi-nsq"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server answered: HTTP status, headers by name in any case, and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Client:
    """The HTTP interface of one server, over a connection that the first call opens and the next ones use again."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._allowance = Allowance()
        self._adapter: _Adapter | None = None
        self._pid = 0

    @property
    def connected(self) -> bool:
        """Whether the last call has left a connection; the server may have closed it meanwhile."""
        # A script may publish before the fork. What two processes read of one connection is an answer to either.
        return self._adapter is not None and self._pid == os.getpid()

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._adapter is not None:
            self._adapter.close()
            self._adapter = None

    def publish(self, topic: str, body: bytes, *, timeout_s: float, delay_ms: int = 0) -> None:
        """Publish one message through nsqd's `/pub`, to be delivered after `delay_ms`.

        Raises:
            ConnectionLost: nsqd cannot be reached in time.
            ProtocolError: what answers does not speak HTTP as agreed.
            NsqdRefused: nsqd did not take the message.
        """
        self._post("/pub", {"topic": topic, "defer": str(delay_ms)}, body, timeout_s)

    def publish_many(self, topic: str, sized: Sequence[bytes], *, timeout_s: float) -> None:
        """Publish messages through nsqd's `/mpub`, all or none; raises as `publish`.

        Args:
            topic: of all.
            sized: of each, the length of its body in four bytes, and the body.
            timeout_s: seconds, for all of it.
        """
        body = b"".join((len(sized).to_bytes(4), *sized))
        self._post("/mpub", {"topic": topic, "binary": "true"}, body, timeout_s)

    def _post(self, path: str, params: Mapping[str, str], body: bytes, timeout_s: float) -> None:
        response = self._send("POST", path, timeout_s, params=params, data=body)
        try:
            said = self._body(response)  # or the connection is of no more use
        except TransientError:
            said = b""  # what the status said holds all the same: nsqd has the message, or has refused it
        if response.status_code != requests.codes.ok:
            raise NsqdRefused(_error_code(response.status_code, said), "", fatal=False)

    def ping(self, *, timeout_s: float) -> None:
        """Ask nsqd's `/ping` whether it is well.

        Raises:
            ConnectionLost: nsqd cannot be reached in time.
            ProtocolError: what answers does not speak HTTP as agreed.
            NsqdRefused: it is not well.
        """
        answer = self.call("/ping", timeout_s=timeout_s)
        if answer.status != requests.codes.ok:
            raise NsqdRefused(f"HTTP {answer.status}", answer.body[:80].decode("utf-8", "replace"), fatal=False)

    def get(self, path: str, *, timeout_s: float, **params: str) -> Answer:
        """Ask for what there is at a path.

        Raises:
            ConnectionLost: the server cannot be reached in time.
            ProtocolError: it does not answer that.
        """
        answer = self.call(path, timeout_s=timeout_s, **params)
        if answer.status != requests.codes.ok:
            raise ProtocolError(f"{self._address}: {path} answered HTTP {answer.status}")
        return answer

    def call(self, path: str, *, timeout_s: float, **params: str) -> Answer:
        """Ask for what there is at a path, with whatever status; raises as `get`."""
        response = self._send("GET", path, timeout_s, params=params)
        return Answer(status=response.status_code, headers=response.headers, body=self._body(response))

    def _send(self, method: str, path: str, timeout_s: float, **request: Any) -> requests.Response:
        """Return an answer of which the head was read."""
        if not self.connected:
            self.close()  # what a parent has opened
        self._adapter, self._pid = self._adapter or _Adapter(self._address, self._allowance), os.getpid()
        self._allowance.deadline = time.monotonic() + timeout_s
        self._allowance.size = MOST_BYTES
        with self._closed_if_it_fails():
            # By the adapter, without a session: so there are no redirects, proxies, cookies or passwords of a netrc.
            prepared = requests.Request(method, f"http://{self._address}{path}", headers=_HEADERS, **request).prepare()
            return self._adapter.send(prepared, stream=True)

    def _body(self, response: requests.Response) -> bytes:
        # Closing it closes the connection, too, if it was not read to its end.
        with self._closed_if_it_fails(), closing(response):
            return _read(response)

    @contextmanager
    def _closed_if_it_fails(self) -> Iterator[None]:
        """Close a connection that failed: its late answer must not be taken for another. Raise errors of ours."""
        try:
            yield
        except BaseException as error:
            self.close()
            match error:
                case ProtocolError():
                    raise ProtocolError(f"{self._address}: {error}") from error
                # ValueError: an address that makes no URL, a chunk of a negative length.
                case DeadlineExceeded() | requests.RequestException() | urllib3.exceptions.HTTPError() | ValueError():
                    raise ConnectionLost(f"{self._address}: {_last_words(error)}") from error
            raise


def publish(address: Address, topic: str, body: bytes, *, timeout_s: float) -> None:
    """Publish one message over a connection of its own; raises as `Client.publish`."""
    with closing(Client(address)) as client:
        client.publish(topic, body, timeout_s=timeout_s)


def get(address: Address, path: str, *, timeout_s: float, **params: str) -> Answer:
    """Ask for what there is at a path over a connection of its own; raises as `Client.get`."""
    with closing(Client(address)) as client:
        return client.get(path, timeout_s=timeout_s, **params)


class _Connection(HTTPConnection):
    """A connection of urllib3 over a socket of ours."""

    def __init__(self, *args: Any, address: Address, allowance: Allowance, **options: Any) -> None:
        super().__init__(*args, **options)
        self._address = address
        self._allowance = allowance

    def connect(self) -> None:
        self.sock = LimitedSocket.to(self._address, self._allowance)


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _Adapter(HTTPAdapter):
    """Sends requests to one server, one at a time."""

    def __init__(self, address: Address, allowance: Allowance) -> None:
        super().__init__()
        self._pool = _Pool(address.host, address.port, maxsize=1, address=address, allowance=allowance)

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> _Pool:
        return self._pool

    def close(self) -> None:
        self._pool.close()
        super().close()


def _read(response: requests.Response) -> bytes:
    if (encoding := response.headers.get("Content-Encoding", "identity")) != "identity":
        raise ProtocolError(f"the answer is compressed ({encoding[:20]!r}), which nobody asked for")
    pieces = []
    # Piece by piece: memory is given for what came, not for what a header promises.
    while piece := response.raw.read(_PIECE, decode_content=False):
        pieces.append(piece)
    return b"".join(pieces)


def _last_words(error: BaseException) -> str:
    """Cut a chain of wrapped exceptions down to what went wrong."""
    cause = getattr(error.args[0], "reason", error) if error.args else error
    return str(cause).rpartition(": ")[2]


def _error_code(status: int, body: bytes) -> str:
    """Return nsqd's word for an error (nsqd/http.go), such as INVALID_TOPIC; else the status."""
    try:
        return _WORD.fullmatch(orjson.loads(body)["message"])[0]  # type: ignore[index]  # None is a TypeError
    except (ValueError, KeyError, TypeError):
        return f"HTTP {status}"
