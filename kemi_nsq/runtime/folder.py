# SPDX-License-Identifier: GPL-2.0-or-later
"""The runtime folder of a Kamailio: one instance holds it, each of its processes shows itself in a page there.

It is taken in mod_init, before the fork. With `kamailio -u` that still runs as root, while the pages are made by
processes that run as the user: so the folder is given to that user, and everything in it is reached through one
descriptor, whatever becomes of the path. The lock is a lock of the open file (flock(2)), which all children inherit:
the folder is free again when the last of them has ended.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from mmap import mmap
from pathlib import Path

from kemi_nsq.errors import RunFolderError
from kemi_nsq.runtime import page as pages
from kemi_nsq.runtime.deaths import Deaths
from kemi_nsq.runtime.page import Fact, Gauge, Page, Sheet
from kemi_nsq.runtime.processes import is_running, start_of

LOCK, DIED = "lock", "died"
PAGE, STACK = ".page", ".stack"
_SETTING = "NSQ_RUN_DIR"
#: The I/O thread of a process shows for how long it has lived on.
_SOON_S = 2.0
_MODE = 0o700
_FILE_MODE = 0o600
#: Never through a symbolic link, and never for the programs that a process may start.
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class RunFolder:
    """The runtime folder, held by this process and its children.

    Args:
        path: the folder; made if it is not there.
        uid: the user that Kamailio will run as.
        gid: and its group.

    Attributes:
        page: shows what each process does.
        died: message ids to how often a process ended while it handled that message (see `Deaths`).

    Raises:
        RunFolderError: the folder cannot be used, or another Kamailio holds it.
    """

    def __init__(self, path: Path, *, uid: int, gid: int) -> None:
        self._owner = (uid, gid)
        try:
            self._folder = _opened(path, uid, gid)
            self._lock = self._file(LOCK)
            self._hold(path)
            self.died = self._sweep()
        except OSError as error:
            raise RunFolderError(f"{_SETTING} {path} cannot be used: {error.strerror}") from None
        self.page = Page(self._page_memory)

    def stack_file(self) -> int:
        """Open the file in which this process leaves stacks; -1 if that cannot be."""
        try:
            return os.open(f"{os.getpid()}{STACK}", _FLAGS | os.O_APPEND, _FILE_MODE, dir_fd=self._folder)
        except OSError:
            return -1

    def _file(self, name: str) -> int:
        """Open a file for reading and writing, and give it to the user that needs it later."""
        descriptor = os.open(name, _FLAGS, _FILE_MODE, dir_fd=self._folder)
        if os.geteuid() == 0:
            os.fchown(descriptor, *self._owner)
        return descriptor

    def _hold(self, path: Path) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self._lock, 20, 0).decode("ascii", "replace")
            left = "" if pid.isdigit() and is_running(int(pid)) else " (it has ended, a child of it has not)"
            raise RunFolderError(
                f"{_SETTING} {path} is in use by the Kamailio with pid {pid}{left}; each needs a folder of its own"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)

    def _sweep(self) -> Mapping[str, float]:
        """Count the messages that ended a process of an earlier run, then remove what that run left."""
        with os.fdopen(self._file(DIED), "r+b") as file:
            deaths = Deaths(file.read(), int(time.time()))
            names = os.listdir(self._folder)
            for name in names:
                if name.endswith(PAGE):
                    ids, soon = _was_handling(self._read(name))
                    deaths.add(ids, soon=soon)
            # A crash between this and the removal would count them twice, which is better than not at all.
            file.seek(0)
            file.write(deaths.as_bytes())
            file.truncate()
        for name in names:
            if name.endswith((PAGE, STACK)):
                with suppress(OSError):  # whatever has such a name, it is not in our way
                    os.unlink(name, dir_fd=self._folder)
        return deaths.by_message()

    def _read(self, name: str) -> bytes:
        """Read a file; nothing where there is no file of this name, but something else."""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            with open(os.open(name, flags, dir_fd=self._folder), "rb") as file:
                return file.read(pages.SIZE + 1) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
        except OSError:
            return b""

    def _page_memory(self, pid: int) -> pages.Memory:
        """Make the page of a process. One that cannot be made is memory that nobody sees: Kamailio must go on."""
        memory: pages.Memory
        try:
            descriptor = os.open(f"{pid}{PAGE}", _FLAGS | os.O_TRUNC, _FILE_MODE, dir_fd=self._folder)
            try:
                # On a full disk this fails, while a write to memory that has no disk behind it ends the process.
                os.posix_fallocate(descriptor, 0, pages.SIZE)
                memory = mmap(descriptor, pages.SIZE)
            finally:
                os.close(descriptor)
        except OSError:
            memory = bytearray(pages.SIZE)
        pages.prepare(memory, pid, start_of(pid) or 0)
        return memory


#: What this process, or the one that it was forked from, holds: Kamailio may load the script once more.
_held: dict[Path, RunFolder] = {}


def take(path: Path, *, uid: int, gid: int) -> RunFolder:
    """Return the runtime folder of this Kamailio, held from the first call on."""
    if path not in _held:
        _held[path] = RunFolder(path, uid=uid, gid=gid)
    return _held[path]


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
        raise RunFolderError(f"{_SETTING} {path} is no folder, or a symbolic link") from None
    if made:
        os.fchmod(folder, _MODE)  # whatever the umask is
        if os.geteuid() == 0:
            os.fchown(folder, uid, gid)
    found = os.fstat(folder)
    if found.st_uid != uid:
        raise RunFolderError(
            f"{_SETTING} {path} belongs to user {found.st_uid}, but Kamailio runs as {uid}: change that, or remove it"
        )
    if stat.S_IMODE(found.st_mode) & ~_MODE:
        raise RunFolderError(f"{_SETTING} {path} is open to others: chmod 700")
    return folder


def _was_handling(data: bytes) -> tuple[list[str], bool]:
    """Return the messages that a process was handling when it ended, and whether it ended soon after it had begun."""
    sheet = pages.read(data)
    if sheet is None or start_of(sheet.pid) == sheet.started:
        return [], False
    lived_s = sheet.gauges[Gauge.IO_TURN] - sheet.gauges[Gauge.BUSY_SINCE]
    return sheet.facts.get(Fact.HANDLING, "").split(), lived_s <= _SOON_S


def _whole(file: Path) -> bytes | None:
    """Read a page that may be gone by now."""
    try:
        return file.read_bytes()
    except OSError:
        return None


def sheets(path: Path) -> list[tuple[Sheet, bool]]:
    """Read all pages of a folder, for a user that may; each with whether its process runs.

    Raises:
        RunFolderError: there is no such folder, it may not be read, or its pages are those of another release.
    """
    try:
        files = [file for file in sorted(path.iterdir()) if file.suffix == PAGE and file.is_file()]
    except OSError as error:
        raise RunFolderError(f"{_SETTING} {path} cannot be read: {error.strerror}; see --run-dir") from None
    found = [pages.read(data) for data in map(_whole, files) if data is not None]
    if found and not any(found):
        raise RunFolderError(f"{_SETTING} {path} has pages of another release: restart Kamailio")
    return [(sheet, is_running(sheet.pid, sheet.started)) for sheet in found if sheet is not None]
