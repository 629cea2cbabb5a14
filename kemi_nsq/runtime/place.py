# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the runtime folder is, whose it is, and how its processes reach what is in it.

It is taken in mod_init, before the fork. With `kamailio -u` that still runs as root, while files are made by processes
that run as the user: so the folder is given to that user, and everything in it is reached through one descriptor,
whatever becomes of the path. The lock is a lock of the open file (flock(2)), which all children inherit: the folder is
free again when the last of them has ended.

Sockets have their names here, too. Nobody but this user can make one, or write to one, and both sides look: who sends
at the folder and the socket, who receives at the credentials that the kernel gives (`queries.postbox`).
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from kemi_nsq.errors import ConnectionLost, RunFolderError
from kemi_nsq.runtime.instance import instance_id, machine_id
from kemi_nsq.runtime.processes import is_running

LOCK = "lock"
#: Ends the name of a socket.
SOCKET = ".sock"
SETTING = "NSQ_RUN_DIR"
FILE_MODE = 0o600
_MODE = 0o700
#: Never through a symbolic link, and never for the programs that a process may start.
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_ROOT = 0
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
#: Names of sockets come in letters, too.
_SOCKET_NAME = re.compile(r"[A-Za-z0-9-]{1,64}" + re.escape(SOCKET))


def _nothing() -> None:
    """Do nothing after the folder was made again."""


def unusable(path: Path, error: OSError) -> RunFolderError:
    """Say that a folder cannot be used, and why."""
    return RunFolderError(f"{SETTING} {path} cannot be used: {error.strerror}")


