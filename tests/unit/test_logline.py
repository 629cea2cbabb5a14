# SPDX-License-Identifier: GPL-2.0-or-later
"""How a line of ours looks in the log, and which are written."""

from __future__ import annotations

import json
import os

import pytest

from kemi_nsq.host import Level, LogPolicy
from kemi_nsq.logline import line
from kemi_nsq.testing import FakeHost

HAND = {"message_id": "0123456789abcdef", "topic": "calls"}


def test_text_has_a_prefix_and_no_fields() -> None:
    assert line(LogPolicy(about=lambda: HAND), Level.ERROR, "a\nb", {"step": "told"}) == "kemi-nsq: a\\nb"


def test_json_has_the_text_first_then_the_level_and_what_it_is_about() -> None:
    said = line(
        LogPolicy(as_json=True, about=lambda: HAND), Level.WARNING, 'say "no"\n', {"step": "told", "attempts": 2}
    )
    assert list(json.loads(said).items()) == [
        ("kemi-nsq", 'say "no"\\n'),
        ("level", "warning"),
        ("message_id", "0123456789abcdef"),
        ("topic", "calls"),
        ("step", "told"),
        ("attempts", 2),
        ("pid", os.getpid()),
    ]


def test_what_a_line_itself_is_about_goes_before_what_is_in_hand() -> None:
    said = line(LogPolicy(as_json=True, about=lambda: HAND), Level.INFO, "x", {"message_id": "f" * 16})
    assert json.loads(said)["message_id"] == "f" * 16


@pytest.mark.parametrize("text", ["\x00\x1b[31m", "\udcff", "\u2028", "{}", "\\", "x" * 10_000])
def test_whatever_it_says_json_is_one_line_that_parses_and_has_an_end(text: str) -> None:
    said = line(LogPolicy(as_json=True), Level.DEBUG, text, {"sender": text})
    assert said.isprintable()
    assert len(said) < 9_000
    parsed = json.loads(said)
    assert parsed["kemi-nsq"] == parsed["sender"] == line(LogPolicy(), Level.DEBUG, text).removeprefix("kemi-nsq: ")


@pytest.mark.parametrize(
    ("level", "written"),
    [
        (None, [*Level]),
        (Level.ERROR, [Level.CRITICAL, Level.ERROR]),
        (Level.INFO, [Level.CRITICAL, Level.ERROR, Level.WARNING, Level.INFO]),
        (Level.DEBUG, [*Level]),
    ],
)
def test_lines_up_to_the_level_are_written(level: Level | None, written: list[Level]) -> None:
    host = FakeHost()
    host.log_policy.level = level
    for each in Level:
        host.log(each, "x")
    assert [found for found, _ in host.lines] == written


def test_the_fake_host_keeps_lines_in_json_as_they_are_written() -> None:
    host = FakeHost()
    host.log_policy.as_json = True
    host.log_aside(Level.INFO, "x", {"step": "told"})
    assert json.loads(host.lines[0][1]) == {"kemi-nsq": "x", "level": "info", "step": "told", "pid": os.getpid()}
