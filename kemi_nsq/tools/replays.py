# SPDX-License-Identifier: GPL-2.0-or-later
"""Publishes what dead letters hold to the topic of the replays, which consumers read (`consumer.origin`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kemi_nsq.consumer.origin import sealed
from kemi_nsq.errors import ConnectionLost, PayloadError, TransientError
from kemi_nsq.nsq import stats
from kemi_nsq.nsq.publisher import Publisher
from kemi_nsq.nsq.ways import Outgoing
from kemi_nsq.settings import Settings
from kemi_nsq.tools.deadletters import Act
from kemi_nsq.tools.letters import Letter
from kemi_nsq.tools.nsqds import TIMEOUT_S, Nsqd

#: Makes the replay of a letter; a PayloadError says why it cannot be replayed.
Judge = Callable[[Letter], Outgoing]


def judge(nsqds: Iterable[Nsqd], topic: str) -> Judge:
    """Return what makes the replay of a letter, or raises PayloadError where it cannot be replayed.

    Each channel has a copy of a replay and handles those of its own letters. So a letter of which nobody has the
    channel stays.

    Raises:
        ConnectionLost: nobody consumes the topic, or nsqd does not tell.
    """
    channels = _channels(nsqds, topic)

    def made(letter: Letter) -> Outgoing:
        origin = letter.origin()
        if origin.topic == topic:  # there it would be an event like any other, which no route knows
            raise PayloadError(f"it came by topic {topic}, and replays need a topic of their own; see NSQ_REPLAY_TOPIC")
        if origin.channel not in channels:
            raise PayloadError(
                f"no consumer reads topic {topic} on channel {origin.channel}; see NSQ_LISTEN_CHANNEL and "
                "NSQ_TOPIC_CHANNEL of who wrote it"
            )
        return Outgoing(topic=topic, body=sealed(origin))

    return made


def replays(settings: Settings, made: Judge) -> Act:
    """Return what replays a letter: it returns when nsqd has the replay."""
    publisher = Publisher(settings)

    def replay(letter: Letter) -> None:
        outgoing = made(letter)
        try:
            publisher.publish(outgoing)
        except TransientError as error:
            raise ConnectionLost(f"not replayed: {error}") from error

    return replay


def _channels(nsqds: Iterable[Nsqd], topic: str) -> set[str]:
    found: set[str] = set()
    for nsqd in nsqds:
        try:
            there = stats.topic(nsqd.http, topic, timeout_s=TIMEOUT_S)
        except TransientError as error:
            raise ConnectionLost(f"nsqd {error}; see NSQ_NSQD_ADDRESS") from error
        found.update(there.channels if there is not None else ())
    if not found:
        raise ConnectionLost(f"no consumer reads topic {topic}: is it NSQ_REPLAY_TOPIC in kamailio.cfg, too?")
    return found
