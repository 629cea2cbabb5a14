# SPDX-License-Identifier: GPL-2.0-or-later
"""Asks producers to say their state again: after a start or an outage, and when somebody subscribes to the unknown."""

from __future__ import annotations

from collections import OrderedDict

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.jsontext import JsonValue, encode
from kemi_nsq.memory import remember
from kemi_nsq.nsq.publisher import Publisher
from kemi_nsq.nsq.ways import Outgoing
from kemi_nsq.presence.sipuri import name_addr
from kemi_nsq.presence.table import PresentityTable
from kemi_nsq.settings import Settings

#: A probe of all, or of one presentity, is not repeated for this long by the same process.
INTERVAL_S = 30.0
_REMEMBERED = 10_000
_ALL = ("", "")


class Probe:
    """Publishes probes to NSQ_PROBE_TOPIC.

    A probe is a JSON object with `Event-Category` presence, `Event-Name` probe and `Node`; one for a single
    presentity has `Event-Package`, `Presentity`, `Presentity-User` and `Presentity-Realm` too. Whoever has a state
    publishes it again.

    Args:
        settings: the topic and the node.
        publisher: publishes them.
        table: tells whether a presentity has a state.
        clock: tells the time.
    """

    def __init__(
        self,
        settings: Settings,
        publisher: Publisher,
        table: PresentityTable | None,
        clock: Clock = SYSTEM,
    ) -> None:
        self._settings = settings
        self._publisher = publisher
        self._table = table
        self._clock = clock
        self._asked: OrderedDict[tuple[str, str], float] = OrderedDict()

    def everybody_due(self) -> float:
        """Return the monotonic second from which on `everybody` asks."""
        return self._asked.get(_ALL, -INTERVAL_S) + INTERVAL_S

    def everybody(self) -> bool:
        """Ask for all states, unless that was done lately; return whether a probe left.

        Raises:
            ConnectionLost, NsqdRefused: no nsqd took it.
        """
        return self._ask(_ALL, {})

    def one(self, presentity: str, package: str) -> bool:
        """Ask for one presentity's state of an event package if there is none; return whether a probe left.

        Raises:
            PayloadError: the presentity is no SIP URI.
            DatabaseError: the table could not be read.
            ConnectionLost, NsqdRefused: no nsqd took the probe.
        """
        if not self._settings.probe_topic or self._table is None:
            return False
        uri = name_addr("presentity", presentity).uri
        if self._table.search.find(username=uri.user, domain=uri.host, event=package):
            return False
        fields: dict[str, JsonValue] = {
            "Event-Package": package,
            "Presentity": f"sip:{uri.user}@{uri.host}",
            "Presentity-User": uri.user,
            "Presentity-Realm": uri.host,
        }
        return self._ask((f"{uri.user}@{uri.host}", package), fields)

    def _ask(self, key: tuple[str, str], fields: dict[str, JsonValue]) -> bool:
        now = self._clock.monotonic()
        last = self._asked.get(key)
        if not self._settings.probe_topic or (last is not None and now < last + INTERVAL_S):
            return False
        probe = {"Event-Category": "presence", "Event-Name": "probe", "Node": self._settings.node, **fields}
        self._publisher.publish(Outgoing(topic=self._settings.probe_topic, body=encode(probe)))
        remember(self._asked, key, now, most=_REMEMBERED)
        return True
