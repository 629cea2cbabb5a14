# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said of each watcher: when it was told, by which consumer, and whether it has answered."""

from __future__ import annotations

from typing import Any

import pytest

from kemi_nsq.presence.look import Subscription
from kemi_nsq.tools.presence.explain import ANSWER_S, told
from kemi_nsq.tools.presence.pages import watchers_table
from kemi_nsq.tools.presence.source import DecisionSaid, HistorySaid, ToldSaid

NOW = 1_800_000_000.0
URI = "sip:alice@example.com"
SUBSCRIPTION = Subscription(
    presentity_uri=URI,
    event="dialog",
    watcher="sip:w@example.com",
    contact="sip:w@192.0.2.7",
    callid="c",
    user_agent="phone",
    reason="",
    notifies=3,
    version=4,
    expires=int(NOW) + 60,
    active=True,
)


class Looked:
    """Has one subscription."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    def subscriptions(self, _keys: object) -> list[Subscription]:
        return [self._subscription]


def history(at: float, *, accepted: bool = True) -> HistorySaid:
    notify = ToldSaid(uri=URI, package="dialog", at=at, accepted=accepted)
    return HistorySaid(noted=1, kept=1, oldest=at, logs=False, decisions=[], told=[notify])


def changed(at: float, notify_at: float, what: str = "stored") -> HistorySaid:
    """Return the history of a consumer that has decided something, and told somebody."""
    decision = DecisionSaid(
        at=at, what=what, uri=URI.upper(), package="dialog", etag="e", ruid="r", state="early", about="", sender=URI,
        topic="t", sent_at=at, redelivered=False,
    )  # fmt: skip
    return history(notify_at).model_copy(update={"decisions": [decision]})


def one(histories: dict[int, HistorySaid], **changes: Any) -> Any:
    look: Any = Looked(SUBSCRIPTION._replace(**changes))
    (found,) = told(look, histories, [(URI, "dialog")], NOW)
    return found


def test_who_is_there_long_after_a_notify_has_answered_it() -> None:
    found = one({7: history(NOW - ANSWER_S - 1)})
    assert (found.answered, found.pid, found.as_json()["last"]["accepted"]) == (True, 7, True)


@pytest.mark.parametrize(
    ("histories", "changes"),
    [
        ({}, {}),
        ({7: history(NOW - 1)}, {}),
        ({7: history(NOW - 100, accepted=False)}, {}),
        ({7: history(NOW - 100)}, {"expires": int(NOW)}),
        ({7: history(NOW - 100)}, {"active": False}),
    ],
    ids=["none", "just now", "refused", "over", "not active"],
)
def test_else_nobody_knows(histories: dict[int, HistorySaid], changes: dict[str, Any]) -> None:
    assert one(histories, **changes).answered is None


def test_who_subscribed_after_the_last_notify_has_had_none_of_it() -> None:
    found = one({7: changed(NOW - 100, NOW - 100)}, notifies=0)
    assert (found.last, found.current, found.answered) == (None, None, None)
    (cell,) = watchers_table([found], NOW).columns[5].cells
    assert cell == "none from a consumer since it subscribed"


def test_of_several_consumers_the_last_one_to_tell_counts() -> None:
    assert one({7: history(NOW - 100), 8: history(NOW - 10), 9: history(NOW - 50)}).pid == 8


@pytest.mark.parametrize(
    ("histories", "words"),
    [
        ({}, "none that it remembers"),
        ({7: history(NOW - 100)}, "answered (who does not answer loses the subscription: timeout_rm_subs)"),
        ({7: history(NOW - 1)}, "whether it was answered is not known yet"),
        ({7: history(NOW - 1, accepted=False)}, "refused by the presence module; it is tried again"),
    ],
)
def test_a_line_says_it(histories: dict[int, HistorySaid], words: str) -> None:
    cells = [str(cell) for cell in watchers_table([one(histories)], NOW).columns[5].cells]
    assert cells[0].endswith(words)


@pytest.mark.parametrize(
    ("histories", "current"),
    [
        ({}, None),
        ({7: history(NOW)}, None),
        ({7: changed(NOW - 5, NOW - 5)}, True),
        ({7: changed(NOW - 5, NOW - 6)}, False),
        ({7: changed(NOW - 5, NOW - 6, "stale")}, None),
        ({7: changed(NOW - 5, NOW - 6), 8: history(NOW - 1)}, True),
    ],
)
def test_whether_the_last_notify_had_the_last_change_is_told(
    histories: dict[int, HistorySaid], current: bool | None
) -> None:
    assert one(histories).current is current
