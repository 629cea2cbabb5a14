# SPDX-License-Identifier: GPL-2.0-or-later
"""What tools may ask a consumer process about presence: where the table is, what was decided, a reset, lines."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.consumer.console import Verb
from kemi_nsq.errors import UsageError
from kemi_nsq.host import Host, Level
from kemi_nsq.jsontext import JsonObject, JsonValue
from kemi_nsq.presence.expiry import Expiry
from kemi_nsq.presence.history import MOST, History
from kemi_nsq.presence.row import MOST_POSITION
from kemi_nsq.settings import Settings

#: Seconds after which a reset lets events go on, and is to be asked for its rest.
_TURN_S = 0.4


class PuaInquiries:
    """Answers tools.

    Args:
        settings: where the table is.
        host: has the log.
        history: what was decided; None where there is no presentity table.
        expiry: ends states; None likewise.
        clock: tells the time.

    Attributes:
        at_once: verbs for the thread that is asked.
        in_main: those for the main thread.
    """

    def __init__(
        self, settings: Settings, host: Host, history: History | None, expiry: Expiry | None, clock: Clock = SYSTEM
    ) -> None:
        self._settings = settings
        self._host = host
        self._given_history = history
        self._given_expiry = expiry
        self._clock = clock
        self.at_once: Mapping[str, Verb] = {"where": self._where, "history": self._asked_history}
        self.in_main: Mapping[str, Verb] = {"reset": self._reset, "log-events": self._log_events}

    @property
    def _history(self) -> History:
        if self._given_history is None:
            raise UsageError("NSQ_DB_URL is not set in that Kamailio, so it stores no states")
        return self._given_history

    def _where(self, _arguments: JsonObject) -> JsonValue:
        """Tell where states are and events come from; with the password, as its own user and root can read it."""
        return {
            "db_url": self._settings.db_url or "",
            "presentity_table": self._settings.presentity_table,
            "watchers_table": self._settings.pua_watchers_table,
            "subscriptions_in_memory": self._settings.subscriptions_in_memory,
            "order_field": self._settings.pua_order_field,
            "listen_topic": self._settings.subscriptions[0].topic,
            "nsqd_address": str(self._settings.nsqd_address[0]),
            "event_key": self._settings.consumer_event_key,
            "event_subkey": self._settings.consumer_event_subkey,
        }

    def _asked_history(self, arguments: JsonObject) -> JsonValue:
        most = arguments.get("most", MOST)
        if not isinstance(most, int) or not 0 <= most <= MOST:
            raise UsageError(f"most is {most!r}; 0 to {MOST} is wanted")
        return dict(self._history.as_json(str(arguments.get("uri", "")), str(arguments.get("package", "")), most))

    def _log_events(self, arguments: JsonObject) -> JsonValue:
        on = arguments.get("on")
        if not isinstance(on, bool):
            raise UsageError("on or off is wanted")
        policy = self._host.log_policy
        if on and not policy.admits(Level.INFO):
            raise UsageError(
                f"log-level is {policy.level_name}, which leaves these lines out; set info or default first"
            )
        if on != policy.events:
            self._host.log(Level.WARNING, f"each step of an event is logged {'from now on' if on else 'no more'}")
        policy.events = on
        return on

    def _reset(self, arguments: JsonObject) -> JsonValue:
        """End states of a scope for a moment; return how many, and where the next call goes on (`below`, '' for none).

        Ids and positions are texts: they are larger than JSON's numbers are everywhere.
        """
        expiry = self._given_expiry
        if expiry is None:
            raise UsageError("NSQ_DB_URL is not set in that Kamailio, so there is nothing to reset")
        scope, ended = str(arguments.get("scope", "")), 0
        position = _number(arguments, "position", most=MOST_POSITION, default=expiry.now_position())
        below_id = _number(arguments, "below", most=sys.maxsize, default=sys.maxsize)
        until = self._clock.monotonic() + _TURN_S
        while below_id:
            found, below_id = expiry.reset_page(scope, position=position, below_id=below_id)
            ended += found
            if self._clock.monotonic() > until:
                break
        self._host.log(
            Level.WARNING, f"reset by the operator: {scope}: {ended} states{' and more' if below_id else ''}"
        )
        return {"ended": ended, "position": str(position), "below": str(below_id or "")}


def _number(arguments: JsonObject, name: str, *, most: int, default: int) -> int:
    """Read a number that is written as text; whoever asks must not end the main thread by it."""
    given = arguments.get(name) or ""
    if given == "":
        return default
    if not isinstance(given, str) or not given.isascii() or not given.isdecimal() or len(given) > len(str(most)):
        raise UsageError(f"{name} is {str(given)[:40]!r}; a number up to {most} is wanted")
    return min(int(given), most)
