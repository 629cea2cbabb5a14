# SPDX-License-Identifier: GPL-2.0-or-later
"""Letters to the reply desk: whatever is in one, the desk goes on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from kemi_nsq.counters import Counter
from kemi_nsq.errors import ConnectionLost
from kemi_nsq.host import Level, Report
from kemi_nsq.queries.desk import LOOK_S, ReplyDesk, desk_name
from kemi_nsq.queries.postbox import Postbox
from kemi_nsq.queries.protocol import Resume
from kemi_nsq.runtime.place import SOCKET, Place
from tests.support.places import new_place

WRITER = f"writer{SOCKET}"
WAITING: dict[str, Any] = {"msg_id": "1", "deadline": 10.0, "mailbox": "somebody", "suspended": None}
SUSPENDED: dict[str, Any] = {"index": 1, "label": 2, "route": "R"}
#: What a field may wrongly be.
ODD: list[Any] = [5, [], {}, True]
ODD_SUSPENDED: list[Any] = [5, [1], "x", True]
ODD_DEADLINES: list[Any] = ["x", None, [1], {}]
ODD_TRANSACTIONS: list[Any] = [{"index": -1}, {"index": 2**31}, {"index": 1e300}, {"route": "a\0b"}, {"route": "a\nb"}]
WRONG: list[Any] = [
    *[WAITING | {name: value} for name in ("msg_id", "mailbox") for value in ODD],
    *[WAITING | {"suspended": value} for value in ODD_SUSPENDED],
    *[WAITING | {"deadline": value} for value in ODD_DEADLINES],
    *[WAITING | {"suspended": SUSPENDED | odd} for odd in ODD_TRANSACTIONS],
    *[WAITING | {"suspended": SUSPENDED | {name: value}} for name in SUSPENDED for value in ODD[1:3]],
    *[{name: value for name, value in WAITING.items() if name != missing} for missing in WAITING],
    {"failed": "timeout"},
    {"failed": "timeout", "msg_id": 5},
    [1],
    "text",
    5,
]


@pytest.fixture
def said() -> list[Report | Resume]:
    return []


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return new_place(tmp_path / "run")


@pytest.fixture
def desk(place: Place, said: list[Report | Resume]) -> Iterator[ReplyDesk]:
    with closing(ReplyDesk("n1", place, max_size=100, emit=said.append)) as made:
        made.keep_open(0.0)
        yield made


def write(place: Place, letter: object) -> None:
    with closing(Postbox(place, WRITER, print)) as box:
        box.send(desk_name(0), orjson.dumps(letter), wait=True)


@pytest.mark.parametrize("letter", WRONG, ids=str)
def test_a_letter_with_wrong_types_is_dropped_and_the_desk_goes_on(
    desk: ReplyDesk, place: Place, said: list[Report | Resume], letter: object
) -> None:
    write(place, WAITING | {"msg_id": "first", "suspended": SUSPENDED})
    write(place, letter)
    desk.read_letters()
    desk.expire(1e9)
    reports = [each for each in said if isinstance(each, Report) and each.text]
    assert [each for each in said if isinstance(each, Resume) and each.suspended.route == "R"]
    assert [each.text[:34] for each in reports] == ["a letter to the reply desk dropped"]
    assert desk.next_deadline() is None


# The socket


def resumed(said: list[Report | Resume]) -> int:
    return sum(isinstance(each, Resume) for each in said)


def register(place: Place, desk: ReplyDesk) -> None:
    """Have a query registered, and given up."""
    write(place, WAITING | {"suspended": SUSPENDED})
    desk.read_letters()
    desk.expire(1e9)


def test_a_socket_that_somebody_removed_is_made_again_within_a_second(
    desk: ReplyDesk, place: Place, said: list[Report | Resume]
) -> None:
    before = desk.fileno()
    write(place, WAITING | {"suspended": SUSPENDED})
    (place.path / desk_name(0)).unlink()
    desk.keep_open(LOOK_S / 2)
    assert desk.fileno() == before, "it looks once a second"
    desk.keep_open(LOOK_S)
    assert desk.fileno() != before
    desk.expire(1e9)
    assert resumed(said) == 1, "what had come is not lost"
    register(place, desk)
    assert resumed(said) == 2
    (report,) = [each for each in said if isinstance(each, Report)]
    text = f"NSQ_RUN_DIR {place.path} or a socket in it was gone, and is there again"
    assert report == Report(level=Level.WARNING, text=text, counter=Counter.RUN_FOLDER_LOST)


def test_a_folder_that_somebody_removed_is_made_again(
    desk: ReplyDesk, place: Place, said: list[Report | Resume]
) -> None:
    shutil.rmtree(place.path)
    desk.keep_open(LOOK_S)
    register(place, desk)
    assert resumed(said) == 1
    assert [each.counter for each in said if isinstance(each, Report)] == [Counter.RUN_FOLDER_LOST]
    assert place.path.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_made_again_is_told_once_and_tried_again(
    desk: ReplyDesk, place: Place, said: list[Report | Resume]
) -> None:
    shutil.rmtree(place.path)
    place.path.touch()
    for turn in range(1, 5):
        desk.keep_open(turn * LOOK_S)
    text = f"NSQ_RUN_DIR {place.path} is no folder, or a symbolic link; until that changes no query gets a reply here"
    assert said == [Report(level=Level.ERROR, text=text, counter=Counter.RUN_FOLDER_LOST)]
    place.path.unlink()
    desk.keep_open(5 * LOOK_S)
    register(place, desk)
    assert resumed(said) == 1


def test_without_a_folder_there_is_a_reply_topic_all_the_same(said: list[Report | Resume]) -> None:
    desks = [ReplyDesk("n1", None, max_size=100, emit=said.append) for _ in range(2)]
    for desk in desks:
        desk.keep_open(0.0)
        desk.read_letters()
        assert desk.fileno() == -1
        desk.close()
    assert len({desk.subscription for desk in desks}) == 2
    assert said == []


def test_a_letter_of_another_user_is_told_once_and_counted_each_time(
    desk: ReplyDesk, place: Place, said: list[Report | Resume], monkeypatch: pytest.MonkeyPatch
) -> None:
    user = os.getuid()
    for _ in range(3):
        write(place, WAITING)
        monkeypatch.setattr(os, "getuid", lambda: user + 1)
        desk.read_letters()
        monkeypatch.undo()
    text = f"a letter of user {user} to the reply desk dropped: only Kamailio's own user may write there"
    assert [each.text for each in said if isinstance(each, Report)] == [text, "", ""]
    assert {each.counter for each in said if isinstance(each, Report)} == {Counter.REPLY_DROPPED}


def test_a_reply_for_a_mailbox_that_cannot_be_one_is_dropped(
    desk: ReplyDesk, place: Place, said: list[Report | Resume]
) -> None:
    write(place, WAITING | {"mailbox": "../../run/systemd/notify"})
    desk.read_letters()
    desk.take_reply(b'{"Msg-ID": "1"}')
    assert said == [Report(counter=Counter.REPLY_DROPPED)]


def test_who_closes_it_takes_its_name_back(place: Place, said: list[Report | Resume]) -> None:
    desk = ReplyDesk("n1", place, max_size=100, emit=said.append)
    desk.keep_open(0.0)
    desk.close()
    with pytest.raises(ConnectionLost, match="No such file"):
        write(place, WAITING)
