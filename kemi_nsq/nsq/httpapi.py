# SPDX-License-Identifier: GPL-2.0-or-later
"""The HTTP interfaces of nsqd and nsqlookupd. The only module that imports `requests`.

Sources: nsq.io, "nsqd" and "nsqlookupd", section "HTTP API".
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import Any

import orjson
import requests

from kemi_nsq import names
from kemi_nsq.errors import ConnectionLost, NsqdRefused, ProtocolError
from kemi_nsq.names import Address


class Client:
    """The HTTP interface of one nsqd, over a connection that the first call opens and the next ones use again."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._session: requests.Session | None = None
        self._pid = 0

    @property
    def connected(self) -> bool:
        """Whether the last call has left a connection; nsqd may have closed it meanwhile."""
        # A script may publish before the fork. What two processes read of one connection is an answer to either.
        if self._session is not None and self._pid != os.getpid():
            self.close()
        return self._session is not None

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def publish(self, topic: str, body: bytes, *, timeout_s: float, delay_ms: int = 0) -> None:
        """Publish one message through nsqd's `/pub`, to be delivered after `delay_ms`.

        Raises:
            ConnectionLost: nsqd cannot be reached in time.
            NsqdRefused: nsqd did not take the message.
        """
        params = {"topic": topic, "defer": str(delay_ms)}
        response = self._call("POST", "/pub", timeout_s, params=params, data=body, stream=True)
        try:
            refused = "" if response.status_code == requests.codes.ok else _error_code(response)
            _ = response.content  # or the connection is of no more use
        except requests.RequestException:
            refused = "" if response.status_code == requests.codes.ok else f"HTTP {response.status_code}"
            self.close()  # what the status said holds all the same: nsqd has the message, or has refused it
        if refused:
            raise NsqdRefused(refused, "", fatal=False)

    def ping(self, *, timeout_s: float) -> None:
        """Ask nsqd's `/ping` whether it is well.

        Raises:
            ConnectionLost: nsqd cannot be reached in time.
            NsqdRefused: it is not well.
        """
        response = self._call("GET", "/ping", timeout_s)
        if response.status_code != requests.codes.ok:
            raise NsqdRefused(f"HTTP {response.status_code}", response.text[:80], fatal=False)

    def _call(self, method: str, path: str, timeout_s: float, **request: Any) -> requests.Response:
        if not self.connected or self._session is None:
            self._session, self._pid = _session(), os.getpid()
        try:
            return _call(self._session, method, f"{self._address}{path}", timeout_s, **request)
        except BaseException:
            self.close()
            raise


def publish(address: Address, topic: str, body: bytes, *, timeout_s: float) -> None:
    """Publish one message over a connection of its own; raises as `Client.publish`."""
    with closing(Client(address)) as client:
        client.publish(topic, body, timeout_s=timeout_s)


def nodes(lookupds: Iterable[Address], *, timeout_s: float) -> tuple[frozenset[Address], list[str]]:
    """Ask every nsqlookupd which nsqd there are (`/nodes`).

    Returns:
        The TCP addresses that at least one of them knows, and a sentence for each that did not answer.
    """
    found: set[Address] = set()
    problems = []
    for lookupd in lookupds:
        try:
            found |= _nodes(lookupd, timeout_s)
        except (ConnectionLost, ProtocolError) as error:
            problems.append(f"nsqlookupd {error}")
    return frozenset(found), problems


def _nodes(lookupd: Address, timeout_s: float) -> set[Address]:
    with _session() as session:
        response = _call(session, "GET", f"{lookupd}/nodes", timeout_s)
    try:
        producers = orjson.loads(response.content)["producers"]
        return {node_address(node, "tcp_port") for node in producers}
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolError(f"{lookupd}: /nodes answered {response.status_code} without any") from error


def node_address(node: Mapping[str, Any], port: str) -> Address:
    """Return one of the addresses of an entry of `/nodes`: that with the port `tcp_port`, or `http_port`.

    Raises:
        ValueError, KeyError, TypeError: it has none.
    """
    # Written and read again, which checks the name and the port.
    return names.address(str(Address(node["broadcast_address"], node[port])))


def _session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # nsqd is a neighbour; a proxy of the environment is for other traffic
    return session


def _call(session: requests.Session, method: str, url: str, timeout_s: float, **request: Any) -> requests.Response:
    try:
        return session.request(method, f"http://{url}", timeout=timeout_s, **request)
    except (requests.RequestException, ValueError) as error:  # ValueError: a host name that cannot be one
        cause = getattr(error.args[0], "reason", error) if error.args else error
        raise ConnectionLost(f"{url.partition('/')[0]}: {_last_words(cause)}") from error


def _last_words(cause: object) -> str:
    """Cut a chain of wrapped exceptions down to what went wrong."""
    return str(cause).rpartition(": ")[2]


def _error_code(response: requests.Response) -> str:
    try:
        return str(orjson.loads(response.content)["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code}"


def get(address: Address, path: str, *, timeout_s: float, **params: str) -> bytes:
    """Ask nsqd, or nsqlookupd, something over a connection of its own, and return what it said.

    Raises:
        ConnectionLost: it cannot be reached in time.
        ProtocolError: it does not answer that.
    """
    with closing(Client(address)) as client:
        response = client._call("GET", path, timeout_s, params=params)
    if not response.ok:
        raise ProtocolError(f"{address}: {path} answered HTTP {response.status_code}")
    return response.content
