# SPDX-License-Identifier: GPL-2.0-or-later
"""What is in the runtime folder of a Kamailio: each of its processes shows itself in a page there.

Which folder that is, and who may have it, is in `place`.
"""

from __future__ import annotations

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
from kemi_nsq.runtime.place import SETTING, SOCKET, Place, unusable
from kemi_nsq.runtime.processes import is_running, start_of

DIED = "died"
PAGE, STACK = ".page", ".stack"
#: The I/O thread of a process shows for how long it has lived on.
_SOON_S = 2.0


class RunFolder:
    """The runtime folder, held by this process and its children.

    Args:
        path: the folder; made if it is not there.
        uid: the user that Kamailio will run as.
        gid: and its group.

    Attributes:
        place: where it is, for what else is kept there.
        page: shows what each process does.
        died: message ids to how often a process ended while it handled that message (see `Deaths`).

    Raises:
        RunFolderError: the folder cannot be used, or another Kamailio holds it.
    """

    def __init__(self, path: Path, *, uid: int, gid: int) -> None:
        self.place = Place(path, uid=uid, gid=gid)
        try:
            self.died = self._sweep()
        except OSError as error:
            raise unusable(path, error) from None
        self.page = Page(self._page_memory)
        self.place.moved = self.page.move

    def stack_file(self) -> int:
        """Open the file in which this process leaves stacks; -1 if that cannot be."""
        try:
            return self.place.file(f"{os.getpid()}{STACK}", os.O_APPEND)
        except OSError:
            return -1

    def _sweep(self) -> Mapping[str, float]:
        """Count the messages that ended a process of an earlier run, then remove what that run left."""
        with os.fdopen(self.place.file(DIED), "r+b") as file:
            deaths = Deaths(file.read(), int(time.time()))
            names = os.listdir(self.place.descriptor)
            for name in names:
                if name.endswith(PAGE):
                    ids, soon = _was_handling(self._read(name))
                    deaths.add(ids, soon=soon)
            # A crash between this and the removal would count them twice, which is better than not at all.
            file.seek(0)
            file.write(deaths.as_bytes())
            file.truncate()
        for name in names:
            if name.endswith((PAGE, STACK, SOCKET)):
                with suppress(OSError):  # whatever has such a name, it is not in our way
                    os.unlink(name, dir_fd=self.place.descriptor)
        return deaths.by_message()

    def _read(self, name: str) -> bytes:
        """Read a file; nothing where there is no file of this name, but something else."""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            with open(os.open(name, flags, dir_fd=self.place.descriptor), "rb") as file:
                return file.read(pages.SIZE + 1) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
        except OSError:
            return b""

    def _page_memory(self, pid: int) -> pages.Memory:
        """Make the page of a process. One that cannot be made is memory that nobody sees: Kamailio must go on."""
        memory: pages.Memory
        try:
            with suppress(FileNotFoundError):  # never cut short what a thread of ours may be writing to
                os.unlink(f"{pid}{PAGE}", dir_fd=self.place.descriptor)
            descriptor = self.place.file(f"{pid}{PAGE}")
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
    except FileNotFoundError:
        raise RunFolderError(f"{SETTING} {path} is not there: no Kamailio has begun there; see --run-dir") from None
    except OSError as error:
        raise RunFolderError(f"{SETTING} {path} cannot be read: {error.strerror}; see --run-dir") from None
    found = [pages.read(data) for data in map(_whole, files) if data is not None]
    if found and not any(found):
        raise RunFolderError(f"{SETTING} {path} has pages of another release: restart Kamailio")
    return [(sheet, is_running(sheet.pid, sheet.started)) for sheet in found if sheet is not None]
