# SPDX-License-Identifier: GPL-2.0-or-later
"""A Unix stream socket in the runtime folder at which a process listens, for this user, and root, alone."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress

from kemi_nsq.errors import ConnectionLost
from kemi_nsq.runtime.place import FILE_MODE, Place

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))
_ROOT = 0


class ListeningSocket:
    """The socket.

    Args:
        place: the runtime folder.
        name: of the socket; no other living process may use it.
        backlog: so many may have connected and not been accepted yet.
    """

    def __init__(self, place: Place, name: str, backlog: int = 8) -> None:
        self._place = place
        self._name = name
        self._backlog = backlog
        self._file: os.stat_result | None = None
        self._socket: socket.socket | None = None

    def keep_open(self) -> bool:
        """Let others find this under its name; again if its file is gone.

        Returns:
            Whether it is another socket than before.

        Raises:
            ConnectionLost: that cannot be.
        """
        if self._socket is not None and self._place.leads_to(self._name, self._file):
            return False
        self.close()
        try:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:
            raise ConnectionLost(f"{self._name}: {error.strerror}") from error
        try:
            # Which its file gets, whatever the umask is (net/unix/af_unix.c, unix_bind_bsd).
            os.fchmod(made.fileno(), FILE_MODE)
            with suppress(FileNotFoundError):
                os.unlink(self._name, dir_fd=self._place.descriptor)
            made.bind(self._place.address(self._name))
            made.listen(self._backlog)
            self._file = os.stat(self._name, dir_fd=self._place.descriptor, follow_symlinks=False)
        except OSError as error:
            made.close()
            raise ConnectionLost(f"{self._name}: {error.strerror}") from error
        self._socket = made
        return True

    def fileno(self) -> int:
        """Return the descriptor that is readable when somebody has connected, -1 while it is not open."""
        return -1 if self._socket is None else self._socket.fileno()

    def accept(self, wait_s: float) -> socket.socket | None:
        """Return the next that connects within `wait_s` seconds; None if nobody came, or has gone, or may not."""
        came = None if self._socket is None else next_client(self._socket, wait_s)
        if came is None:
            return None
        _, user, _ = _CREDENTIALS.unpack(came.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if user in (os.geteuid(), _ROOT):
            return came
        came.close()
        return None

    def close(self) -> None:
        """Give the name back."""
        if self._socket is None:
            return
        if self._place.leads_to(self._name, self._file):
            with suppress(OSError):
                os.unlink(self._name, dir_fd=self._place.descriptor)
        self._socket.close()
        self._socket = None


def next_client(listening: socket.socket, wait_s: float) -> socket.socket | None:
    """Return the next that connects within `wait_s` seconds; None if nobody came, or has gone again."""
    listening.settimeout(wait_s)
    try:
        return listening.accept()[0]
    except OSError:
        return None
