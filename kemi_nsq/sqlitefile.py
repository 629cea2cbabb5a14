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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


def not_writable(path: str) -> list[str]:
    """Return what of an SQLite file, its companions and its folder this process may not write.

    SQLite says `attempt to write a readonly database` of all of them, and names none.
    """
    real = os.path.realpath(path)
    needed = (os.path.dirname(real), real, real + WAL, real + SHM)
    return [name for name in needed if os.path.exists(name) and not os.access(name, os.W_OK, effective_ids=True)]


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
        self._companions: dict[str, Identity | None] = {}

    def __str__(self) -> str:
        """Return what no other file has in common with it, once it is settled."""
        return repr((self._identity, *self._companions.values()))

    def settle(self) -> None:
        """Note the companions, once the connection has read something: as long as it is open they stay the same."""
        if not self._companions and self.has_its_name():
            self._companions = {name: identity(name) for name in (self._real + SHM, self._real + WAL)}

    def has_its_name(self) -> bool:
        """Whether the file is still the one at its path."""
        return self._identity is not None and identity(self._path) == self._identity

    def is_whole(self) -> bool:
        """Whether the file is still the one at its path, and its companions are those beside it."""
        return self.has_its_name() and all(identity(name) == it for name, it in self._companions.items())

    def give_up(self) -> bool:
        """Take away the companions of a file that is not whole, before its connection is closed.

        Returns:
            Whether a checkpoint of that connection does no harm to what others have opened meanwhile.

        Raises:
            OSError: they cannot be removed, or another process is doing it.
        """
        # As long as the connection is open nothing else can have their inodes.
        first = all(identity(name) in (it, None) for name, it in self._companions.items())
        with suppress(FileNotFoundError), _turn(self._real + WAL):
            for name, it in self._companions.items():
                if it and identity(name) == it:
                    os.unlink(name)
        return first or not self.has_its_name()


@contextmanager
def _turn(wal: str) -> Iterator[None]:
    """Wait for nobody: the first process that leaves a file opens the next one at once; the old `-wal` is the lock."""
    descriptor = os.open(wal, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        # SQLite has no lock on this one of its files, so none is lost when it is closed (howtocorrupt.html, 2.2).
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
