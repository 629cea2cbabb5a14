# SPDX-License-Identifier: GPL-2.0-or-later
"""How the processes of one Kamailio write to each other: Unix datagrams, under names that need no file (unix(7))."""

from __future__ import annotations

import array
import os
import socket
import struct
import time
from functools import partial

from kemi_nsq.errors import ConnectionLost
from kemi_nsq.nsq.sockets import PatientCall, timeval

#: Well below the default of net.core.wmem_default, so that a postbox holds several letters.
_LARGEST_DATAGRAM = 32 * 1024
_FULL_TIMEOUT_S = 0.1  # a postbox holds net.unix.max_dgram_qlen letters, 10 by default
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))
_ANCILLARY_SIZE = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(struct.calcsize("i"))


class Postbox:
    """A Unix datagram socket between the processes of one Kamailio, under a name that needs no file.

    Letters from another user's processes are dropped. A letter that is too long for a datagram travels as a
    descriptor of memory (memfd_create(2)), which the receiver reads.

    Args:
        name: where others send to.

    Raises:
        ConnectionLost: another process has this name.
    """

    def __init__(self, name: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval(_FULL_TIMEOUT_S))
        self._receive = PatientCall(self._socket, partial(self._socket.recvmsg, _LARGEST_DATAGRAM, _ANCILLARY_SIZE))
        # Before the name is there: the kernel says who sent a letter if this was set when the letter came (unix(7)).
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        try:
            self._socket.bind(_abstract(name))
        except OSError as error:
            self._socket.close()
            raise ConnectionLost(f"{name}: {error.strerror}") from error

    def fileno(self) -> int:
        """Return the descriptor that is readable when a letter waits."""
        return self._socket.fileno()

    def send(self, name: str, letter: bytes, *, wait: bool = False) -> None:
        """Send a letter to another postbox; where that is full, `wait` gives its owner a tenth of a second.

        Raises:
            ConnectionLost: nobody has this name, or the postbox stays full.
        """
        flags = 0 if wait else socket.MSG_DONTWAIT
        try:
            if len(letter) <= _LARGEST_DATAGRAM:
                self._socket.sendto(letter, flags, _abstract(name))
                return
            descriptor = os.memfd_create("kemi-nsq")
            try:
                os.write(descriptor, letter)
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))
                self._socket.sendmsg([b"\0"], [rights], flags, _abstract(name))  # Python 3.11's send_fds forgets these
            finally:
                os.close(descriptor)  # the receiver gets one of its own, to the same memory (unix(7), SCM_RIGHTS)
        except OSError as error:
            raise ConnectionLost(f"{name}: {error.strerror}") from error

    def receive(self, timeout_s: float) -> bytes | None:
        """Return the next letter of this user's processes, or None if there is none in `timeout_s`."""
        try:
            if timeout_s > 0:
                letter, ancillary, _, _ = self._receive.until(time.monotonic() + timeout_s)
            else:
                letter, ancillary, _, _ = self._socket.recvmsg(_LARGEST_DATAGRAM, _ANCILLARY_SIZE, socket.MSG_DONTWAIT)
        except (TimeoutError, BlockingIOError):
            return None
        descriptors, user = array.array("i"), -1
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                _, user, _ = _CREDENTIALS.unpack(data)
            elif level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(data)
        if user != os.getuid():  # what a stranger passes might never end
            for descriptor in descriptors:
                os.close(descriptor)
            return None
        return next(map(_read_and_close, descriptors), letter)

    def close(self) -> None:
        """Give the name back."""
        self._socket.close()


def _abstract(name: str) -> bytes:
    return b"\0" + name.encode()


def _read_and_close(descriptor: int) -> bytes:
    with open(descriptor, "rb") as memory:
        memory.seek(0)
        return memory.read()
