# SPDX-License-Identifier: GPL-2.0-or-later
"""A consumer process that answers tools, without Kamailio and nsqd: a listener, and a thread that serves it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from kemi_nsq.runtime.console import Answerer, Listener, console_name
from kemi_nsq.runtime.place import Place


@contextmanager
def answering(place: Place, answer: Answerer, *, pid: int | None = None) -> Iterator[Listener]:
    """Answer in the name of a process, this one unless another is given, until the context ends."""
    listener, over = Listener(place, console_name(pid or os.getpid())), threading.Event()
    listener.keep_open()

    def serve() -> None:
        while not over.is_set():
            listener.keep_open()
            listener.serve(answer, 0.05)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener
    finally:
        over.set()
        thread.join()
        listener.close()
