# SPDX-License-Identifier: GPL-2.0-or-later
"""The runtime folder: who may have it, what stays of an earlier run, and what others read there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kemi_nsq.counters import Counter
from kemi_nsq.errors import RunFolderError
from kemi_nsq.runtime.deaths import KEPT_S, MOST, Deaths
from kemi_nsq.runtime.folder import DIED, RunFolder, sheets, take
from kemi_nsq.runtime.page import Fact, Page, Sheet
from kemi_nsq.runtime.place import LOCK

UID, GID = os.geteuid(), os.getegid()
NOBODY = 65534
IDS = ["0123456789abcdef", "fedcba9876543210"]
as_root = pytest.mark.skipif(UID != 0, reason="only root can give a folder away")

#: Takes the folder in the place of another Kamailio and says so; what else it does comes after.
OTHER = """
import os, sys
from pathlib import Path
from kemi_nsq.runtime.page import Fact, Gauge
from kemi_nsq.counters import Counter
from kemi_nsq.runtime.folder import RunFolder
folder = RunFolder(Path(sys.argv[1]), uid=os.geteuid(), gid=os.getegid())
folder.page.role("consumer")
folder.page.count(Counter.RECEIVED)
folder.page.show(Fact.HANDLING, sys.argv[2])
folder.page.set(Gauge.BUSY_SINCE, 1000.0)
folder.page.set(Gauge.IO_TURN, 1000.0 + float(sys.argv[3]))
print("taken", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kemi-nsq"


@contextmanager
def other(path: Path, handling: str = "", *, kill: bool = False, lived_s: float = 0.0) -> Iterator[int]:
    """Let another process hold the folder; it ends with the context, by SIGKILL if wanted.

    The page shows that it lived on for `lived_s` seconds after it had begun to handle.
    """
    command = [sys.executable, "-c", OTHER, str(path), handling, str(lived_s)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"taken\n"
        yield process.pid
        if kill:
            process.send_signal(signal.SIGKILL)


def folder(path: Path) -> RunFolder:
    return RunFolder(path, uid=UID, gid=GID)


def refusal(path: Path) -> str:
    """Return why a folder cannot be had."""
    with pytest.raises(RunFolderError) as caught:
        folder(path)
    text = str(caught.value)
    assert text.startswith(f"NSQ_RUN_DIR {path} ")
    return text


def the_sheet(path: Path) -> tuple[Sheet, bool]:
    (found,) = sheets(path)
    return found


# Who may have it


def test_it_is_made_for_its_user_alone_whatever_the_umask_is(path: Path) -> None:
    umask = os.umask(0)
    try:
        folder(path).page.count(Counter.BUG)
    finally:
        os.umask(umask)
    assert (path.stat().st_mode & 0o777, path.stat().st_uid) == (0o700, UID)
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o600}


def test_one_instance_has_it(path: Path) -> None:
    with other(path) as pid:
        assert refusal(path) == (
            f"NSQ_RUN_DIR {path} is in use by the Kamailio with pid {pid}; each needs a folder of its own"
        )
    folder(path)


def test_a_child_that_lives_on_keeps_it(path: Path) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        folder(path)
        grandchild = os.fork()
        if grandchild == 0:
            os.close(writing)
            os.read(reading, 1)
        os._exit(0)
    os.waitpid(child, 0)
    assert "(it has ended, a child of it has not)" in refusal(path)
    os.close(writing)
    os.close(reading)


def test_the_script_may_be_loaded_again(path: Path) -> None:
    assert take(path, uid=UID, gid=GID) is take(path, uid=UID, gid=GID)


def test_what_a_program_started_by_a_route_does_not_keep_it(path: Path) -> None:
    held = folder(path)
    assert not any(map(os.get_inheritable, (held.place._held, held.place.descriptor)))


def test_a_symbolic_link_is_refused(path: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    path.symlink_to(tmp_path / "elsewhere")
    assert refusal(path).endswith("is no folder, or a symbolic link")


def test_a_file_is_refused(path: Path) -> None:
    path.write_text("")
    assert refusal(path).endswith("is no folder, or a symbolic link")


@pytest.mark.parametrize("mode", [0o701, 0o740, 0o777, 0o1777])
def test_a_folder_that_is_open_to_others_is_refused(path: Path, mode: int) -> None:
    path.mkdir()
    path.chmod(mode)
    assert refusal(path).endswith("is open to others: chmod 700")


@as_root
def test_a_folder_of_another_user_is_refused(path: Path) -> None:
    path.mkdir(mode=0o700)
    os.chown(path, NOBODY, NOBODY)
    assert refusal(path).endswith(f"belongs to user {NOBODY}, but Kamailio runs as {UID}: change that, or remove it")


@as_root
def test_root_makes_it_for_the_user_that_it_becomes(path: Path) -> None:
    path.parent.chmod(0o755)
    made = RunFolder(path, uid=NOBODY, gid=NOBODY)
    child = os.fork()
    if child == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        made.page.count(Counter.BUG)
        os._exit(0)
    os.waitpid(child, 0)
    assert {(file.stat().st_uid, file.stat().st_gid) for file in (path, *path.iterdir())} == {(NOBODY, NOBODY)}
    sheet, alive = the_sheet(path)
    assert (sheet.pid, sheet.counters, alive) == (child, {Counter.BUG: 1}, False)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "not" / "there").endswith("cannot be used: No such file or directory")
    assert refusal(Path("/proc/kemi-nsq")).endswith("cannot be used: No such file or directory")


def test_a_link_in_the_place_of_a_file_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.mkdir(mode=0o700)
    (tmp_path / "precious").write_text("kept")
    (path / "lock").symlink_to(tmp_path / "precious")
    assert "cannot be used" in refusal(path)
    (path / "lock").unlink()
    held = folder(path)
    (path / f"{os.getpid()}.page").symlink_to(tmp_path / "precious")
    held.page.count(Counter.BUG)
    assert (tmp_path / "precious").read_text() == "kept"


# What others read


def test_others_read_what_is_shown_while_it_is_shown(path: Path) -> None:
    with other(path, IDS[0]) as pid:
        sheet, alive = the_sheet(path)
        assert (sheet.pid, sheet.role, alive) == (pid, "consumer", True)
        assert sheet.counters == {Counter.RECEIVED: 1}
        assert sheet.facts == {Fact.HANDLING: IDS[0]}
    assert the_sheet(path) == (sheet, False)


def test_a_recycled_pid_is_not_the_same_process(path: Path) -> None:
    folder(path).page.count(Counter.BUG)
    (file,) = path.glob("*.page")
    sheet, alive = the_sheet(path)
    assert alive
    data = bytearray(file.read_bytes())
    data[16:24] = (sheet.started - 1).to_bytes(8, sys.byteorder)
    file.write_bytes(data)
    assert the_sheet(path)[1] is False


def test_a_page_that_cannot_be_made_is_no_error(path: Path) -> None:
    held = folder(path)
    (path / f"{os.getpid()}.page").mkdir()
    held.page.count(Counter.BUG)
    held.page.show(Fact.HANDLING, "x")
    assert held.page.shown(Fact.HANDLING) == "x"


def test_a_folder_that_is_not_there_cannot_be_read(path: Path) -> None:
    with pytest.raises(RunFolderError, match=f"NSQ_RUN_DIR {path} is not there: no Kamailio has begun there"):
        sheets(path)


def test_pages_of_another_release_are_not_misread(path: Path) -> None:
    held = folder(path)
    (path / "1.page").write_bytes(b"kemi-nsq of the future")
    with pytest.raises(RunFolderError, match="of another release: restart Kamailio"):
        sheets(path)
    held.page.count(Counter.BUG)
    assert len(sheets(path)) == 1


# What stays of an earlier run


def test_the_messages_that_ended_a_process_are_counted(path: Path) -> None:
    for _ in range(2):
        with other(path, " ".join(IDS), kill=True):
            pass
    with other(path, IDS[1], kill=True):
        pass
    held = folder(path)
    assert held.died == {IDS[0]: 1, IDS[1]: 2}, "of several at once, nobody knows which it was"
    assert list(path.glob("*.page")) == []
    del held


@pytest.mark.parametrize(("lived_s", "deaths"), [(0, 1), (1.9, 1), (2.1, 0.34), (60, 0.34)])
def test_a_message_that_was_handled_for_a_while_is_suspected_less(path: Path, lived_s: float, deaths: float) -> None:
    """Who restarts Kamailio because a route takes long, or in an outage, hardly accuses a message."""
    with other(path, IDS[0], kill=True, lived_s=lived_s):
        pass
    assert folder(path).died == {IDS[0]: deaths}


@pytest.mark.parametrize("odd", ["folder", "link", "fifo"])
def test_what_is_no_page_stops_neither_the_start_nor_the_look(path: Path, odd: str) -> None:
    first = folder(path)
    first.page.count(Counter.BUG)
    odd_page = path / "7.page"
    if odd == "folder":
        odd_page.mkdir()
    elif odd == "link":
        odd_page.symlink_to("nowhere")
    else:
        os.mkfifo(odd_page)
    assert len(sheets(path)) == 1
    os.close(first.place._held)
    assert folder(path).died == {}


@pytest.mark.parametrize(
    "data", [b'[["x",1e300,1e300]]', b'[["x",-1,1]]', b'[["x",NaN,1]]', b"[[1,2]]", b"{}", b"\xff"]
)
def test_what_is_no_count_of_deaths_counts_as_nothing(path: Path, data: bytes) -> None:
    first = folder(path)
    (path / DIED).write_bytes(data)
    os.close(first.place._held)
    assert folder(path).died == {}


def test_pages_and_stacks_of_an_earlier_run_are_gone_and_deaths_stay(path: Path) -> None:
    with other(path, IDS[0]):
        pass
    (path / "1.stack").write_text("old")
    first = folder(path)
    os.close(first.place._held)
    assert folder(path).died == {IDS[0]: 1}
    assert sorted(file.name for file in path.iterdir()) == [DIED, LOCK]


def test_what_is_remembered_is_bounded_in_number_and_time() -> None:
    deaths = Deaths(b"", 1000)
    deaths.add(["old"])
    later = 1000 + KEPT_S - 1
    deaths = Deaths(deaths.as_bytes(), later)
    deaths.add([f"{number:016x}" for number in range(MOST - 1)])
    assert len(deaths.by_message()) == MOST
    deaths.add(["new"])
    assert len(deaths.by_message()) == MOST
    assert "old" not in deaths.by_message()
    assert Deaths(deaths.as_bytes(), later + KEPT_S).by_message() == {}


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"[[1]]", b'{"a": 1}', b"null", b'[["a", "b", "c"]]'])
def test_a_damaged_record_counts_as_none(data: bytes) -> None:
    assert Deaths(data, 0).by_message() == {}


def test_without_a_folder_a_page_is_memory() -> None:
    page = Page()
    page.count(Counter.BUG)
    assert page.shown(Fact.HANDLING) == ""
