# SPDX-License-Identifier: GPL-2.0-or-later
"""The log level that a tool sets in a consumer process."""

from __future__ import annotations

import pytest

from kemi_nsq.consumer.console import LEVELS, Inquiries
from kemi_nsq.consumer.tally import Tally
from kemi_nsq.errors import UsageError
from kemi_nsq.host import Level
from kemi_nsq.testing import FakeHost
from tests.support.gates import TestedGate
from tests.support.script import GivenHandlers
from tests.support.settings import settings


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
def inquiries(host: FakeHost) -> Inquiries:
    return Inquiries(settings(), host, TestedGate(host), Tally(), GivenHandlers(), at_once={}, in_main={})


@pytest.mark.parametrize("name", LEVELS)
def test_the_level_holds_and_is_told_to_who_asks(inquiries: Inquiries, host: FakeHost, name: str) -> None:
    assert inquiries.answer("log-level", {}) == "default"
    assert inquiries.answer("log-level", {"level": name}) == name
    assert inquiries.answer("log-level", {}) == name
    assert host.log_policy.level is LEVELS[name]


def test_each_change_is_said_whatever_level_holds(inquiries: Inquiries, host: FakeHost) -> None:
    for name in ("error", "error", "debug", "default"):
        inquiries.answer("log-level", {"level": name})
    assert host.lines == [
        (Level.WARNING, f"log level set by the operator: {name}") for name in ("error", "debug", "default")
    ]


@pytest.mark.parametrize("name", ["critical", "ERROR", "loud", "7"])
def test_nonsense_changes_nothing(inquiries: Inquiries, host: FakeHost, name: str) -> None:
    with pytest.raises(UsageError, match=f"'{name}' is no level; allowed: default, error, warning, info, debug"):
        inquiries.answer("log-level", {"level": name})
    assert (host.lines, host.log_policy.level) == ([], None)
