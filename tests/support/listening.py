# SPDX-License-Identifier: GPL-2.0-or-later
"""Servers of tests' own on free ports of loopback, with a thread for each connection; none outlives the test."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.support.ports import LOOPBACK

#: Seconds after which a thread looks whether it is over.
PATIENCE_S = 0.02
_JOIN_S = 10.0

#: Talks to a client; ends soon after `Listening.over` is set.
Serve = Callable[[socket.socket], None]


class Listening:
    """Listens while the context lasts.

    Args:
        name: of its threads.

    Attributes:
        over: set when the context ends.
    """

    def __init__(self, name: str) -> None:
        self.over = threading.Event()
        self._name = name
        self._listeners: list[tuple[socket.socket, Serve]] = []
        self._threads: list[threading.Thread] = []

    def listen(self, serve: Serve) -> int:
        """Take a port, before the context begins; return its number."""
        listener = socket.create_server((LOOPBACK, 0))
        self._listeners.append((listener, serve))
        port: int = listener.getsockname()[1]
        return port

    def __enter__(self) -> Self:
        for listener, serve in self._listeners:
            self._start(lambda listener=listener, serve=serve: self._accept(listener, serve))  # type: ignore[misc]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join(_JOIN_S)
            assert not thread.is_alive()
        for listener, _ in self._listeners:
            listener.close()

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=self._name)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket, serve: Serve) -> None:
        while not self.over.is_set():
            if select.select([listener], [], [], PATIENCE_S)[0]:
                accepted, _ = listener.accept()
                self._start(lambda accepted=accepted: serve(accepted))  # type: ignore[misc]
