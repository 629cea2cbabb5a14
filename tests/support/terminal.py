# SPDX-License-Identifier: GPL-2.0-or-later
"""A terminal to type into and to look at: tmux, with a server and a socket of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.process import find_program

WIDTH, HEIGHT = 200, 50


class Terminal:
    """A shell in a terminal that nobody sees.

    Entering the context starts it; leaving it ends it and what runs in it.
    """

    def __init__(self, folder: Path, *, width: int = WIDTH, height: int = HEIGHT) -> None:
        """Prepare it, so many columns wide and lines high; its socket is in the folder."""
        self._command = [find_program("tmux"), "-S", str(folder / "tmux"), "-f", "/dev/null"]
        self._width, self._height = width, height

    def __enter__(self) -> Self:
        size = ["-x", str(self._width), "-y", str(self._height)]
        # pytest says how wide its own terminal is; this one has its own size.
        shell = ["env", "-u", "COLUMNS", "-u", "LINES", "PS1=$ ", "sh"]
        self._do("new-session", "-d", "-s", "tests", *size, *shell)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do("kill-server")

    def type(self, text: str) -> None:
        """Type a line, and Enter."""
        self._do("send-keys", "-t", "tests", "-l", text)
        self._do("send-keys", "-t", "tests", "Enter")

    def interrupt(self) -> None:
        """Type Ctrl-C."""
        self._do("send-keys", "-t", "tests", "C-c")

    def screen(self) -> str:
        """Return what it shows; a line that goes on in the next one is one line."""
        return self._do("capture-pane", "-p", "-J", "-t", "tests")

    def _do(self, *words: str) -> str:
        return subprocess.run([*self._command, *words], capture_output=True, text=True, check=True, timeout=10).stdout
