# SPDX-License-Identifier: GPL-2.0-or-later
"""The routes of routes.cfg in Python, as an operator would add his own to the shipped script.

Kamailio loads this file from a folder that has `kemi_routes.py` and `nsq.py` beside it.
"""

from __future__ import annotations

from threading import Event as Never

import kemi_routes  # type: ignore[import-not-found]  # lies beside this file; it makes the package known
import KSR

# isort: split
from kemi_nsq import Event, event_route


class Kamailio(kemi_routes.Kamailio):  # type: ignore[misc]  # see above
    """The shipped routes and those of the tests."""

    @event_route("nsq:consumer-event-test-show")
    def show(self, event: Event) -> None:
        KSR.notice(f"test: payload={event.payload}\n")
        KSR.notice(f"test: topic={event.topic} channel={event.channel} attempts={event.attempts}\n")

    @event_route("nsq:consumer-event-test-again-update")
    def again(self, event: Event) -> int:
        code = self.nsq_pua_publish(event.payload)
        KSR.notice(f"test: published rc={code} attempts={event.attempts}\n")
        return -1 if event.attempts == 1 else 0

    @event_route("nsq:consumer-event-test-never")
    def never(self, event: Event) -> int:
        return -1

    @event_route("nsq:consumer-event-test-mended-update")
    def mended(self, event: Event) -> int:
        if not event.replays:
            return -1
        code = self.nsq_pua_publish(event.payload)
        KSR.notice(f"test: replay {event.replays} rc={code} of {event.topic}\n")
        return 1

    @event_route("nsq:consumer-event-test-raise")
    def fail(self, event: Event) -> None:
        if event.attempts == 1:
            raise ValueError("this handler fails once")
        KSR.notice(f"test: attempts={event.attempts} after an exception\n")

    @event_route("nsq:consumer-event-test-slow")
    def slow(self, event: Event) -> None:
        KSR.notice("test: slow begins\n")
        Never().wait(60)


def mod_init() -> Kamailio:
    """Return the object that Kamailio calls."""
    return Kamailio()
