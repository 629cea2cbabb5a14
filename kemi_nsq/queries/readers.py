# SPDX-License-Identifier: GPL-2.0-or-later
"""Who else reads the replies to our queries, judged by what each nsqd says of the reply topic.

nsqd hands each reply to one reader of a channel, and a copy to each channel. So who reads ours takes replies away
unseen, and who has another channel of the topic reads along. There is no socket or clock in here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import NamedTuple, TypeAlias

from kemi_nsq.names import Address, Subscription
from kemi_nsq.nsq.stats import Reader

#: nsqd forgets a connection that has died after two heartbeats, 20 s: until then an old one of ours may be there.
SETTLED_S = 25.0
#: So many are named, and so many are remembered of one nsqd.
_NAMED, _MOST = 3, 100
_LONGEST = 64
#: What a reader is recognised by: channel, client id and address.
_Key: TypeAlias = tuple[str, str, str]


class _Seen(NamedTuple):
    """A reader that is not the one that we expect: since which monotonic second, and whether that is certain."""

    reader: Reader
    since: float
    certain: bool


class ReplyReaders:
    """Remembers who was seen, so that a connection of ours that has died is no stranger.

    Args:
        subscription: the reply topic and channel.
        client_id: what we call ourselves in IDENTIFY, and nobody else.
    """

    def __init__(self, subscription: Subscription, client_id: str) -> None:
        self._subscription = subscription
        self._client_id = client_id
        self._seen: dict[Address, dict[_Key, _Seen]] = {}

    def look(self, asked: Set[Address], found: Mapping[Address, Sequence[Reader]], now: float) -> str:
        """Judge what was found.

        Args:
            asked: HTTP addresses of all nsqd; what is known of one that did not answer stays.
            found: the readers of the topic, whatever their channel, at each nsqd that answered.
            now: monotonic seconds.

        Returns:
            Who else reads, in words; '' for nobody.
        """
        self._seen = {
            nsqd: self._judge(self._seen.get(nsqd, {}), found[nsqd], now) if nsqd in found else self._seen.get(nsqd, {})
            for nsqd in asked
        }
        strangers = [
            (nsqd, seen.reader) for nsqd in sorted(self._seen) for seen in self._seen[nsqd].values() if seen.certain
        ]
        if not strangers:
            return ""
        named = "; ".join(_described(nsqd, reader) for nsqd, reader in strangers[:_NAMED])
        more = f"; and {len(strangers) - _NAMED} more" if len(strangers) > _NAMED else ""
        return f"{self._subscription.topic} is read by {named}{more}"

    def _judge(self, before: Mapping[_Key, _Seen], readers: Sequence[Reader], now: float) -> dict[_Key, _Seen]:
        """Return who else is at one nsqd. Who came after us is no connection of ours that has died."""
        ours = sorted((reader for reader in readers if self._is_ours(reader)), key=lambda reader: reader.connected_at)
        came = ours[0].connected_at if ours else None
        others = {}
        for reader in self._others(readers, ours):
            key = (reader.channel, reader.client_id, reader.remote_address)
            since = before[key].since if key in before else now
            later = came is not None and reader.client_id != self._client_id and reader.connected_at > came
            others[key] = _Seen(reader, since, later or now - since >= SETTLED_S)
            if len(others) == _MOST:
                break
        return others

    def _others(self, readers: Sequence[Reader], ours: Sequence[Reader]) -> Iterator[Reader]:
        """Yield all but one of those that call themselves as we do, and but our channel without any reader."""
        yield from ours[1:]
        for reader in readers:
            if not self._is_ours(reader) and (reader.remote_address or reader.channel != self._subscription.channel):
                yield reader

    def _is_ours(self, reader: Reader) -> bool:
        return (reader.channel, reader.client_id) == (self._subscription.channel, self._client_id)


def _described(nsqd: Address, reader: Reader) -> str:
    channel = f"channel {reader.channel[:_LONGEST]} at nsqd {nsqd}"
    if not reader.remote_address:
        return f"nobody yet, but it has the {channel}"
    return f"{reader.client_id[:_LONGEST]} of host {reader.hostname[:_LONGEST]}, {reader.remote_address}, on {channel}"