class Place:
    """The runtime folder as a place, held by this process and its children.

    Args:
        path: the folder; made if it is not there.
        uid: the user that Kamailio will run as.
        gid: and its group.

    Attributes:
        path: the folder.
        instance: tells this Kamailio from all others, and is the same after a restart.
        moved: is called when this process has made the folder anew, or found it so.

    Raises:
        RunFolderError: the folder cannot be used, or another Kamailio holds it.
    """

    def __init__(self, path: Path, *, uid: int, gid: int) -> None:
        self.path = path
        self.moved: Callable[[], None] = _nothing
        self._owner = (uid, gid)
        self._main_pid = os.getpid()
        self._mutex = threading.Lock()
        try:
            self._folder = _opened(path, uid, gid)
            #: Which consumer has which slot is told by locks on bytes of this one, whatever becomes of the folder.
            self._slots = self._held = self.file(LOCK)
            self._hold(self._held, fcntl.LOCK_EX)
            os.ftruncate(self._held, 0)
            os.pwrite(self._held, str(self._main_pid).encode(), 0)
        except OSError as error:
            raise unusable(path, error) from None
        self.instance = instance_id(os.path.realpath(path), machine=machine_id(), host_name=os.uname().nodename)

    @property
    def descriptor(self) -> int:
        """The descriptor of the folder, for calls that take a `dir_fd`."""
        return self._folder

    def file(self, name: str, flags: int = 0) -> int:
        """Open a file for reading and writing, and give it to the user that needs it later."""
        descriptor = os.open(name, _FLAGS | flags, FILE_MODE, dir_fd=self._folder)
        if os.geteuid() == _ROOT:
            os.fchown(descriptor, *self._owner)
        return descriptor

    def claim(self, most: int) -> int:
        """Return the lowest number below `most` that no other process of this Kamailio has; free when this one ends.

        Raises:
            ConnectionLost: all are taken.
        """
        for slot in range(most):
            # Of the process, and not of the open file as flock(2) has it: the descriptor is shared (fcntl_locking(2)).
            with suppress(BlockingIOError, PermissionError):
                fcntl.lockf(self._slots, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
                return slot
        raise ConnectionLost(f"all {most} consumer slots are taken")

    # Sockets

    def address(self, name: str) -> str:
        """Return where a socket is bound, or sent to. It is short: a socket's path has 107 bytes at most (unix(7)).

        Raises:
            ConnectionLost: this is no name of a socket.
        """
        if not _SOCKET_NAME.fullmatch(name):
            raise ConnectionLost(f"{name[:80]!r} is no socket of ours")
        return f"/proc/self/fd/{self._folder}/{name}"

    def trust(self, name: str) -> None:
        """See that whoever listens at a socket here is ours, or root.

        Raises:
            ConnectionLost: it may be somebody else.
            OSError: there is nothing of this name.
        """
        ours = (os.geteuid(), _ROOT)
        folder, found = os.fstat(self._folder), os.stat(name, dir_fd=self._folder, follow_symlinks=False)
        if folder.st_uid not in ours or folder.st_mode & _OTHERS_WRITE:
            raise ConnectionLost(f"{SETTING} {self.path} is open to others: chmod 700")
        if found.st_uid not in ours or not stat.S_ISSOCK(found.st_mode):
            raise ConnectionLost(f"{name} in {SETTING} {self.path} is no socket of ours, but of user {found.st_uid}")

    def leads_to(self, name: str, file: os.stat_result | None) -> bool:
        """Whether a name is still that of a file: somebody may have removed it."""
        try:
            found = os.stat(name, dir_fd=self._folder, follow_symlinks=False)
        except OSError:
            return False
        return file is not None and os.path.samestat(found, file)

    # Somebody cleans up

    def restore(self) -> bool:
        """Make the folder again if it was removed, or find it where another process of ours has made it again.

        Returns:
            Whether it is another one than before.

        Raises:
            RunFolderError: it is gone and cannot be made, or somebody else has it now.
        """
        with self._mutex:
            try:
                if self._is_there():
                    return False
                fresh = _opened(self.path, *self._owner)
                try:
                    self._share(fresh)
                    os.dup2(fresh, self._folder, inheritable=False)
                finally:
                    os.close(fresh)
            except OSError as error:
                raise RunFolderError(
                    f"{SETTING} {self.path} is gone and cannot be made again: {error.strerror}"
                ) from None
        self.moved()
        return True

    def _is_there(self) -> bool:
        """Whether the path leads to the folder that is open, and the lock is in it: cleaners take old files first."""
        try:
            if not os.path.samestat(os.lstat(self.path), os.fstat(self._folder)):
                return False
        except PermissionError:  # the way there is closed to the user of `kamailio -u`; a removed one has no links
            if not os.fstat(self._folder).st_nlink:
                return False
        except FileNotFoundError:
            return False
        return _has_lock(self._folder, self._held)

    def _share(self, folder: int) -> None:
        """Hold a new folder together with the other processes of this Kamailio, each of which does this by itself."""
        if _has_lock(folder, self._slots):
            # The folder of the start is back, whose lock all of us have. To close another descriptor of that file would
            # end the claim of a slot (fcntl_locking(2)).
            lock = self._slots
        else:
            lock = os.open(LOCK, _FLAGS, FILE_MODE, dir_fd=folder)
            try:
                self._hold(lock, fcntl.LOCK_SH)
                os.pwrite(lock, str(self._main_pid).encode(), 0)
            except BaseException:
                os.close(lock)
                raise
        if self._held != self._slots:
            os.close(self._held)
        self._held = lock

    def _hold(self, lock: int, how: int) -> None:
        try:
            fcntl.flock(lock, how | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(lock, 20, 0).decode("ascii", "replace")
            left = "" if pid.isdigit() and is_running(int(pid)) else " (it has ended, a child of it has not)"
            raise RunFolderError(
                f"{SETTING} {self.path} is in use by the Kamailio with pid {pid}{left}; each needs a folder of its own"
            ) from None


def _has_lock(folder: int, lock: int) -> bool:
    """Whether the lock in a folder is the one that is open."""
    try:
        return os.path.samestat(os.stat(LOCK, dir_fd=folder, follow_symlinks=False), os.fstat(lock))
    except FileNotFoundError:
        return False


def _opened(path: Path, uid: int, gid: int) -> int:
    """Make the folder if it is not there, check whose it is, and open it."""
    try:
        os.mkdir(path, _MODE)
        made = True
    except FileExistsError:
        made = False
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError:  # which is what Linux says of a symbolic link, too
        raise RunFolderError(f"{SETTING} {path} is no folder, or a symbolic link") from None
    try:
        _prepare(folder, path, uid, gid, made=made)
    except BaseException:
        os.close(folder)
        raise
    return folder


def _prepare(folder: int, path: Path, uid: int, gid: int, *, made: bool) -> None:
    if made:
        os.fchmod(folder, _MODE)  # whatever the umask is
        if os.geteuid() == _ROOT:
            os.fchown(folder, uid, gid)
    found = os.fstat(folder)
    if found.st_uid != uid:
        raise RunFolderError(
            f"{SETTING} {path} belongs to user {found.st_uid}, but Kamailio runs as {uid}: change that, or remove it"
        )
    if stat.S_IMODE(found.st_mode) & ~_MODE:
        raise RunFolderError(f"{SETTING} {path} is open to others: chmod 700")
    with suppress(OSError):
        # systemd-tmpfiles leaves a folder alone that somebody holds so (tmpfiles.d(5)).
        fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
