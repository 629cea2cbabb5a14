# SPDX-License-Identifier: GPL-2.0-or-later
"""What the threads of a consumer process have in common: they can be stopped, and do not break in silence."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable

from kemi_nsq.host import Broken


class Background(threading.Thread):
    """Works beside the main thread until `stop`; an error of ours is handed to the main thread.

    Args:
        name: of the thread.
        broken: learns that it works no more.
    """

    def __init__(self, name: str, broken: Callable[[Broken], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._broken = broken
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End the thread after what it is doing now."""
        self._stopping.set()

    def run(self) -> None:
        """Work until `stop`."""
        try:
            self._work()
        except BaseException:  # whatever it is, the main thread must learn that nobody does this any more
            self._broken(Broken(trace=traceback.format_exc()))
        finally:
            self._end()

    def _work(self) -> None:
        """Do the work; return when `_stopping` is set."""
        raise NotImplementedError

    def _end(self) -> None:
        """Leave nothing behind."""
