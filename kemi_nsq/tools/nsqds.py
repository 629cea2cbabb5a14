# SPDX-License-Identifier: GPL-2.0-or-later
"""Which nsqd a tool reads from: each with the address by which messages come, and the one that tells what there is."""

from __future__ import annotations

from typing import NamedTuple

from kemi_nsq.errors import ConnectionLost, TransientError, UsageError
from kemi_nsq.names import Address
from kemi_nsq.nsq import httpapi, nodes
from kemi_nsq.settings import Settings

#: Of one request to nsqd or nsqlookupd.
TIMEOUT_S = 5.0
MOST_NSQD = 64


class Nsqd(NamedTuple):
    """A nsqd.

    Attributes:
        tcp: where messages come from.
        http: where it tells what topics and channels it has.
    """

    tcp: Address
    http: Address

    def __str__(self) -> str:
        """Name it by the address that a user knows from the settings."""
        return str(self.tcp)


def nsqds(settings: Settings) -> list[Nsqd]:
    """Return every nsqd that the settings know: those that nsqlookupd names, or those that they name themselves.

    Raises:
        UsageError: without nsqlookupd both addresses of each must be named.
        ConnectionLost: no nsqlookupd answers.
    """
    if settings.lookupd_address:
        return _named_by_lookupd(settings)
    tcp, http = settings.nsqd_tcp_address, settings.nsqd_address
    if len(tcp) != len(http):
        raise UsageError(
            f"NSQ_NSQD_TCP_ADDRESS names {len(tcp)} nsqd and NSQ_NSQD_ADDRESS {len(http)}: both must name the same "
            "ones, in the same order"
        )
    return [Nsqd(*both) for both in zip(tcp, http, strict=True)]


def _named_by_lookupd(settings: Settings) -> list[Nsqd]:
    found: dict[tuple[Address, Address], None] = {}
    failed = ""
    for lookupd in settings.lookupd_address:
        try:
            body = httpapi.get(lookupd, nodes.PATH, timeout_s=TIMEOUT_S).body
            found |= dict.fromkeys(nodes.pairs(body, lookupd))
        except TransientError as error:
            failed = f"nsqlookupd {error}; see NSQ_LOOKUPD_ADDRESS"
    if not found:
        raise ConnectionLost(failed or "no nsqlookupd knows any nsqd; see NSQ_LOOKUPD_ADDRESS")
    return [Nsqd(*both) for both in list(found)[:MOST_NSQD]]
