# SPDX-License-Identifier: GPL-2.0-or-later
"""A command at whose standard error somebody looks: by a terminal, or by a pipe. Unlike tmux it needs no program."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.process import session_members
from tests.support.until import until

ROOT = Path(__file__).parents[2]
_ROWS, _COLUMNS = 24, 100
#: Deletes the line in which the cursor is: so a line is rewritten in place, and taken away at last.
REWRITTEN = "\x1b[2K"


class LookedAt:
    """One run of a module of the tests, in a session of its own, as a shell would start it.

    Entering the context starts it; leaving it kills what is left of it.

    Attributes:
        errors: what it wrote to standard error so far.
    """

    def __init__(self, module: str, *words: str, terminal: bool, folder: Path) -> None:
        """Prepare it.

        Args:
            module: what Python runs.
            words: the words of the command after that.
            terminal: standard error is a terminal; else a pipe.
            folder: where its temporary files and its standard output go.
        """
        self.errors = ""
        self._command, self._terminal = [sys.executable, "-m", module, *words], terminal
        self._output, self.temporary = folder / "output", folder / "temporary"

    def __enter__(self) -> Self:
        self.temporary.mkdir(parents=True)
        self._read_end, write_end = os.openpty() if self._terminal else os.pipe()
        if self._terminal:
            fcntl.ioctl(write_end, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
        os.set_blocking(self._read_end, False)
        kept = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
        environment = kept | {"TERM": "xterm", "TMPDIR": str(self.temporary), "PYTHONHASHSEED": "0"}
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=write_end,
                start_new_session=True,
            )
        os.close(write_end)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid in self.left_behind():
            os.kill(pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._read_end)

    @property
    def pid(self) -> int:
        """Its process id, which is that of its session, too."""
        return self._process.pid

    @property
    def output(self) -> str:
        """What it wrote to standard output so far."""
        return self._output.read_text(encoding="utf-8")

    def left_behind(self) -> list[int]:
        """List the running processes of its session, and their children."""
        return session_members(self._process.pid)

    def wait_for(self, text: str, *, timeout_s: float = 30.0) -> None:
        """Wait until standard error has a text; AssertionError if it does not come, or it ends before."""

        def there() -> bool:
            ended = self._process.poll() is not None
            return text in self._read() or ended

        until(there, timeout_s=timeout_s, what=f"{text!r} on standard error")
        assert text in self.errors, f"it ended with code {self._process.returncode}: {self.errors}\n{self.output}"

    def interrupt(self) -> None:
        """Press Ctrl-C: a terminal tells all processes in front of it."""
        os.killpg(self._process.pid, signal.SIGINT)

    def wait_exit(self, *, timeout_s: float = 60.0) -> int:
        """Wait until it ends by itself, and return its exit code."""
        until(
            lambda: self._read() is not None and self._process.poll() is not None, timeout_s=timeout_s, what="the end"
        )
        self._read()
        return self._process.returncode

    def _read(self) -> str:
        while True:
            try:
                read = os.read(self._read_end, 65536)
            except BlockingIOError:
                return self.errors
            except OSError:  # EIO: nobody has the other end of the terminal any more
                return self.errors
            if not read:
                return self.errors
            self.errors += read.decode("utf-8", errors="replace")
