# SPDX-License-Identifier: GPL-2.0-or-later
"""Follows a message through the code: which files are given it, or what has become of it, as an argument."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import kemi_nsq
from kemi_nsq.consumer.message import Delivery, Handled
from kemi_nsq.event import Event
from kemi_nsq.host import Suspended
from kemi_nsq.nsq.protocol import Message
from kemi_nsq.nsq.ways import Outgoing
from kemi_nsq.presence.packages.state import State
from kemi_nsq.presence.row import Row
from kemi_nsq.queries.protocol import Waiting

PACKAGE = Path(kemi_nsq.__file__).parent
#: What a message becomes on its way.
_FORMS = (Delivery, Event, Handled, Message, Outgoing, Row, State, Suspended, Waiting)
_FEW = 3


class Walk:
    """Where a message came by.

    Args:
        mark: a text that only this message holds.

    Attributes:
        steps: the files, relative to the package, in the order of the calls; one entry for each call.
    """

    def __init__(self, mark: str) -> None:
        self.steps: list[str] = []
        self._text, self._bytes = mark, mark.encode()

    @property
    def files(self) -> set[str]:
        """The files."""
        return set(self.steps)

    @property
    def crossings(self) -> int:
        """How often the next file was another one."""
        return sum(before != after for before, after in zip(self.steps, self.steps[1:], strict=False))

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Follow it in this thread, and in those that are started meanwhile."""
        threading.setprofile(self._look)
        sys.setprofile(self._look)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    def _look(self, frame: FrameType, event: str, _argument: object) -> None:
        if event != "call":
            return
        path = Path(frame.f_code.co_filename)
        if not path.is_relative_to(PACKAGE):
            return
        code = frame.f_code
        given = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 0x04)]
        if any(self._carries(frame.f_locals.get(name)) for name in given):
            self.steps.append(str(path.relative_to(PACKAGE)))

    def _carries(self, value: object) -> bool:
        match value:
            case bytes() | bytearray():
                return self._bytes in value
            case str():
                return self._text in value
            case tuple() if isinstance(value, _FORMS):
                return True
            case list() | tuple():
                return any(map(self._carries, value[:_FEW]))
            case Mapping():
                return any(map(self._carries, list(value.values())))
            case _:
                return isinstance(value, _FORMS)
