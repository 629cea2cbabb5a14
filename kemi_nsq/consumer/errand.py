# SPDX-License-Identifier: GPL-2.0-or-later
"""What one thread of a consumer process has another one do, and waits for, with a deadline."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from kemi_nsq.errors import DeadlineExceeded, NsqError
from kemi_nsq.jsontext import JsonValue

#: Seconds that it may take: less than a tool that asks for it has, so that the tool learns why nothing came of it.
WAIT_S = 1.5


@dataclass(slots=True, eq=False)
class Errand:
    """What one thread has another one do, and what came of it."""

    work: Callable[[], JsonValue]
    answer: JsonValue = None
    error: NsqError | None = None
    given_up: bool = False
    begun: bool = False
    done: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Do it, in the other thread, unless nobody waits for it any more; a bug is for that thread to tell."""
        if self.given_up:
            return
        self.begun = True
        try:
            self.answer = self.work()
        except NsqError as error:
            self.error = error
        finally:
            self.done.set()

    def wait(self, who: str, within_s: float = WAIT_S) -> JsonValue:
        """Wait for the answer.

        Raises:
            DeadlineExceeded: the other thread did not come to it, and will not do it any more; or it is not ready.
            NsqError: it could not be done.
        """
        if not self.done.wait(within_s):
            self.given_up = True
            if self.begun:
                raise DeadlineExceeded(f"{who} does it still")
            raise DeadlineExceeded(f"{who} is busy; nothing was done")
        if self.error is not None:
            raise self.error
        return self.answer
