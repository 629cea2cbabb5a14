# SPDX-License-Identifier: GPL-2.0-or-later
"""Letters between processes: any size, in order, on time, and none from a stranger."""

from __future__ import annotations

import os
import secrets
import select
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CalledProcessError

import pytest

from kemi_nsq.errors import ConnectionLost
from kemi_nsq.queries.postbox import Postbox
from kemi_nsq.runtime.place import SOCKET, Place
from tests.support.places import NOBODY, new_place, run_as

#: How late a wait may end on a busy machine.
LATE_S = 0.1


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return new_place(tmp_path_factory.mktemp("place") / "run")


def new_name() -> str:
    return f"{secrets.token_hex(4)}{SOCKET}"


@pytest.fixture
def name() -> str:
    return new_name()


@pytest.fixture
def strangers() -> list[int]:
    """The users whose letters were dropped."""
    return []


@pytest.fixture
def box(place: Place, name: str, strangers: list[int]) -> Iterator[Postbox]:
    with opened(place, name, strangers) as box:
        yield box


@pytest.fixture
def sender(place: Place) -> Iterator[Postbox]:
    with opened(place, new_name(), []) as box:
        yield box


@contextmanager
def opened(place: Place, name: str, strangers: list[int]) -> Iterator[Postbox]:
    box = Postbox(place, name, strangers.append)
    box.open()
    yield box
    box.close()


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = os.listdir("/proc/self/fd")
    yield
    assert len(os.listdir("/proc/self/fd")) <= len(before)


@pytest.mark.parametrize("size", [0, 1, 1000, 32 * 1024, 32 * 1024 + 1, 100_000, 5_000_000])
def test_a_letter_of_any_size_arrives_as_it_is(box: Postbox, sender: Postbox, name: str, size: int) -> None:
    letter = secrets.token_bytes(size)
    sender.send(name, letter)
    assert box.receive(1) == letter
    assert box.receive(0) is None


def test_letters_keep_their_order_whatever_their_size(box: Postbox, sender: Postbox, name: str) -> None:
    letters = [bytes([number]) * size for number, size in enumerate((5, 40_000, 1, 100_000, 7))]
    for letter in letters:
        sender.send(name, letter)
    assert [box.receive(1) for _ in letters] == letters


def test_a_box_is_readable_when_a_letter_waits(box: Postbox, sender: Postbox, name: str) -> None:
    assert select.select([box], [], [], 0)[0] == []
    sender.send(name, b"x")
    assert select.select([box], [], [], 1)[0] == [box]


@pytest.mark.parametrize("timeout_s", [0.001, 0.01, 0.05, 0.3, 0.31])
def test_waiting_ends_on_time(box: Postbox, timeout_s: float) -> None:
    started = time.monotonic()
    assert box.receive(timeout_s) is None
    assert timeout_s <= time.monotonic() - started + 0.001 < timeout_s + LATE_S


def test_waits_of_different_length_do_not_disturb_each_other(box: Postbox, sender: Postbox, name: str) -> None:
    for timeout_s in (0.3, 0.02, 0.2, 0.02):
        started = time.monotonic()
        assert box.receive(timeout_s) is None
        assert timeout_s <= time.monotonic() - started + 0.001 < timeout_s + LATE_S
    sender.send(name, b"x")
    assert box.receive(0.3) == b"x"


def test_a_letter_ends_the_wait(box: Postbox, sender: Postbox, name: str) -> None:
    started = time.monotonic()
    threading.Timer(0.05, sender.send, (name, b"x")).start()
    assert box.receive(5) == b"x"
    assert time.monotonic() - started < 1


def test_its_file_is_for_its_user_alone_whatever_the_umask_is(place: Place, name: str) -> None:
    umask = os.umask(0)
    try:
        box = Postbox(place, name, print)
        box.open()
    finally:
        os.umask(umask)
    assert (place.path / name).stat().st_mode & 0o777 == 0o600
    box.close()
    assert not (place.path / name).exists()


def test_a_name_that_a_killed_process_left_is_taken_over(place: Place, sender: Postbox, name: str) -> None:
    killed = Postbox(place, name, print)
    killed.open()
    os.close(killed._socket.detach())  # its file is still there
    with pytest.raises(ConnectionLost, match="refused"):
        sender.send(name, b"x", wait=True)
    with opened(place, name, []) as box:
        sender.send(name, b"x", wait=True)
        assert box.receive(1) == b"x"


def test_a_file_that_somebody_removed_is_missed_and_made_again(
    place: Place, box: Postbox, sender: Postbox, name: str
) -> None:
    assert box.is_there
    (place.path / name).unlink()
    assert not box.is_there
    with pytest.raises(ConnectionLost, match="No such file"):
        sender.send(name, b"x", wait=True)
    box.open()
    sender.send(name, b"x", wait=True)
    assert box.receive(1) == b"x"


def test_the_path_of_the_folder_may_be_longer_than_that_of_a_socket(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120) / ("y" * 120)
    deep.mkdir(parents=True)
    place, name = new_place(deep / "run"), new_name()
    with opened(place, name, []) as box:
        box.send(name, b"to itself", wait=True)
        assert box.receive(1) == b"to itself"
    os.close(place.descriptor)
    os.close(place._held)


