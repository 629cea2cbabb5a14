# SPDX-License-Identifier: GPL-2.0-or-later
"""The file of the outbox: its mode, whom it is refused from, and what happens when it is deleted or replaced."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from kemi_nsq.errors import OutboxError
from kemi_nsq.nsq.outbox import Outbox
from kemi_nsq.nsq.ways import Outgoing

FIRST, SECOND, THIRD = (Outgoing(topic="t", body=b"[%d]" % number) for number in (1, 2, 3))
SUFFIXES = ("", "-wal", "-shm", ".lock")


class Folder:
    """A folder with an outbox, and processes that use it.

    Attributes:
        path: the file.
        lines: what was said.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.path = folder / "outbox.db"
        self.lines: list[str] = []
        self._stack = stack

    def process(self) -> Outbox:
        """Return an outbox as another process has it."""
        outbox = Outbox(str(self.path), max_messages=1000, max_bytes=10**6, say=self.lines.append)
        return self._stack.enter_context(closing(outbox))

    def file(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    def modes(self) -> dict[str, int]:
        return {
            suffix: stat.S_IMODE(self.file(suffix).stat().st_mode) for suffix in SUFFIXES if self.file(suffix).exists()
        }


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    with ExitStack() as stack:
        yield Folder(tmp_path, stack)


def taken(outbox: Outbox) -> list[Outgoing]:
    """Take out all messages."""
    found = []
    while (kept := outbox.oldest()) is not None:
        found.append(kept.message)
        outbox.remove(kept)
    return found


# Its mode


@pytest.fixture(params=[0o000, 0o022, 0o277, 0o777])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_nobody_else_may_read_it_whatever_the_umask(folder: Folder) -> None:
    folder.process().keep(FIRST)
    assert folder.modes() == dict.fromkeys(SUFFIXES, 0o600)
    assert folder.lines == []


def test_there_is_no_moment_in_which_others_could_open_it(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mode that is given later leaves open to others what they opened before."""
    seen: list[int] = []
    real = sqlite3.connect

    def connect(*arguments: object, **named: object) -> object:
        seen.extend(folder.modes().values())
        return real(*arguments, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(sqlite3, "connect", connect)
    before = os.umask(0)
    try:
        folder.process().keep(FIRST)
    finally:
        os.umask(before)
    assert seen == [0o600, 0o600], "the file and the lock are there, with their mode, before SQLite comes"


def test_a_file_that_others_may_read_is_narrowed_with_one_line(folder: Folder) -> None:
    first = folder.process()
    first.keep(FIRST)
    for suffix in SUFFIXES:
        folder.file(suffix).chmod(0o644)
    second = folder.process()
    second.keep(SECOND)
    first.keep(THIRD)
    assert folder.modes() == dict.fromkeys(SUFFIXES, 0o600)
    assert folder.lines == [f"the outbox {folder.path} could be used by others (mode 644); it has mode 600 now"]


@pytest.mark.parametrize("suffix", ["", ".lock", "-wal"])
def test_a_symbolic_link_is_refused(folder: Folder, tmp_path: Path, suffix: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    victim.chmod(0o644)
    if suffix == "-wal":
        folder.path.touch(0o600)
    folder.file(suffix).symlink_to(victim)
    with pytest.raises(OutboxError, match="symbolic link"):
        folder.process().keep(FIRST)
    assert victim.read_bytes() == b""
    assert stat.S_IMODE(victim.stat().st_mode) == 0o644


def test_a_dangling_link_makes_no_file_elsewhere(folder: Folder, tmp_path: Path) -> None:
    folder.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutboxError, match="symbolic link"):
        folder.process().keep(FIRST)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("suffix", ["", ".lock"])
def test_another_users_file_is_refused(folder: Folder, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    folder.file(suffix).touch(0o600)
    us = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: us)
    with pytest.raises(OutboxError, match=f"belongs to user {us - 1}, but Kamailio runs as {us}"):
        folder.process().keep(FIRST)


def test_a_folder_is_refused(folder: Folder) -> None:
    folder.path.mkdir()
    with pytest.raises(OutboxError, match="no plain file"):
        folder.process().keep(FIRST)


def test_what_is_no_database_is_refused_and_left_as_it_is(folder: Folder) -> None:
    folder.path.write_text("this is no database" * 100)
    with pytest.raises(OutboxError, match="file is not a database"):
        folder.process().keep(FIRST)
    assert folder.path.read_text().startswith("this is no database")


def test_a_folder_that_is_made_later_is_used_then(tmp_path: Path) -> None:
    outbox = Outbox(str(tmp_path / "later" / "outbox.db"), max_messages=1, max_bytes=100, say=print)
    with pytest.raises(OutboxError, match="No such file or directory"):
        outbox.keep(FIRST)
    (tmp_path / "later").mkdir()
    with closing(outbox):
        outbox.keep(FIRST)
        assert taken(outbox) == [FIRST]


def test_a_file_that_was_locked_when_it_was_opened_first_is_used_later(folder: Folder) -> None:
    """The tables are not there yet."""
    outbox = folder.process()
    folder.path.touch(0o600)
    with closing(sqlite3.connect(folder.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OutboxError, match="database is locked"):
            outbox.keep(FIRST)
        other.execute("ROLLBACK")
    outbox.keep(SECOND)
    assert taken(outbox) == [SECOND]


# Deleted and replaced

REPLACED = "was deleted or replaced while it was open"


@pytest.fixture
def processes(folder: Folder) -> tuple[Outbox, Outbox]:
    """Two that have it open, with one message of each in its -wal."""
    first, second = folder.process(), folder.process()
    first.keep(FIRST)
    second.keep(SECOND)
    return first, second


def the_line(folder: Folder) -> None:
    """See that it was told, and by one process only."""
    (line,) = folder.lines
    assert REPLACED in line


@pytest.mark.parametrize("gone", [("",), ("", "-wal", "-shm"), ("", "-wal")])
def test_a_deleted_file_is_made_anew(folder: Folder, processes: tuple[Outbox, Outbox], gone: tuple[str, ...]) -> None:
    first, second = processes
    for suffix in gone:
        folder.file(suffix).unlink()
    first.keep(THIRD)
    assert second.depth().messages == 1, "they have the same file again"
    assert taken(folder.process()) == [THIRD]
    the_line(folder)


def test_who_has_never_had_it_open_may_be_the_first_to_make_it_anew(
    folder: Folder, processes: tuple[Outbox, Outbox]
) -> None:
    """The old -shm is in use by others, and lies in its way: SQLite fails with "disk I/O error"."""
    folder.path.unlink()
    third = folder.process()
    third.keep(THIRD)
    assert [each.depth().messages for each in (*processes, third)] == [1, 1, 1]
    the_line(folder)


def another(folder: Folder, tmp_path: Path) -> Path:
    """Make another outbox with one message."""
    path = tmp_path / "another.db"
    with closing(Outbox(str(path), max_messages=10, max_bytes=100, say=print)) as outbox:
        outbox.keep(Outgoing(topic="other", body=b"[9]"))
    return path


def test_a_file_in_its_place_is_used_as_it_is(folder: Folder, tmp_path: Path, processes: tuple[Outbox, Outbox]) -> None:
    """SQLite would write what the old -wal holds over it."""
    os.replace(another(folder, tmp_path), folder.path)
    first, second = processes
    first.keep(THIRD)
    second.keep(SECOND)
    assert [message.body for message in taken(folder.process())] == [b"[9]", b"[3]", b"[2]"]
    the_line(folder)


def test_each_time_is_told(folder: Folder, tmp_path: Path, processes: tuple[Outbox, Outbox]) -> None:
    for _ in range(3):
        os.replace(another(folder, tmp_path), folder.path)
        for each in processes:
            each.keep(FIRST)
    assert len(folder.lines) == 3
    assert len(taken(folder.process())) == 3


def test_a_file_that_was_moved_away_holds_all_that_was_in_it(
    folder: Folder, tmp_path: Path, processes: tuple[Outbox, Outbox]
) -> None:
    folder.path.rename(tmp_path / "away.db")
    for each in processes:
        each.keep(THIRD)
    with closing(Outbox(str(tmp_path / "away.db"), max_messages=10, max_bytes=100, say=print)) as away:
        assert taken(away) == [FIRST, SECOND]
    assert taken(folder.process()) == [THIRD, THIRD]


def test_an_empty_file_in_its_place_gets_its_tables(folder: Folder, processes: tuple[Outbox, Outbox]) -> None:
    for suffix in ("", "-wal", "-shm"):
        folder.file(suffix).unlink()
    folder.path.touch(0o644)
    for each in processes:
        each.keep(THIRD)
    assert taken(folder.process()) == [THIRD, THIRD]
    assert folder.modes() == dict.fromkeys(SUFFIXES, 0o600)


@pytest.mark.parametrize("gone", [("-wal",), ("-shm",), ("-wal", "-shm")])
def test_without_its_companions_it_is_opened_anew_and_loses_nothing(
    folder: Folder, processes: tuple[Outbox, Outbox], gone: tuple[str, ...]
) -> None:
    for suffix in gone:
        folder.file(suffix).unlink()
    for each in processes:
        each.keep(THIRD)
    assert taken(folder.process()) == [FIRST, SECOND, THIRD, THIRD]


def test_a_file_that_goes_while_a_message_is_put_in_costs_nothing(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = folder.process()
    outbox.keep(FIRST)
    real = outbox._file._opened

    def too_late() -> sqlite3.Connection:
        connection = real()
        monkeypatch.undo()
        folder.path.unlink()
        return connection

    monkeypatch.setattr(outbox._file, "_opened", too_late)
    outbox.keep(SECOND)
    assert taken(folder.process()) == [SECOND]


# After a fork


def test_a_child_has_a_connection_of_its_own(folder: Folder) -> None:
    outbox = folder.process()
    outbox.keep(FIRST)
    child = os.fork()
    if child == 0:
        try:
            outbox.keep(SECOND)
            os._exit(0 if outbox._file._connection is not outbox._file._parents else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert taken(outbox) == [FIRST, SECOND]
