# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the main thread is stuck, judged by the I/O thread at each of its turns; the clock comes as an argument.

There are two limits. After 2 seconds in which no message was answered nsqd is asked for no more: others shall have
them. After NSQ_ROUTE_TIMEOUT in one and the same route what waits behind it is given back, and after twice that time
the message of the route is left to nsqd, too.
"""

from __future__ import annotations

from dataclasses import dataclass

from kemi_nsq.runtime.page import Doing

#: When a message has waited for so long while none was answered, nsqd shall hand further ones to others.
STUCK_S = 2.0
#: A thread that turns twice a second and did not for so long was held up itself.
HELD_UP_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the I/O thread shall do.

    Attributes:
        silent: messages wait and none was answered for a while.
        silent_s: for how long.
        began: what has now taken longer than it may.
        overdue: give back whatever nobody handles.
        hopeless: it has taken twice as long: leave its message to nsqd.
        ended: what had taken too long, and is over.
        took_s: how long that took.
    """

    silent: bool = False
    silent_s: float = 0.0
    began: Doing | None = None
    overdue: bool = False
    hopeless: bool = False
    ended: Doing | None = None
    took_s: float = 0.0

    @property
    def stuck(self) -> bool:
        """Whether no more messages shall come."""
        return self.silent or self.overdue


#: That of nearly every turn, of which there may be one for each message.
FINE = Judgement()


class Watchdog:
    """Remembers what it has said, so that each thing is said once.

    Args:
        route_timeout_s: NSQ_ROUTE_TIMEOUT.
    """

    def __init__(self, route_timeout_s: float) -> None:
        self._route_timeout_s = route_timeout_s
        self._answered_at = self._turned_at = 0.0
        self._late: Doing | None = None

    def answered(self, now: float) -> None:
        """Note that a message was answered, or is the first to wait."""
        self._answered_at = now

    def is_late(self, doing: Doing) -> None:
        """Take note that somebody else has said that something takes too long; here only its end will be said."""
        self._late = doing

    def look(self, now: float, *, waiting: bool, doing: Doing | None) -> Judgement:
        """Judge.

        Args:
            now: monotonic seconds.
            waiting: a message waits for its answer.
            doing: what the main thread does; None while it waits for something to do.
        """
        if now - self._turned_at > HELD_UP_S:
            # We were held up ourselves, by a native route that kept Python's lock: nsqd must be able to send us again
            # what timed out meanwhile, or the answers to it would come to nothing.
            self._answered_at = now
        self._turned_at = now
        silent_s = now - self._answered_at
        if silent_s <= STUCK_S and self._late is None and (doing is None or now - doing.since <= self._route_timeout_s):
            return FINE
        ended = self._late if doing is not self._late else None
        age_s = now - doing.since if doing is not None else 0.0
        overdue = age_s > self._route_timeout_s
        began = doing if overdue and doing is not self._late else None
        self._late = doing if overdue else None
        return Judgement(
            silent=waiting and silent_s > STUCK_S,
            silent_s=silent_s,
            began=began,
            overdue=overdue,
            hopeless=age_s > 2 * self._route_timeout_s,
            ended=ended,
            took_s=now - ended.since if ended is not None else 0.0,
        )
