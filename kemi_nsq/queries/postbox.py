# SPDX-License-Identifier: GPL-2.0-or-later
"""How the processes of one Kamailio write to each other: Unix datagrams, by sockets in the runtime folder (unix(7))."""

from __future__ import annotations

import array
import os
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from kemi_nsq.errors import ConnectionLost
from kemi_nsq.nsq.sockets import PatientCall, timeval
from kemi_nsq.runtime.place import FILE_MODE, Place

#: Well below the default of net.core.wmem_default, so that a postbox holds several letters.
_LARGEST_DATAGRAM = 32 * 1024
_FULL_TIMEOUT_S = 0.1  # a postbox holds net.unix.max_dgram_qlen letters, 10 by default
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))
_ANCILLARY_SIZE = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(struct.calcsize("i"))


class Postbox:
    """A Unix datagram socket between the processes of one Kamailio, in its runtime folder.

    Letters from another user's processes are dropped, and none is written to another user's socket. A letter that is
    too long for a datagram travels as a descriptor of memory (memfd_create(2)), which the receiver reads.

    Args:
        place: the runtime folder.
        name: where others send to; no other living process may use it.
        stranger: is called with the user whose letter was dropped.

    Attributes:
        name: as above.

    Raises:
        ConnectionLost: this process can open no socket.
    """

    def __init__(self, place: Place, name: str, stranger: Callable[[int], None]) -> None:
        self._place = place
        self.name = name
        self._stranger = stranger
        self._file: os.stat_result | None = None
        self._adopt(_new_socket(name))

    def open(self) -> None:
        """Let others find this under its name, again if its file is gone.

        Raises:
            ConnectionLost: that cannot be.
        """
        fresh, address = _new_socket(self.name), self._place.address(self.name)
        try:
            with suppress(FileNotFoundError):  # left by a process that was killed: the name is ours alone
                os.unlink(self.name, dir_fd=self._place.descriptor)
            fresh.bind(address)
            self._file = os.stat(self.name, dir_fd=self._place.descriptor, follow_symlinks=False)
        except OSError as error:
            fresh.close()
            raise ConnectionLost(f"{self.name}: {error.strerror}") from error
        self._socket.close()
        self._adopt(fresh)

    @property
    def is_there(self) -> bool:
        """Whether others find it: somebody may have removed its file."""
        return self._place.leads_to(self.name, self._file)

    def fileno(self) -> int:
        """Return the descriptor that is readable when a letter waits; another one after `open`."""
        return self._socket.fileno()

    def send(self, name: str, letter: bytes, *, wait: bool = False) -> None:
        """Send a letter to another postbox; where that is full, `wait` gives its owner a tenth of a second.

        Raises:
            ConnectionLost: nobody has this name, or it is not one of ours, or the postbox stays full.
        """
        flags, address = 0 if wait else socket.MSG_DONTWAIT, self._place.address(name)
        try:
            self._place.trust(name)
            if len(letter) <= _LARGEST_DATAGRAM:
                self._socket.sendto(letter, flags, address)
                return
            descriptor = os.memfd_create("kemi-nsq")
            try:
                os.write(descriptor, letter)
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))
                self._socket.sendmsg([b"\0"], [rights], flags, address)  # Python 3.11's send_fds forgets these
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
            self._stranger(user)
            return None
        return next(map(_read_and_close, descriptors), letter)

    def close(self) -> None:
        """Give the name back."""
        if self.is_there:
            with suppress(OSError):
                os.unlink(self.name, dir_fd=self._place.descriptor)
        self._socket.close()

    def _adopt(self, fresh: socket.socket) -> None:
        self._socket = fresh
        self._receive = PatientCall(fresh, partial(fresh.recvmsg, _LARGEST_DATAGRAM, _ANCILLARY_SIZE))


def _new_socket(name: str) -> socket.socket:
    try:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    except OSError as error:
        raise ConnectionLost(f"{name}: {error.strerror}") from error
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval(_FULL_TIMEOUT_S))
    # Before the name is there: the kernel says who sent a letter if this was set when the letter came (unix(7)).
    made.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    # Which its file gets, whatever the umask is (net/unix/af_unix.c, unix_bind_bsd).
    os.fchmod(made.fileno(), FILE_MODE)
    return made


def _read_and_close(descriptor: int) -> bytes:
    with open(descriptor, "rb") as memory:
        memory.seek(0)
        return memory.read()
