# SPDX-License-Identifier: GPL-2.0-or-later
"""The HTTP interfaces of nsqd and nsqlookupd. The only module that imports `requests`.

Sources: nsq.io, "nsqd" and "nsqlookupd", section "HTTP API".
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import closing
from typing import Any, NamedTuple

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
        # Written and read again, which checks the name and the port.
        return {names.address(str(Address(node["broadcast_address"], node["tcp_port"]))) for node in producers}
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolError(f"{lookupd}: /nodes answered {response.status_code} without any") from error


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


class Reader(NamedTuple):
    """A client of a channel, as nsqd's `/stats` has it (nsqd/stats.go, `ClientV2Stats`).

    Attributes:
        channel: the channel.
        client_id: what it calls itself.
        hostname: what it calls its machine.
        remote_address: `host:port` where it comes from; '' stands for a channel that has no client now.
        connected_at: when, in seconds since the epoch by nsqd's clock.
    """

    channel: str
    client_id: str
    hostname: str
    remote_address: str
    connected_at: float


_NO_CLIENT: dict[str, Any] = {"client_id": "", "hostname": "", "remote_address": "", "connect_ts": 0}


def readers(nsqd: Address, topic: str, *, timeout_s: float) -> list[Reader]:
    """Ask a nsqd, by its HTTP address, who reads a topic (`/stats`), on whichever channel.

    Raises:
        ConnectionLost: it cannot be reached in time.
        ProtocolError: it answers something else.
    """
    params = {"format": "json", "topic": topic, "include_mem": "false"}
    with _session() as session:
        response = _call(session, "GET", f"{nsqd}/stats", timeout_s, params=params)
    try:
        topics = orjson.loads(response.content)["topics"] or ()  # null where nsqd has none of this name
        return [
            Reader(
                str(channel["channel_name"]),
                str(client["client_id"]),
                str(client["hostname"]),
                str(client["remote_address"]),
                float(client["connect_ts"]),
            )
            for found in topics
            for channel in found["channels"]
            for client in channel["clients"] or (_NO_CLIENT,)
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolError(f"{nsqd}: /stats answered {response.status_code} without any") from error


def http_addresses(lookupd: Address, *, timeout_s: float) -> set[Address]:
    """Ask a nsqlookupd for the HTTP addresses of all nsqd that it knows (`/nodes`); raises as `readers`."""
    with _session() as session:
        response = _call(session, "GET", f"{lookupd}/nodes", timeout_s)
    try:
        producers = orjson.loads(response.content)["producers"]
        return {names.address(str(Address(node["broadcast_address"], node["http_port"]))) for node in producers}
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolError(f"{lookupd}: /nodes answered {response.status_code} without any") from error
