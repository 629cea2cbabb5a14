# SPDX-License-Identifier: GPL-2.0-or-later
"""Letters to the reply desk: whatever is in one, the desk goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import orjson
import pytest

from kemi_nsq.host import Report
from kemi_nsq.queries import desk as module
from kemi_nsq.queries.desk import ReplyDesk
from kemi_nsq.queries.postbox import Postbox
from kemi_nsq.queries.protocol import Resume

WAITING: dict[str, Any] = {"msg_id": "1", "deadline": 10.0, "mailbox": "somebody", "suspended": None}
SUSPENDED: dict[str, Any] = {"index": 1, "label": 2, "route": "R"}
#: What a field may wrongly be.
ODD: list[Any] = [5, [], {}, True]
ODD_SUSPENDED: list[Any] = [5, [1], "x", True]
ODD_DEADLINES: list[Any] = ["x", None, [1], {}]
WRONG: list[Any] = [
    *[WAITING | {name: value} for name in ("msg_id", "mailbox") for value in ODD],
    *[WAITING | {"suspended": value} for value in ODD_SUSPENDED],
    *[WAITING | {"deadline": value} for value in ODD_DEADLINES],
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
def desk(said: list[Report | Resume], monkeypatch: pytest.MonkeyPatch) -> Iterator[ReplyDesk]:
    monkeypatch.setattr(module, "desk_name", lambda slot: f"kemi-nsq/test/{os.getpid()}/{slot}")
    with closing(ReplyDesk("n1", max_size=100, emit=said.append)) as made:
        yield made


def write(letter: object) -> None:
    with closing(Postbox(f"kemi-nsq/test/{os.getpid()}/writer")) as box:
        box.send(f"kemi-nsq/test/{os.getpid()}/0", orjson.dumps(letter), wait=True)


@pytest.mark.parametrize("letter", WRONG, ids=str)
def test_a_letter_with_wrong_types_is_dropped_and_the_desk_goes_on(
    desk: ReplyDesk, said: list[Report | Resume], letter: object
) -> None:
    write(WAITING | {"msg_id": "first", "suspended": SUSPENDED})
    write(letter)
    desk.read_letters()
    desk.expire(1e9)
    reports = [each for each in said if isinstance(each, Report) and each.text]
    assert [each for each in said if isinstance(each, Resume) and each.suspended.route == "R"]
    assert [each.text[:34] for each in reports] == ["a letter to the reply desk dropped"]
    assert desk.next_deadline() is None
