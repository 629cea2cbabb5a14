# SPDX-License-Identifier: GPL-2.0-or-later
"""Letters between processes: any size, in order, on time, and none from a stranger."""

from __future__ import annotations

import os
import secrets
import select
import subprocess
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kemi_nsq.errors import ConnectionLost
from kemi_nsq.queries.postbox import Postbox

NOBODY = 65534
#: How late a wait may end on a busy machine.
LATE_S = 0.1


def new_name() -> str:
    return f"kemi-nsq-test/{os.getpid()}/{secrets.token_hex(4)}"


@pytest.fixture
def name() -> str:
    return new_name()


@pytest.fixture
def box(name: str) -> Iterator[Postbox]:
    box = Postbox(name)
    yield box
    box.close()


@pytest.fixture
def sender() -> Iterator[Postbox]:
    sender = Postbox(new_name())
    yield sender
    sender.close()


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


def test_a_name_belongs_to_one(box: Postbox, name: str) -> None:
    with pytest.raises(ConnectionLost, match="in use"):
        Postbox(name)


def test_a_name_is_free_again_after_its_box(name: str) -> None:
    Postbox(name).close()
    Postbox(name).close()


def test_a_letter_to_nobody_is_an_error(sender: Postbox) -> None:
    with pytest.raises(ConnectionLost, match="refused"):
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


# Strangers

STRANGER = """
    import array, os, socket, sys
    name, kind = sys.argv[1:]
    descriptors = {"pipe": lambda: os.pipe()[0], "endless": lambda: os.open("/dev/zero", os.O_RDONLY)}
    ancillary = []
    if kind != "letter":
        number = array.array("i", [descriptors[kind]()])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, number)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendmsg([b'{"msg_id": "a", "reason": null}\\n{}'], ancillary, 0, b"\\0" + name.encode())
"""


def write_as(user: int, name: str, kind: str) -> None:
    command = ["/usr/bin/python3", "-c", textwrap.dedent(STRANGER), name, kind]
    other = None if user == os.getuid() else user
    subprocess.run(command, user=other, group=other, check=True, timeout=10, cwd="/")


@pytest.mark.parametrize("kind", ["letter", "pipe", "endless"])
def test_a_stranger_is_not_heard_and_cannot_block_anybody(
    box: Postbox, sender: Postbox, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a stranger passes is never read: a pipe would block its reader, `/dev/zero` never ends."""
    with monkeypatch.context() as patch:
        if os.getuid() == 0:
            write_as(NOBODY, name, kind)
        else:  # only root can be another user, but anybody can take himself for one
            write_as(os.getuid(), name, kind)
            patch.setattr(os, "getuid", lambda: NOBODY)
        started = time.monotonic()
        assert box.receive(1) is None
        assert time.monotonic() - started < LATE_S
    sender.send(name, b"from a friend")
    assert box.receive(1) == b"from a friend"


def test_another_process_of_the_same_user_is_heard(box: Postbox, name: str) -> None:
    write_as(os.getuid(), name, "letter")
    assert (box.receive(1) or b"").endswith(b"\n{}")
