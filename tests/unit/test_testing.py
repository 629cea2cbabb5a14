# SPDX-License-Identifier: GPL-2.0-or-later
"""The fake host that is shipped for users: it remembers, and knows nothing that it was not told."""

from __future__ import annotations

import inspect

import pytest

from kemi_nsq.counters import Counter
from kemi_nsq.host import Host, Level
from kemi_nsq.testing import FakeHost


def test_it_is_a_host() -> None:
    host: Host = FakeHost()  # checked by mypy; the names here, for those who do not run it
    for name, method in inspect.getmembers(Host, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.signature(getattr(type(host), name)) == inspect.signature(method), name


def test_it_remembers_what_was_asked_of_it() -> None:
    host = FakeHost()
    host.log(Level.ERROR, "a line")
    host.count(Counter.INVALID)
    host.count(Counter.INVALID)
    host.set_variable("nqE", "{}")
    assert host.lines == [(Level.ERROR, "a line")]
    assert host.counters[Counter.INVALID] == 2
    assert (host.variable("nqE"), host.variable("other")) == ("{}", "")


def test_it_has_only_the_defines_that_it_was_given() -> None:
    assert FakeHost().defines() == {}
    assert FakeHost(defines={"NSQ_ACK": "received"}).defines() == {"NSQ_ACK": "received"}


def test_it_has_only_the_routes_that_it_was_given() -> None:
    payloads: list[str] = []
    host = FakeHost(event_routes={"nsq:x": lambda _, payload: payloads.append(payload)})
    assert host.run_event_route("nsq:x", "{}")
    assert not host.run_event_route("nsq:y", "{}")
    assert payloads == ["{}"]


def test_it_suspends_only_a_transaction_that_it_was_given() -> None:
    host = FakeHost()
    assert host.suspend_transaction("ROUTE", 3) is None
    host.transaction = (1, 2)
    suspended = host.suspend_transaction("ROUTE", 3)
    assert suspended is not None
    assert host.suspended_for_s == [3]
    host.set_variable("nqR", "{}")
    assert host.continue_transaction(suspended)
    assert host.resumed_route() == "ROUTE"
    host.transaction = None
    assert not host.continue_transaction(suspended)
    assert [variables for _, variables in host.continued] == [{"nqR": "{}"}] * 2


def test_it_answers_a_refresh_as_it_was_told() -> None:
    host = FakeHost()
    assert host.refresh_watchers("sip:a@b", "dialog")
    host.refresh_accepted = False
    assert not host.refresh_watchers("sip:a@b", "presence")
    assert host.refreshed == [("sip:a@b", "dialog"), ("sip:a@b", "presence")]


def test_it_handles_a_request_as_it_was_told() -> None:
    host = FakeHost()
    host.try_lock("presence")
    assert host.handle_request()
    host.request_accepted = False
    host.unlock("presence")
    assert not host.handle_request()
    assert host.handled == [{"presence"}, set()]
    host.keep_subscriptions_in_memory()
    assert host.in_memory
    host.wanted = ("sip:a@b", "dialog")
    assert host.wanted_state() == host.wanted


def test_its_locks_are_given_as_it_was_told() -> None:
    host = FakeHost()
    host.locked_elsewhere = {"a"}
    assert (host.try_lock("a"), host.try_lock("b"), host.locked) == (False, True, {"b"})
    host.has_locks = False
    assert host.try_lock("c") is None


def test_it_refuses_what_kamailio_would_refuse() -> None:
    host = FakeHost()
    with pytest.raises(ValueError, match="null character"):
        host.set_variable("nqE", "a\0b")
    host.try_lock("a")
    with pytest.raises(RuntimeError, match="deadlock"):
        host.try_lock("a")
    host.unlock("a")
    host.try_lock("a")
    with pytest.raises(KeyError):
        host.unlock("b")


def test_two_hosts_share_nothing() -> None:
    one, other = FakeHost(), FakeHost()
    one.set_variable("a", "b")
    one.log(Level.INFO, "x")
    one.event_routes["nsq:x"] = lambda *_: None
    assert (other.variables, other.lines, other.event_routes) == ({}, [], {})
