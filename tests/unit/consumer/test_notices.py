# SPDX-License-Identifier: GPL-2.0-or-later
"""What is told to event routes besides events, and how loudly an end is said."""

from __future__ import annotations

import json

import pytest

from kemi_nsq.consumer.message import Happening, Notice
from kemi_nsq.consumer.notices import Notices
from kemi_nsq.event import Event
from kemi_nsq.host import Level, Report
from kemi_nsq.jsontext import JsonValue
from tests.support.settings import settings

ONE: dict[str, JsonValue] = {"Nsqd": "one:4150", "Topic": "t", "Channel": "c"}


class World:
    """Notices of a consumer of t:c, and the routes that were run."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, Event]] = []
        self.notices = Notices(settings(topic_channel="t:c", node="n1"), lambda *route: self.ran.append(route))

    def happens(self, happening: Happening, fields: dict[str, JsonValue], level: Level = Level.INFO) -> Report:
        """Let something happen; return what is logged."""
        notice = Notice(happening=happening, report=Report(level=level, text="said"), fields=fields)
        said = self.notices.report(notice)
        self.notices.tell(notice)
        return said


@pytest.fixture
def world() -> World:
    return World()


def test_a_route_finds_what_happened_as_json(world: World) -> None:
    world.happens(Happening.DISCONNECTED, ONE | {"Reason": "it hung up"})
    ((name, event),) = world.ran
    assert name == "nsq:disconnected"
    assert json.loads(event.payload) == event.fields == {
        "Event-Category": "nsq", "Event-Name": "disconnected", "Node": "n1", **ONE, "Reason": "it hung up",
    }  # fmt: skip
    assert (event.topic, event.channel, event.attempts) == ("t", "c", 1)


@pytest.mark.parametrize(("happening", "name"), [(Happening.MOD_INIT, "nsq:mod-init"), (Happening.STUCK, "nsq:stuck")])
def test_what_is_about_no_topic_has_a_route_too(world: World, happening: Happening, name: str) -> None:
    world.happens(happening, {})
    assert [each for each, _ in world.ran] == [name]
    assert world.ran[0][1].topic == ""


def test_the_topic_of_replies_is_nobodys_business(world: World) -> None:
    world.happens(Happening.CONNECTED, ONE | {"Topic": "kamailio-0.n1.replies#ephemeral"})
    world.happens(Happening.UNREACHABLE, ONE)
    assert world.ran == []


def test_an_end_is_said_as_loudly_as_the_beginning(world: World) -> None:
    first = world.happens(Happening.CONNECTED, ONE)
    assert (first.level, first.text) == (Level.INFO, "said")
    for loss in (Happening.DISCONNECTED, Happening.UNREACHABLE):
        world.happens(loss, ONE, Level.WARNING)
        other = world.happens(Happening.CONNECTED, ONE | {"Nsqd": "two:4150"})
        assert other.level is Level.INFO
        again = world.happens(Happening.CONNECTED, ONE)
        assert (again.level, again.text) == (Level.WARNING, "said again")
        assert world.happens(Happening.CONNECTED, ONE).level is Level.INFO
