# SPDX-License-Identifier: GPL-2.0-or-later
"""`ksr` on the releases of Kamailio that differ, with a `KSR` that has their shapes; acceptance tries a real one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace

import pytest

from kemi_nsq.host import Host


class Locks:
    """Locks of the module cfgutils as KEMI calls them: a call with other than `keys` arguments answers False.

    Args:
        keys: how many keys `lock` and `unlock` take.
        answer: what a call with so many keys returns; -1 where there is no set of locks.
    """

    def __init__(self, keys: int, answer: int = 1) -> None:
        self._keys, self._answer = keys, answer
        self.calls: list[tuple[str, ...]] = []

    def lock(self, *keys: str) -> int:
        self.calls.append(("lock", *keys))
        return self._answer if len(keys) == self._keys else False

    def unlock(self, *keys: str) -> int:
        self.calls.append(("unlock", *keys))
        return self._answer if len(keys) == self._keys else False


class NewerLocks(Locks):
    """Those of 6.0.2 and later."""

    def __init__(self) -> None:
        super().__init__(keys=1)

    def lock_key2(self, *keys: str) -> int:
        raise AssertionError(f"not wanted: {keys}")


Start = Callable[[int, Locks], Host]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    """Return what makes a host inside a Kamailio of this KEMI version with these locks."""

    def host(version: int, locks: Locks) -> Host:
        monkeypatch.setitem(sys.modules, "KSR", SimpleNamespace(__version__=version, cfgutils=locks))
        monkeypatch.delitem(sys.modules, "kemi_nsq.plugin.ksr", raising=False)
        made: Host = import_module("kemi_nsq.plugin.ksr").KamailioHost(native=True)
        monkeypatch.delitem(sys.modules, "kemi_nsq.plugin.ksr")
        return made

    return host


@pytest.mark.parametrize(
    ("version", "locks", "more"),
    [(1002, Locks(keys=1), ()), (1003, Locks(keys=2), ("",)), (1003, NewerLocks(), ())],
    ids=["5.6", "6.0.0 and 6.0.1", "6.0.2 and later"],
)
def test_a_lock_is_taken_with_the_keys_that_this_release_wants(
    start: Start, version: int, locks: Locks, more: tuple[str, ...]
) -> None:
    host = start(version, locks)
    assert host.lock("presence")
    host.unlock("presence")
    assert locks.calls == [("lock", "presence", *more), ("unlock", "presence", *more)]


@pytest.mark.parametrize("locks", [Locks(keys=1, answer=-1), Locks(keys=2)], ids=["no locks", "other keys"])
def test_a_lock_that_is_refused_is_not_held(start: Start, locks: Locks) -> None:
    assert not start(1002, locks).lock("presence")


def test_where_kamailio_cannot_be_asked_for_a_route_it_is_asked_to_run_it(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This Python is not Kamailio, so it has none of its symbols."""
    host, answers = start(1002, Locks(keys=1)), iter((200, 500))
    ran: list[str] = []
    jsonrpcs, pv = SimpleNamespace(exec=ran.append), SimpleNamespace(get=lambda _name: next(answers))
    monkeypatch.setitem(type(host).run_event_route.__globals__, "KSR", SimpleNamespace(jsonrpcs=jsonrpcs, pv=pv))
    assert host.run_event_route("nsq:x", "{}")
    assert not host.run_event_route("nsq:y", "{}")
    assert ['"nsq:x"' in ran[0], '"nsq:y"' in ran[1]] == [True, True]