def test_a_letter_to_nobody_is_an_error(sender: Postbox) -> None:
    with pytest.raises(ConnectionLost, match="No such file"):
        sender.send(new_name(), b"x", wait=True)


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize(("wait", "at_least_s"), [(False, 0.0), (True, 0.09)])
def test_a_full_box_takes_no_more_and_blocks_nobody_for_long(  # noqa: PLR0913, PLR0917  # fixtures
    box: Postbox, sender: Postbox, name: str, size: int, wait: bool, at_least_s: float
) -> None:
    letters = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text(encoding="ascii")) + 1
    for _ in range(letters):
        sender.send(name, bytes(size))
    started = time.monotonic()
    with pytest.raises(ConnectionLost):
        sender.send(name, bytes(size), wait=wait)
    assert at_least_s <= time.monotonic() - started < at_least_s + 2 * LATE_S
    for _ in range(letters):
        assert box.receive(0) == bytes(size)
    sender.send(name, b"again")
    assert box.receive(0) == b"again"


def test_who_waits_for_room_gets_it(box: Postbox, sender: Postbox, name: str) -> None:
    letters = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text(encoding="ascii")) + 1
    for _ in range(letters):
        sender.send(name, b"x")
    threading.Timer(0.03, box.receive, (0,)).start()
    sender.send(name, b"last", wait=True)
    assert [box.receive(0.1) for _ in range(letters)] == [b"x"] * (letters - 1) + [b"last"]


# Strangers. The tests open the folder to others, as no operator should: inside it, both sides look again.

STRANGER = """
    import array, os, socket, sys
    address, kind = sys.argv[1:]
    descriptors = {"pipe": lambda: os.pipe()[0], "endless": lambda: os.open("/dev/zero", os.O_RDONLY)}
    ancillary = []
    if kind != "letter":
        number = array.array("i", [descriptors[kind]()])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, number)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        try:
            sender.sendmsg([b'{"msg_id": "a", "reason": null}\\n{}'], ancillary, 0, address)
            print("sent")
        except OSError as error:
            print(error.strerror)
"""
LISTENER = """
    import os, socket, sys
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as box:
        box.bind(sys.argv[1])
        os.chmod(sys.argv[1], 0o777)
"""
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")


@pytest.fixture
def short(name: str) -> Iterator[Place]:
    """Return a folder whose path is short enough for a stranger, who has no descriptor of it."""
    path = Path("/tmp") / f"kemi-nsq-{name.removesuffix(SOCKET)}"
    place = new_place(path)
    yield place
    shutil.rmtree(path)
    os.close(place.descriptor)
    os.close(place._held)


@as_root
def test_a_stranger_reaches_nothing_in_the_folder(short: Place, name: str) -> None:
    with opened(short, name, []) as box:
        assert run_as(NOBODY, STRANGER, str(short.path / name), "letter") == "Permission denied\n"
        with pytest.raises(CalledProcessError):
            run_as(NOBODY, LISTENER, str(short.path / "consumer-0.sock"))
        short.path.chmod(0o755)  # its sockets are closed, too
        assert run_as(NOBODY, STRANGER, str(short.path / name), "letter") == "Permission denied\n"
        assert box.receive(0) is None


@pytest.mark.parametrize("kind", ["letter", "pipe", "endless"])
def test_a_stranger_is_not_heard_and_cannot_block_anybody(
    short: Place, name: str, kind: str, strangers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a stranger passes is never read: a pipe would block its reader, `/dev/zero` never ends."""
    with opened(short, name, strangers) as box, monkeypatch.context() as patch:
        if os.getuid() == 0:
            short.path.chmod(0o777)
            (short.path / name).chmod(0o777)
            assert run_as(NOBODY, STRANGER, str(short.path / name), kind) == "sent\n"
            short.path.chmod(0o700)
        else:  # only root can be another user, but anybody can take himself for one
            assert run_as(os.getuid(), STRANGER, str(short.path / name), kind) == "sent\n"
            patch.setattr(os, "getuid", lambda: NOBODY)
        started = time.monotonic()
        assert box.receive(1) is None
        assert time.monotonic() - started < LATE_S
        patch.undo()
        assert strangers == [NOBODY if os.getuid() == 0 else os.getuid()]
        box.send(name, b"from a friend")
        assert box.receive(1) == b"from a friend"


def test_another_process_of_the_same_user_is_heard(short: Place, name: str, strangers: list[int]) -> None:
    with opened(short, name, strangers) as box:
        assert run_as(os.getuid(), STRANGER, str(short.path / name), "letter") == "sent\n"
        assert (box.receive(1) or b"").endswith(b"\n{}")
    assert strangers == []


@as_root
def test_nothing_is_written_to_the_socket_of_a_stranger(short: Place, name: str) -> None:
    with opened(short, name, []) as box:
        short.path.chmod(0o777)
        run_as(NOBODY, LISTENER, str(short.path / "consumer-0.sock"))
        with pytest.raises(ConnectionLost, match="is open to others: chmod 700"):
            box.send("consumer-0.sock", b"secret", wait=True)
        short.path.chmod(0o700)
        with pytest.raises(ConnectionLost, match=f"is no socket of ours, but of user {NOBODY}"):
            box.send("consumer-0.sock", b"secret", wait=True)


@pytest.mark.parametrize("odd", ["file", "link"])
def test_what_is_no_socket_gets_no_letter(place: Place, sender: Postbox, name: str, odd: str) -> None:
    if odd == "file":
        (place.path / name).touch()
    else:
        (place.path / name).symlink_to(sender.name)
    with pytest.raises(ConnectionLost, match="is no socket of ours"):
        sender.send(name, b"x", wait=True)
    assert sender.receive(0) is None


@pytest.mark.parametrize(
    "odd", ["", "x", "../x.sock", "/run/x.sock", "a/b.sock", "a\0.sock", "x" * 65 + SOCKET, "é.sock"]
)
def test_a_letter_may_name_no_other_place(sender: Postbox, odd: str) -> None:
    with pytest.raises(ConnectionLost, match="is no socket of ours"):
        sender.send(odd, b"x")
