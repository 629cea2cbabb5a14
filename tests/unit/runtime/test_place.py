# SPDX-License-Identifier: GPL-2.0-or-later
"""The runtime folder as a place: which Kamailio it is, who has which slot, and what becomes of it when somebody cleans.

Who may have it at all is in test_folder.py, and that letters arrive in tests/integration/test_postbox.py.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from kemi_nsq.counters import Counter
from kemi_nsq.errors import ConnectionLost, RunFolderError
from kemi_nsq.names import topic_name
from kemi_nsq.runtime.folder import RunFolder, sheets
from kemi_nsq.runtime.instance import instance_id, machine_id
from kemi_nsq.runtime.page import Fact
from kemi_nsq.runtime.place import LOCK, SOCKET, Place
from tests.support.forks import Fork
from tests.support.places import NOBODY, new_place

UID, GID = os.geteuid(), os.getegid()
as_root = pytest.mark.skipif(UID != 0, reason="only root can give a folder away")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kemi-nsq"


@pytest.fixture
def place(path: Path) -> Place:
    return new_place(path)


@contextmanager
def child(what: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program until the context ends."""
    command = [sys.executable, "-c", what, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        assert process.stdin is not None
        process.stdin.close()


# Which Kamailio


def test_an_id_is_the_same_after_a_restart_and_no_other_s(path: Path, tmp_path: Path) -> None:
    first = new_place(path)
    os.close(first._held)
    assert new_place(path).instance == first.instance
    assert new_place(tmp_path / "other").instance != first.instance


@pytest.mark.parametrize(
    "other", [("/run/b", "m", "h"), ("/run/a", "n", "h"), ("/run/a", "m", "i"), ("/run/am", "", "h")]
)
def test_folder_machine_and_host_name_each_make_another_id(other: tuple[str, str, str]) -> None:
    path, machine, host_name = other
    made = instance_id("/run/a", machine="m", host_name="h")
    assert instance_id(path, machine=machine, host_name=host_name) != made
    assert (len(made), topic_name(made)) == (8, made)


def test_the_way_to_a_folder_makes_no_other_id(path: Path, tmp_path: Path) -> None:
    first = new_place(path)
    os.close(first._held)
    (tmp_path / "link").symlink_to(tmp_path)
    assert new_place(tmp_path / "link" / path.name).instance == first.instance


def test_a_machine_may_have_no_id(tmp_path: Path) -> None:
    assert machine_id([tmp_path / "none", tmp_path]) == ""
    (tmp_path / "empty").touch()
    (tmp_path / "there").write_text("0123\n")
    assert machine_id([tmp_path / "empty", tmp_path / "there"]) == "0123"


# Slots

CLAIM = """
import os, sys
from pathlib import Path
from kemi_nsq.runtime.place import Place
place = Place(Path(sys.argv[1]), uid=os.geteuid(), gid=os.getegid())
children = []
for number in range(3):
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, bytes([place.claim(3)]))
        os.read(0, 1)
        os._exit(0)
    children.append(os.read(reading, 1)[0])
print("ready", flush=True)
try:
    place.claim(3)
except Exception as error:
    print(children, type(error).__name__, error, flush=True)
"""


def test_each_process_has_a_slot_of_its_own_until_it_ends(path: Path) -> None:
    with child(CLAIM, str(path)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "[0, 1, 2] ConnectionLost all 3 consumer slots are taken\n"
    place = new_place(path)
    assert [place.claim(3), place.claim(3)] == [0, 0], "a loop that starts again has its own slot again"


# Whose sockets


def test_a_folder_that_others_may_write_to_is_not_trusted(place: Place) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as box:
        box.bind(place.address(f"a{SOCKET}"))
        place.trust(f"a{SOCKET}")
        for mode in (0o720, 0o702):
            place.path.chmod(mode)
            with pytest.raises(ConnectionLost, match="is open to others: chmod 700"):
                place.trust(f"a{SOCKET}")


@as_root
def test_a_socket_of_somebody_else_is_not_trusted(place: Place) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as box:
        box.bind(place.address(f"a{SOCKET}"))
        os.chown(place.path / f"a{SOCKET}", NOBODY, NOBODY)
        with pytest.raises(ConnectionLost, match=f"is no socket of ours, but of user {NOBODY}"):
            place.trust(f"a{SOCKET}")


def test_sockets_of_an_earlier_run_are_gone(path: Path) -> None:
    first = RunFolder(path, uid=UID, gid=GID)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as box:
        box.bind(first.place.address(f"consumer-0{SOCKET}"))
    os.close(first.place._held)
    RunFolder(path, uid=UID, gid=GID)
    assert list(path.glob(f"*{SOCKET}")) == []


# Somebody cleans up


def test_a_folder_that_is_there_stays(place: Place) -> None:
    before = os.stat(place.descriptor)
    assert not place.restore()
    assert os.path.samestat(os.stat(place.descriptor), before)


@pytest.mark.parametrize("what", ["removed", "moved away", "its lock removed", "emptied"])
def test_a_folder_that_somebody_touched_is_made_again_with_what_is_shown(path: Path, what: str) -> None:
    held = RunFolder(path, uid=UID, gid=GID)
    held.page.count(Counter.RECEIVED)
    held.page.show(Fact.DATABASE, "fails")
    if what == "removed":
        shutil.rmtree(path)
    elif what == "moved away":
        path.rename(path.with_name("old"))
    elif what == "its lock removed":
        (path / LOCK).unlink()
    else:
        for file in path.iterdir():
            file.unlink()
    assert held.place.restore()
    assert not held.place.restore()
    held.page.count(Counter.RECEIVED)
    ((sheet, alive),) = sheets(path)
    assert (sheet.counters, sheet.facts, alive) == ({Counter.RECEIVED: 2}, {Fact.DATABASE: "fails"}, True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    with pytest.raises(RunFolderError, match=f"is in use by the Kamailio with pid {os.getpid()};"):
        new_place(path)


def test_a_folder_that_comes_back_is_the_same_again(path: Path) -> None:
    place = new_place(path)
    path.rename(path.with_name("old"))
    assert place.restore()
    shutil.rmtree(path)
    path.with_name("old").rename(path)
    assert place.restore()
    assert not place.restore()


TAKE = """
import os, sys
from pathlib import Path
from kemi_nsq.runtime.place import Place
place = Place(Path(sys.argv[1]), uid=os.geteuid(), gid=os.getegid())
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_folder_that_comes_and_goes_leaves_each_its_slot(path: Path) -> None:
    place, away = new_place(path), path.with_name("away")

    def claim_another() -> None:
        assert place.claim(3) == 1

    assert place.claim(3) == 0
    for back in (False, True, False):
        if back:
            shutil.rmtree(path)
            away.rename(path)
        else:
            path.rename(away)
        assert place.restore()
    with Fork(claim_another) as other:
        assert other.wait() == 0


def test_a_folder_that_another_kamailio_has_taken_meanwhile_is_left_to_it(path: Path) -> None:
    place = new_place(path)
    shutil.rmtree(path)
    with child(TAKE, str(path)) as process, pytest.raises(RunFolderError) as refused:
        place.restore()
    assert f"is in use by the Kamailio with pid {process.pid}; each needs" in str(refused.value)
    assert place.restore()


def test_all_processes_of_a_kamailio_find_the_new_folder(path: Path) -> None:
    place = new_place(path)
    shutil.rmtree(path)
    reading, writing = os.pipe()
    with ExitStack() as stack:
        for _ in range(3):
            if os.fork() == 0:
                os.write(writing, bytes([place.restore()]))
                os._exit(0)
        stack.callback(lambda: [os.wait() for _ in range(3)])
        assert [os.read(reading, 1) for _ in range(3)] == [b"\1"] * 3
    os.close(reading)
    os.close(writing)


def test_a_folder_that_cannot_be_made_again_is_an_error(path: Path) -> None:
    place = new_place(path)
    shutil.rmtree(path)
    path.symlink_to("/nowhere")
    with pytest.raises(RunFolderError, match="is no folder, or a symbolic link"):
        place.restore()
    path.unlink()
    path.parent.rename(path.parent.with_name("gone"))
    with pytest.raises(RunFolderError, match="is gone and cannot be made again: No such file or directory"):
        place.restore()
    path.parent.with_name("gone").rename(path.parent)


@as_root
def test_a_folder_that_a_stranger_has_put_there_is_refused(path: Path) -> None:
    place = new_place(path)
    shutil.rmtree(path)
    path.mkdir(mode=0o700)
    os.chown(path, NOBODY, NOBODY)
    with pytest.raises(RunFolderError, match=f"belongs to user {NOBODY}"):
        place.restore()


@as_root
def test_a_user_to_whom_the_way_there_is_closed_sees_that_it_is_there_and_that_it_is_not(path: Path) -> None:
    place = Place(path, uid=NOBODY, gid=NOBODY)
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        os.write(writing, bytes([place.restore()]))
        os.unlink(LOCK, dir_fd=place.descriptor)
        try:
            place.restore()
        except RunFolderError as error:
            os.write(writing, str(error).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as told:
        assert told.read() == f"\0NSQ_RUN_DIR {path} is gone and cannot be made again: Permission denied"
    os.wait()


@pytest.mark.skipif(shutil.which("systemd-tmpfiles") is None, reason="there is no systemd here")
def test_systemd_leaves_it_alone_however_old_it_is(path: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.conf"
    rules.write_text(f"d {tmp_path}/cleaned - - - 1s\n")
    (tmp_path / "cleaned").mkdir()
    place = new_place(tmp_path / "cleaned" / "kemi-nsq")
    other = tmp_path / "cleaned" / "other"
    other.mkdir()
    for folder in (place.path, other):
        (folder / "old").touch()
    assert (other / "old").exists()
    deadline = time.monotonic() + 20
    while (other / "old").exists() and time.monotonic() < deadline:  # ages are those of ctime, which nobody can set
        subprocess.run(["systemd-tmpfiles", "--clean", str(rules)], check=True, timeout=10)
    assert not (other / "old").exists()
    assert (place.path / "old").exists()
    assert (place.path / LOCK).exists()
