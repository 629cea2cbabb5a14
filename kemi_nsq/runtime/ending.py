# SPDX-License-Identifier: GPL-2.0-or-later
"""How a consumer process ends when Kamailio, or its service manager, sends SIGTERM: at once, or in order.

Kamailio's handler of the signal ends a process on the spot (main.c, `sig_usr`: `_exit(0)`). Python's runs only between
two steps of Python's: it lets what has begun be finished, but waits for code in C, however long that takes. So there
are two, and one is in force at a time: Kamailio's while native code runs, Python's while Python does.

Which one it is is changed by the C library's sigaction: Python's `signal` cannot set a handler again that is not its
own.

Python may itself be in C for long, where it has let others have its lock: a locked SQLite file, a name that does not
resolve. Then its handler waits, but the C part of that writes to a descriptor, and a thread reads it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable

#: Seconds from the signal to the end, whatever is not done by then; Kamailio itself would wait for 60.
GRACE_S = 2.0
#: Through this no other thread gets Python's lock meanwhile.
_LIBRARY = ctypes.PyDLL(None)
#: More than any `struct sigaction`, which is only copied here.
_ACTION_SIZE = 512


class Ending:
    """Which handler of SIGTERM is in force. Before `begin` it is Kamailio's, and all else here does nothing.

    For the main thread alone. A process that a Python handler forks is ended at once.

    Attributes:
        asked: whether this process shall end, in order: what has begun is finished, and nothing more is begun.
    """

    def __init__(self) -> None:
        self.asked = False
        self._in_order = False
        self._kamailio = self._python = b""
        self._tell: Callable[[], None] = _nothing
        #: The first who takes it has heard of the end.
        self._heard = threading.Lock()

    def begin(self, tell: Callable[[], None]) -> None:
        """Let this process end in order from now on, where it can. What follows the first call is nothing new.

        Args:
            tell: called when the signal has come, once: by the main thread between any two steps of it, or by
                another one.
        """
        if self._python:
            return
        self._tell = tell
        # Nobody takes this signal, so it ends the process, even if native code keeps Python's lock by then.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        read, written = os.pipe()
        os.set_blocking(written, False)
        signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=(read,), name="nsq-end", daemon=True).start()
        self._kamailio = _action()
        signal.signal(signal.SIGTERM, self._take)
        self._python = _action()
        self._in_order = True
        os.register_at_fork(before=self._before_fork, after_in_parent=self._forked, after_in_child=self._begin_child)

    def at_once(self) -> None:
        """Say that native code is going to run, which may take long."""
        if self._in_order:
            self._in_order = False
            _set_action(self._kamailio)

    def in_order(self) -> None:
        """Say that Python runs again, and what it does is worth to be finished."""
        if not self._in_order and self._python:
            self._in_order = True
            _set_action(self._python)

    def end(self) -> None:
        """End this process as Kamailio would have."""
        self.at_once()
        os.kill(os.getpid(), signal.SIGTERM)

    def _listen(self, read: int) -> None:
        """Hear of the signal while the main thread is in C code: the C part of Python's handler writes its number."""
        while signal.SIGTERM not in os.read(read, 1):
            pass
        self._hear()

    # A child has the descriptor too: its end would be heard as ours. So it is born with Kamailio's handler. Any thread
    # may fork.

    def _before_fork(self) -> None:
        _set_action(self._kamailio)

    def _forked(self) -> None:
        if self._in_order:
            _set_action(self._python)

    def _begin_child(self) -> None:
        self._python, self._in_order = b"", False
        signal.set_wakeup_fd(-1)

    def _take(self, _number: int, _frame: object) -> None:
        """Take the signal, which Kamailio and the service manager both send."""
        self._hear()

    def _hear(self) -> None:
        if self._heard.acquire(blocking=False):
            self.asked = True
            signal.setitimer(signal.ITIMER_REAL, GRACE_S)
            self._tell()


def _action() -> bytes:
    """Return what the kernel does at SIGTERM, in the C library's form."""
    action = ctypes.create_string_buffer(_ACTION_SIZE)
    _LIBRARY.sigaction(int(signal.SIGTERM), None, action)
    return action.raw


def _set_action(action: bytes) -> None:
    _LIBRARY.sigaction(int(signal.SIGTERM), action, None)


def _nothing() -> None:
    pass
