# SPDX-License-Identifier: GPL-2.0-or-later
"""What a consumer answers about presence: where the table is, its history, and a reset in pieces."""

from __future__ import annotations

import itertools

import pytest

from kemi_nsq.clock import Clock
from kemi_nsq.consumer.pua_inquiries import PuaInquiries
from kemi_nsq.errors import PayloadError, UsageError
from kemi_nsq.host import Level
from kemi_nsq.jsontext import JsonValue
from kemi_nsq.presence.expiry import Expiry
from kemi_nsq.presence.history import History
from kemi_nsq.testing import FakeHost
from tests.support.settings import settings

URL = "sqlite:////tmp/kamailio.db"


class Pages:
    """Ends two states a page, of which there are three."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int]] = []

    def reset_page(self, scope: str, *, position: int, below_id: int) -> tuple[int, int]:
        if scope != "all":
            raise PayloadError("no scope")
        self.asked.append((scope, position, below_id))
        return (2, 3 - len(self.asked)) if len(self.asked) < 3 else (1, 0)

    def now_position(self) -> int:
        return 10**23


def inquiries(pages: Pages | None = None, *, steps: float = 0.0) -> tuple[PuaInquiries, FakeHost]:
    host, ticks = FakeHost(), itertools.count()
    clock = Clock(monotonic=lambda: next(ticks) * steps)
    expiry: Expiry = pages  # type: ignore[assignment]
    return PuaInquiries(settings(db_url=URL), host, History(host), expiry, clock), host


def test_who_asks_where_states_are_learns_all_that_a_tool_needs() -> None:
    made, _ = inquiries()
    assert made.at_once["where"]({}) == {
        "db_url": URL, "presentity_table": "presentity", "watchers_table": "", "subscriptions_in_memory": False,
        "order_field": "", "listen_topic": "kamailio", "nsqd_address": "127.0.0.1:4151",
        "event_key": "Event-Category", "event_subkey": "Event-Name",
    }  # fmt: skip


def test_a_reset_is_done_at_once_if_there_is_time() -> None:
    pages = Pages()
    made, host = inquiries(pages)
    assert made.in_main["reset"]({"scope": "all"}) == {"ended": 5, "position": str(10**23), "below": ""}
    assert {position for _, position, _ in pages.asked} == {10**23}
    assert [text for _, text in host.lines] == ["reset by the operator: all: 5 states"]


def test_a_long_reset_lets_events_go_on_and_is_asked_for_its_rest() -> None:
    made, host = inquiries(Pages(), steps=1.0)
    said = made.in_main["reset"]({"scope": "all"})
    counts = []
    while True:
        assert isinstance(said, dict)
        counts.append(said["ended"])
        if not said["below"]:
            break
        said = made.in_main["reset"]({"scope": "all", "position": said["position"], "below": said["below"]})
    assert counts == [2, 2, 1]
    assert host.lines[0][1] == "reset by the operator: all: 2 states and more"


def test_a_scope_that_is_none_is_refused_and_not_logged() -> None:
    made, host = inquiries(Pages())
    with pytest.raises(UsageError, match="no scope"):
        made.in_main["reset"]({"scope": "nothing"})
    assert host.lines == []


@pytest.mark.parametrize("most", [-1, 2001, "3", 1.5])
def test_nobody_gets_more_history_than_there_is(most: object) -> None:
    made, _ = inquiries()
    with pytest.raises(UsageError, match="0 to 2000 is wanted"):
        made.at_once["history"]({"most": most})  # type: ignore[dict-item]


def test_lines_are_switched_on_and_off_and_that_is_logged_once() -> None:
    made, host = inquiries()
    assert made.in_main["log-events"]({"on": True}) is True
    assert made.in_main["log-events"]({"on": True}) is True
    assert made.in_main["log-events"]({"on": False}) is False
    assert len(host.lines) == 2
    with pytest.raises(UsageError, match="on or off is wanted"):
        made.in_main["log-events"]({})


def test_lines_of_events_need_no_table_and_a_level_that_lets_them_through() -> None:
    host = FakeHost()
    made = PuaInquiries(settings(), host, None, None)
    host.log_policy.level = Level.WARNING
    with pytest.raises(UsageError, match="log-level is warning, which leaves these lines out"):
        made.in_main["log-events"]({"on": True})
    assert made.in_main["log-events"]({"on": False}) is False
    host.log_policy.level = Level.INFO
    assert made.in_main["log-events"]({"on": True}) is True
    assert host.log_policy.events


@pytest.mark.parametrize("verb", ["history", "reset"])
def test_a_kamailio_without_a_table_says_so(verb: str) -> None:
    made = PuaInquiries(settings(), FakeHost(), None, None)
    with pytest.raises(UsageError, match="NSQ_DB_URL is not set in that Kamailio"):
        (made.at_once | made.in_main)[verb]({"scope": "all"})  # type: ignore[operator]


@pytest.mark.parametrize("name", ["below", "position"])
@pytest.mark.parametrize("value", ["x", "-1", "1" * 30, "٣", 7, [1], "1.5"])
def test_nonsense_ends_no_main_thread(name: str, value: JsonValue) -> None:
    made, host = inquiries(Pages())
    with pytest.raises(UsageError, match=f"{name} is "):
        made.in_main["reset"]({"scope": "all", name: value})
    assert host.lines == []
