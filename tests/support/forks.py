# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes of a test's own that run one function, and may be killed at any moment."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Fork:
    """A child that runs a function and ends; leaving the context kills it, if it still runs.

    Args:
        work: what it does; an exception is exit code 1, and is printed.

    Attributes:
        pid: its process id.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._exit_code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                work()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def kill(self) -> None:
        """End it by SIGKILL, as a crash would."""
        if self._exit_code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def wait(self) -> int:
        """Wait for its end and return its exit code, the negative signal number when a signal ended it."""
        if self._exit_code is None:
            self._exit_code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._exit_code
