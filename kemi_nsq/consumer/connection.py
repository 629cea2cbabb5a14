# SPDX-License-Identifier: GPL-2.0-or-later
"""One open connection of a consumer process, without its socket: what nsqd allows there, and what is in flight."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field

from kemi_nsq.consumer.targets import Target
from kemi_nsq.memory import remember
from kemi_nsq.nsq import protocol as nsq

#: What is in flight at the end comes again after this long, and not at once: nsqd might hand it to this connection.
GIVE_BACK_MS = 100
#: So many ids of messages that timed out are kept.
_LATE_KEPT = 1000


@dataclass(slots=True, kw_only=True, eq=False)
class Connection:
    """One open connection.

    Attributes:
        connection_id: its number; a `Delivery` names it.
        target: what it is for.
        conversation: its conversation with nsqd.
        heard_at: monotonic second at which nsqd was heard last.
        subscribed: nsqd has accepted SUB.
        max_rdy: the largest RDY that nsqd allows.
        ready: the RDY that nsqd was told last.
        touch_every_s: seconds between two TOUCHes of a message.
        touch_at: messages that wait for their answer, and the monotonic second of the next TOUCH of each.
        touch_due: no TOUCH is due before this monotonic second. It may be too early, never too late: so a message that
            comes or goes costs one comparison, and all are looked at only when some have waited for long.
        late: messages that were not touched in time, while a native route kept Python's lock. nsqd may send them again
            although they are finished.
        abandoned: messages that are touched no more, because their route takes too long, and when it was their turn.
        promised: the largest RDY that nsqd was ever told.
        unasked: messages that came since it was told RDY 0.
        dismissed: nsqd has heard that we leave, and sends no more.
    """

    connection_id: int
    target: Target
    conversation: nsq.Conversation
    heard_at: float
    subscribed: bool = False
    max_rdy: int = 0
    ready: int = 0
    touch_every_s: float = 0.0
    touch_at: dict[bytes, float] = field(default_factory=dict)
    touch_due: float = math.inf
    late: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    abandoned: dict[bytes, float] = field(default_factory=dict)
    promised: int = 0
    unasked: int = 0
    dismissed: bool = False

    @property
    def ignores_ready(self) -> bool:
        """Whether nsqd has sent more than any RDY allowed, the last one or those that were in force before."""
        return max(len(self.touch_at), self.unasked) > self.promised

    def tell_ready(self, count: int) -> None:
        """Send RDY, if it is another one than nsqd was told."""
        if count != self.ready:
            self.ready = count
            self.promised = max(self.promised, count)
            self.unasked = 0
            self.conversation.ready(count)

    def take(self, message_id: bytes) -> None:
        """Note a message that waits for its answer from now on."""
        self.touch_at[message_id] = due = self.heard_at + self.touch_every_s
        if due < self.touch_due:  # noqa: PLR1730  # min() takes ten times as long, and this is for each message
            self.touch_due = due
        if not self.ready:
            self.unasked += 1

    def abandon(self) -> None:
        """Touch what is in flight no more: nsqd hands it to another consumer when its timeout is over."""
        for message_id, due in self.touch_at.items():
            self.abandoned.setdefault(message_id, due)
            self.touch_at[message_id] = math.inf

    def touch(self, now: float) -> None:
        """Send TOUCH for the messages whose turn it is."""
        for message_id, due in self.touch_at.items():
            if now >= due:
                self._note_if_late(message_id, due, now)
                self.conversation.touch(message_id)
                self.touch_at[message_id] = now + self.touch_every_s
        self.touch_due = min(self.touch_at.values(), default=math.inf)

    def finish(self, message_id: bytes, now: float) -> None:
        """Send FIN for a message."""
        due = self.touch_at.pop(message_id, now)
        self._note_if_late(message_id, self.abandoned.pop(message_id, due), now)
        self.conversation.finish(message_id)

    def requeue(self, message_id: bytes, delay_ms: int) -> None:
        """Send REQ for a message."""
        self.touch_at.pop(message_id, None)
        self.abandoned.pop(message_id, None)
        self.late.pop(message_id, None)  # it shall come again
        self.conversation.requeue(message_id, delay_ms)

    def give_back(self) -> None:
        """Requeue what is in flight: else it would wait for the message's timeout.

        Not at once, so that nsqd does not hand it to this connection again.
        """
        if self.conversation.in_flight:
            self.conversation.ready(0)
        for message_id in self.conversation.in_flight:
            self.conversation.requeue(message_id, GIVE_BACK_MS)

    def _note_if_late(self, message_id: bytes, due: float, now: float) -> None:
        """Keep the id of a message whose timeout, two intervals without a TOUCH, is over."""
        if now > due + self.touch_every_s:
            remember(self.late, message_id, None, most=_LATE_KEPT)


def ready_share(max_in_flight: int, connections: int, max_rdy: int) -> int:
    """Return the RDY count of one of `connections` to the same topic.

    Every nsqd gets at least 1, or its messages would never come: with more nsqd than NSQ_MAX_IN_FLIGHT, the sum is
    above the setting by what is missing.
    """
    return max(1, min(max_in_flight // max(1, connections), max_rdy))
