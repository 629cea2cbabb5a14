# SPDX-License-Identifier: GPL-2.0-or-later
"""Which file an SQLite connection has open, and whether it is still the one at its path.

A connection goes on with the file that it has opened, whatever becomes of its name: what it writes to a file that was
deleted or replaced, nobody reads again. The `-wal` and `-shm` of that file then lie beside the new one, and SQLite
takes them for its own: it writes what the old `-wal` holds over the new file, or fails with "disk I/O error" as long as
anybody has the old file open. (Tried with 3.40.1; sqlite.org/howtocorrupt.html, "Unlinking or renaming a database file
while in use".) So whoever leaves a file that has gone takes these two away.
"""

from __future__ import annotations

import fcntl
import os
from typing import TypeAlias

#: Device and inode. As long as a file is open, no other one has its.
Identity: TypeAlias = tuple[int, int]

#: What SQLite puts beside a file in WAL mode, by the ends of their names.
WAL, SHM = "-wal", "-shm"


def identity(path: str) -> Identity | None:
    """Return which file is at a path; None if there is none."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


class OpenFile:
    """The file that is at a path when a connection is about to open it.

    Args:
        path: where it is.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        #: SQLite names the companions after the file itself, not after a symbolic link to it.
        self._real = os.path.realpath(path)
        self._identity = identity(path)
        self._companions: dict[str, Identity] | None = None
        self._all = {path: self._identity} if self._identity else {}

    @property
    def name(self) -> str:
        """Which file it is, in words that no other one has."""
        return "{} {}".format(*self._identity) if self._identity else ""

    def settle(self) -> None:
        """Note the companions, once the connection has read something: as long as it is open they stay the same."""
        if self._companions is None and self._has_its_place():
            found = {name: identity(name) for name in (self._real + SHM, self._real + WAL)}
            self._companions = {name: file for name, file in found.items() if file}
            self._all |= self._companions

    def is_there(self) -> bool:
        """Whether it is still the one at its path, and has its companions. It costs three system calls."""
        try:
            for name, (device, inode) in self._all.items():
                found = os.stat(name)
                if found.st_ino != inode or found.st_dev != device:
                    return False
        except (FileNotFoundError, NotADirectoryError):
            return False
        return self._identity is not None

    def give_up(self) -> bool:
        """Take the companions away, if the file is no longer at its path: before its connection is closed.

        Returns:
            Whether the file has gone: a checkpoint of the connection does no harm to another one.

        Raises:
            OSError: they cannot be removed, or another process is doing it.
        """
        # As long as the connection is open no other file can have their inodes.
        if self._has_its_place():
            return False
        try:
            # Several processes may come here, and the first one opens the new file at once: the old `-wal` is what they
            # take turns by. No lock of SQLite's is on it, so none is lost when it is closed (howtocorrupt.html, 2.2).
            wal = os.open(self._real + WAL, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(wal, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for name, companion in (self._companions or {}).items():
                if identity(name) == companion:
                    os.unlink(name)
        finally:
            os.close(wal)
        return True

    def _has_its_place(self) -> bool:
        return self._identity is not None and identity(self._path) == self._identity
