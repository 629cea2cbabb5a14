# SPDX-License-Identifier: GPL-2.0-or-later
"""What Kamailio runs for ever in a process of its own, run in a thread until a test is done with it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Forever(Protocol):
    """A consumer's supervisor, or the relay."""

    def run_forever(self) -> None:
        """Run until `stop`."""

    def stop(self) -> None:
        """Let `run_forever` return, from another thread."""


@contextmanager
def running(tested: Forever) -> Iterator[threading.Thread]:
    """Run it; when the context ends it must end, too."""
    thread = threading.Thread(target=tested.run_forever, name="under test")
    thread.start()
    try:
        yield thread
    finally:
        tested.stop()
        thread.join(10)
        assert not thread.is_alive()
