# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that nobody but our own user may read, whatever the umask is, and whoever else may write in their folder.

A file is made with its mode, not given it later: there is no moment in which others could open it. One that another
user has put there first, or a symbolic link, is refused. What nobody can mend from here is a folder in which others may
rename our files: one that others can write and that has no sticky bit.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kemi_nsq.errors import OutboxError

_MODE = 0o600
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
#: How long to wait for another process, and how often to look.
_PATIENCE_S = 1.0
_LOOK_S = 0.01
#: struct flock of fcntl(2): a lock for writing, from the beginning to the end.
_WHOLE = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


def make(path: str) -> None:
    """Make an empty file, if there is nothing of that name.

    Raises:
        OSError: it cannot be made.
    """
    with suppress(FileExistsError):
        # Not opened: SQLite's locks would go when we close it (sqlite.org/howtocorrupt.html, 2.2).
        os.mknod(path, stat.S_IFREG | _MODE)


def narrow(path: str) -> int:
    """See that a file is ours alone.

    Returns:
        The mode that it had, if others could read or write it; else 0. There may be no such file.

    Raises:
        OutboxError: it is no plain file, or another user's.
        OSError: it cannot be looked at, or changed.
    """
    try:
        # O_PATH opens no more than the name, so that it takes no lock away either; and it does not follow a link.
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        mode = _checked(path, descriptor)
        if mode != _MODE:
            os.chmod(f"/proc/self/fd/{descriptor}", _MODE)
        return mode if mode & 0o077 else 0
    finally:
        os.close(descriptor)


def open_private(path: str) -> int:
    """Open a file for reading and writing, made if it is not there; return its descriptor.

    Raises:
        OutboxError: it is no plain file, or another user's.
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, _FLAGS, _MODE)
    try:
        if _checked(path, descriptor) != _MODE:
            os.fchmod(descriptor, _MODE)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def alone(path: str) -> Iterator[int]:
    """Keep other processes out that come here with the same file, for a moment; yields its descriptor.

    The lock belongs to the open file (fcntl(2), "Open file description locks"), and is another one than that of
    flock(2), which somebody may hold on the same file for long.

    Raises:
        OutboxError: another process did not come out in time, or as `open_private`.
        OSError: as `open_private`.
    """
    descriptor = open_private(path)
    try:
        for _ in range(int(_PATIENCE_S / _LOOK_S)):
            try:
                fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _WHOLE)
                break
            except (BlockingIOError, PermissionError):
                time.sleep(_LOOK_S)
        else:
            raise OutboxError(f"another process has held {path} for {_PATIENCE_S:g} s")
        yield descriptor
    finally:
        os.close(descriptor)


def _checked(path: str, descriptor: int) -> int:
    """Return the mode of a file that may be used."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise OutboxError(f"{path} is no plain file, or a symbolic link: remove it, or name the file itself")
    if found.st_uid != os.geteuid():
        raise OutboxError(
            f"{path} belongs to user {found.st_uid}, but Kamailio runs as {os.geteuid()}: change that, or remove it"
        )
    return stat.S_IMODE(found.st_mode)
