# SPDX-License-Identifier: GPL-2.0-or-later
"""What waits at nsqd for the consumers: the lag, summed over all nsqd that they consume from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from kemi_nsq import names
from kemi_nsq.errors import TransientError
from kemi_nsq.monitoring.answers import Said
from kemi_nsq.names import Address, Subscription
from kemi_nsq.nsq import httpapi, nodes, stats

_TIMEOUT_S = 2.0
_MOST_NSQD = 64


class Depth(NamedTuple):
    """What waits for one topic and channel.

    Attributes:
        topic: the topic.
        channel: the channel.
        messages: those that no client has yet, of the channel, and of the topic where no channel has taken them.
        in_flight: those that a client has, of whatever process.
        deferred: those that come again later.
    """

    topic: str
    channel: str
    messages: int
    in_flight: int
    deferred: int


def depths(said: Iterable[Said], left_s: Callable[[], float]) -> tuple[list[Depth], list[str]]:
    """Ask every nsqd of some consumers, which have said what they consume and from where.

    Args:
        said: what they have said.
        left_s: tells how many seconds may still be spent.

    Returns:
        What waits for each topic and channel, and which servers did not tell.
    """
    subscriptions: dict[Subscription, None] = {}
    servers: dict[Address, None] = {}
    unknown: list[str] = []
    for each in said:
        found, silent = _servers(each, left_s)
        servers |= dict.fromkeys(found)
        unknown += silent
        subscriptions |= dict.fromkeys(Subscription(*pair.rsplit(":", 1)) for pair in each.subscriptions)
    sums = {each: [0, 0, 0] for each in subscriptions}
    for server in list(servers)[:_MOST_NSQD]:
        try:
            for subscription, total in sums.items():
                for position, count in enumerate(
                    stats.channel(server, subscription, timeout_s=min(_TIMEOUT_S, left_s()))
                ):
                    total[position] += count
        except TransientError as error:
            unknown.append(f"the lag is not known: nsqd {error}; see NSQ_NSQD_ADDRESS")
    return [Depth(*each, *total) for each, total in sums.items()], list(dict.fromkeys(unknown))


def _servers(said: Said, left_s: Callable[[], float]) -> tuple[Sequence[Address], list[str]]:
    """Return the HTTP addresses of nsqd that a consumer consumes from, and which nsqlookupd did not tell."""
    lookupds = _addresses(said.settings["NSQ_LOOKUPD_ADDRESS"])
    if not lookupds:
        return _addresses(said.settings["NSQ_NSQD_ADDRESS"]), []
    lists, silent = [], []
    for lookupd in lookupds:
        try:
            answer = httpapi.get(lookupd, nodes.PATH, timeout_s=min(_TIMEOUT_S, left_s()))
            lists.append(nodes.read(answer.body, lookupd, "http_port").addresses)
        except TransientError as error:
            silent.append(f"the lag is not known: nsqlookupd {error}; see NSQ_LOOKUPD_ADDRESS")
    return nodes.in_turns(lists, most=_MOST_NSQD), silent


def _addresses(text: str) -> list[Address]:
    return [names.address(part) for part in text.split(",") if part]
