# SPDX-License-Identifier: GPL-2.0-or-later
"""What a consumer process has done, by topic and by route: how many events, how they ended, how long their routes took.

The sums are counters in the page; this tells them apart. The main thread counts, and a thread that answers a tool reads
at the same time: it may see an event in one number that is not yet in another.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

from kemi_nsq.jsontext import JsonValue
from kemi_nsq.names import Subscription
from kemi_nsq.runtime.page import BUCKETS_S

#: Routes are of the configuration; but what is said of them here came with an event, so there is an end to it.
MOST_ROUTES = 200
_OTHER = "(others) of (others)"


class End(enum.IntEnum):
    """How an event ended."""

    DONE = 0
    AGAIN = 1
    REFUSED = 2


@dataclass(slots=True)
class _Route:
    """Events that a route had, by `End`, and the seconds that it took: a count for each bucket."""

    ends: list[int] = field(default_factory=lambda: [0] * len(End))
    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    total_s: float = 0.0
    longest_s: float = 0.0


@dataclass(slots=True)
class _Topic:
    """What came of a subscription, and when the last of it was begun (epoch seconds)."""

    received: int = 0
    last: float = 0.0


class Tally:
    """Counts by topic and by route. What counts is for each event, and has no call that it can do without."""

    def __init__(self) -> None:
        self._topics: dict[Subscription, _Topic] = {}
        self._routes: dict[str, _Route] = {}

    def came(self, subscription: Subscription, wall: float) -> None:
        """Count an event, and when its handling began."""
        topic = self._topics.get(subscription) or self._topics.setdefault(subscription, _Topic())
        topic.received += 1
        topic.last = wall

    def ran(self, what: str, took_s: float, end: End) -> None:
        """Count a route that ran for an event; `what` is what `page.begin` was told of it: `ROUTE of TOPIC`."""
        route = self._routes.get(what) or self._new_route(what)
        route.ends[end] += 1
        route.counts[bisect_left(BUCKETS_S, took_s)] += 1
        route.total_s += took_s
        if took_s > route.longest_s:  # noqa: PLR1730  # max() takes five times as long
            route.longest_s = took_s

    def as_json(self) -> dict[str, JsonValue]:
        """Return what was counted; a name that is none of ours stands for all for which there was no room."""
        return {
            "topics": [
                {"topic": topic, "channel": channel, "received": each.received, "last": each.last}
                for (topic, channel), each in list(self._topics.items())
            ],
            "routes": [_route_json(what, each) for what, each in list(self._routes.items())],
        }

    def _new_route(self, what: str) -> _Route:
        return self._routes.setdefault(what if len(self._routes) < MOST_ROUTES else _OTHER, _Route())


def _route_json(what: str, route: _Route) -> dict[str, JsonValue]:
    name, _, topic = what.rpartition(" of ")
    ends: Mapping[str, JsonValue] = {end.name.lower(): route.ends[end] for end in End}
    return {
        "route": name,
        "topic": topic,
        **ends,
        "counts": [*route.counts],
        "total_s": route.total_s,
        "longest_s": route.longest_s,
    }
