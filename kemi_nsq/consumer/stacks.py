# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the main thread is when it is stuck: its Python stack, in the log and in the runtime folder.

While a route waits in Python, the I/O thread runs and tells. While a native route runs C code it keeps Python's lock,
and no thread of Python runs: for that case a timer of `faulthandler` is set, again and again. It is a thread in C that
needs no lock, and if nobody sets it anew it writes the stacks of all threads to a file.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
import traceback
from contextlib import suppress

from kemi_nsq.clock import local_time
from kemi_nsq.host import Host, Level
from kemi_nsq.runtime.page import Doing, Fact

#: The timer is set anew this often, or four times in its time if that is short.
_AGAIN_S = 1.0
#: A larger file of stacks begins anew.
_MOST_BYTES = 65536


class Stacks:
    """Tells where the main thread is. Made in the main thread; both threads set the timer.

    Args:
        host: the SIP server. What is called of it here may be called by any thread.
        timeout_s: NSQ_ROUTE_TIMEOUT.
    """

    def __init__(self, host: Host, timeout_s: float) -> None:
        self._host = host
        self._timeout_s = timeout_s
        self._again_s = min(_AGAIN_S, timeout_s / 4)
        self._main = threading.get_ident()
        self._file = host.stack_file()
        self._lock = threading.Lock()
        self._armed_at = 0.0

    def arm(self, now: float) -> None:
        """Set the timer, not oftener than needed: it costs a thread each time."""
        if now - self._armed_at < self._again_s:
            return
        with self._lock:
            if self._file < 0:
                return
            self._armed_at = now
            if os.fstat(self._file).st_size > _MOST_BYTES:
                os.ftruncate(self._file, 0)
            faulthandler.dump_traceback_later(self._timeout_s, file=self._file)

    def disarm(self, now: float) -> None:
        """Stop the timer of a main thread that waits for work, but not between two messages of many."""
        with self._lock:
            if self._armed_at and now - self._armed_at >= self._again_s:
                self._armed_at = 0.0
                faulthandler.cancel_dump_traceback_later()

    def close(self) -> None:
        """Stop the timer for good. The other thread may not have ended yet."""
        with self._lock:
            faulthandler.cancel_dump_traceback_later()
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def began(self, doing: Doing) -> None:
        """Show that the main thread is stuck, and tell where."""
        since = local_time(time.time() - (time.monotonic() - doing.since))
        what = self._host.page.described(doing)
        self._host.page.show(Fact.STUCK, f"since {since}: {what}")
        frame = sys._current_frames().get(self._main)
        text = f"stuck for {self._timeout_s:g} s in {what}; the stack of its thread:\n"
        text += "".join(traceback.format_stack(frame))
        self._host.log_aside(Level.ERROR, text)
        if self._file >= 0:
            with suppress(OSError):  # a full disk must not end this thread
                os.write(self._file, text.encode("utf-8", "replace"))

    def ended(self) -> None:
        """Show that the main thread is not stuck any more."""
        self._host.page.show(Fact.STUCK, "")
