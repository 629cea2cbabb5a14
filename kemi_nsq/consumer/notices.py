# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens to a consumer besides events, for who has an event route for it: `nsq:connected` and its like.

Such a route finds a JSON object as an event's route does, and nothing comes of what it returns. What is over is said at
the level at which it was said that it began: who filters the log sees both or neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.consumer.message import Happening, Notice
from kemi_nsq.event import Event
from kemi_nsq.host import Level, Report
from kemi_nsq.jsontext import JsonValue, encode
from kemi_nsq.settings import Settings

PREFIX = "nsq:"
#: What can be told, by the name of its route, and the fields of each besides `Event-Category`, `Event-Name` and `Node`.
ROUTES: Mapping[Happening, str] = {
    Happening.MOD_INIT: "once, in the first consumer, when it begins; no more fields",
    Happening.CONNECTED: "nsqd accepted a subscription: `Nsqd`, `Topic`, `Channel`",
    Happening.DISCONNECTED: "a connection to nsqd was lost: `Nsqd`, `Topic`, `Channel`, `Reason`",
    Happening.STUCK: "a route, or the database, took longer than NSQ_ROUTE_TIMEOUT, and is over: `What`, `Seconds`",
}


class Notices:
    """Tells routes, in the main thread.

    Args:
        settings: which topics are consumed, and the node's name.
        run: runs a route of a name, if there is one.
        clock: tells the time.
    """

    def __init__(self, settings: Settings, run: Callable[[str, Event], object], clock: Clock = SYSTEM) -> None:
        self._settings = settings
        self._run = run
        self._clock = clock
        #: Connections that were said to be gone, or not to come about: nsqd, topic, channel.
        self._gone: set[tuple[JsonValue, ...]] = set()

    def report(self, notice: Notice) -> Report:
        """Return what is to be logged of it."""
        about = tuple(notice.fields.get(name) for name in ("Nsqd", "Topic", "Channel"))
        if notice.happening in (Happening.DISCONNECTED, Happening.UNREACHABLE):
            self._gone.add(about)
        elif notice.happening is Happening.CONNECTED and about in self._gone:
            self._gone.remove(about)
            return Report(level=Level.WARNING, text=f"{notice.report.text} again", counter=notice.report.counter)
        return notice.report

    def tell(self, notice: Notice) -> None:
        """Run the route for it, if there is one."""
        if notice.happening not in ROUTES or not self._is_of_events(notice):
            return
        named = {"Event-Category": "nsq", "Event-Name": notice.happening.value, "Node": self._settings.node}
        fields: dict[str, JsonValue] = {**named, **notice.fields}
        event = Event(
            topic=str(fields.get("Topic", "")),
            channel=str(fields.get("Channel", "")),
            message_id="",
            timestamp_ns=int(self._clock.wall() * 1e9),
            attempts=1,
            payload=encode(fields).decode(),
            fields=fields,
        )
        self._run(PREFIX + notice.happening.value, event)

    def _is_of_events(self, notice: Notice) -> bool:
        """Whether it is about what an operator has named: the subscription for replies is ours alone."""
        about = notice.fields.get("Topic"), notice.fields.get("Channel")
        return about == (None, None) or about in self._settings.subscriptions
