# SPDX-License-Identifier: GPL-2.0-or-later
"""A `KSR` with the shapes of Kamailio's, for `kemi_nsq.plugin.ksr`; it fails on what it was not told.

`tests/acceptance/test_kemi_functions.py` holds the names that are called against a real Kamailio.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace

Value = str | int | None
#: An RPC command: its parameters in, the code and the result out.
Command = Callable[[list[str]], tuple[int, object]]

KEMI_OF_5_6 = 1002
_NO_SUCH_ITEM = -255


class Cfgutils:
    """The module cfgutils as KEMI calls it: a lock called with other than `keys` arguments answers False.

    Args:
        keys: how many keys `trylock` and `unlock` take.
        answer: what a call with so many keys returns; -1 where there is no set of locks.

    Attributes:
        calls: each call of the two, with its keys.
        routes: the routes of kamailio.cfg.
        taken: names of the locks that somebody has.
    """

    def __init__(self, keys: int = 1, answer: int = 1) -> None:
        self._keys, self._answer = keys, answer
        self.calls: list[tuple[str, ...]] = []
        self.routes: set[str] = set()
        self.taken: set[str] = set()

    def trylock(self, *keys: str) -> int:
        """Take a lock that is free."""
        self.calls.append(("trylock", *keys))
        if len(keys) != self._keys:
            return False
        return -1 if keys[0] in self.taken else self._answer

    def unlock(self, *keys: str) -> int:
        """Give it back."""
        self.calls.append(("unlock", *keys))
        return self._answer if len(keys) == self._keys else False

    def check_route_exists(self, name: str) -> int:
        """Look a route up."""
        return 1 if name in self.routes else -1


class FakeKsr:
    """What a process of Kamailio shows to Python.

    Args:
        version: of KEMI, `KSR.__version__`.
        cfgutils: that module.

    Attributes:
        lines: level and text of each line of the log.
        variables: pseudo-variables by name, `$var(x)`; one of these that was never set is 0.
        room: bytes that a variable holds at most; a longer value is not stored, and nobody is told.
        commands: RPC commands by name; others answer 404.
        table: the htable `nsq`.
        calls: each call of tm, tmx and presence: the function's name, then its arguments.
        suspends: what t_suspend returns.
        continues: runs while t_continue does, as the route in which the transaction goes on.
        refreshes: what pres_refresh_watchers returns.
        handles: what handle_subscribe and handle_publish return.
        headers: of the SIP request that is being handled.
    """

    def __init__(self, version: int = KEMI_OF_5_6, cfgutils: Cfgutils | None = None) -> None:
        self.__version__ = version
        self.lines: list[tuple[str, str]] = []
        self.variables: dict[str, Value] = {}
        self.room = 1000
        self.commands: dict[str, Command] = {}
        self.table: dict[str, int] = {}
        self.calls: list[tuple[object, ...]] = []
        self.suspends = 1
        self.continues: Callable[[], None] = lambda: None
        self.refreshes = 0
        self.handles = 1
        self.headers: dict[str, str] = {}
        self.pv = SimpleNamespace(get=self._get, sets=self._set, seti=self._set)
        self.jsonrpcs = SimpleNamespace(exec=self._exec)
        self.locked_items: list[tuple[str, ...]] = []
        self.htable = SimpleNamespace(
            sht_inc=self._increment,
            sht_seti=self._set_item,
            sht_get=lambda _table, item: self.table.get(item),
            sht_rm=lambda _table, item: self.table.pop(item, None),
            sht_lock=lambda *_key: self.locked_items.append(_key),
            sht_unlock=lambda *key: self.locked_items.remove(key),
        )
        self.tm = SimpleNamespace(
            t_set_max_lifetime=self._recorded("t_set_max_lifetime"),
            t_reset_max_lifetime=self._recorded("t_reset_max_lifetime"),
        )
        self.tmx = SimpleNamespace(t_suspend=lambda: self.suspends, t_continue=self._continue)
        self.presence = SimpleNamespace(
            pres_refresh_watchers=self._refresh,
            handle_subscribe=lambda: self.handles,
            handle_publish=lambda: self.handles,
        )
        self.hdr = SimpleNamespace(get=self.headers.get)
        self.cfgutils = cfgutils or Cfgutils()

    def __getattr__(self, name: str) -> Callable[[str], None]:
        """Return the function of a log level."""
        if name not in {"crit", "err", "warn", "info", "dbg"}:
            raise AttributeError(name)
        return lambda text: self.lines.append((name, text))

    def _get(self, name: str) -> Value:
        return self.variables.get(name, 0) if name.startswith("$var(") else self.variables[name]

    def _set(self, name: str, value: Value) -> None:
        if len(str(value)) <= self.room:
            self.variables[name] = value

    def _exec(self, request: str) -> int:
        asked = json.loads(request)
        command = self.commands.get(asked["method"])
        code, result = command(asked["params"]) if command else (404, None)
        self.variables |= {"$jsonrpl(code)": code, "$jsonrpl(body)": json.dumps({"result": result})}
        return 1

    def _increment(self, table: str, item: str) -> int:
        assert table == "nsq"
        if item not in self.table:
            return _NO_SUCH_ITEM
        self.table[item] += 1
        return self.table[item]

    def _set_item(self, table: str, item: str, value: int) -> None:
        assert table in {"nsq", "nsqrefreshed"}
        self.table[item] = value

    def _continue(self, *arguments: object) -> int:
        self.calls.append(("t_continue", *arguments))
        self.continues()
        return 1

    def _refresh(self, *arguments: object) -> int:
        self.calls.append(("pres_refresh_watchers", *arguments))
        return self.refreshes

    def _recorded(self, name: str) -> Callable[..., int]:
        def call(*arguments: object) -> int:
            self.calls.append((name, *arguments))
            return 1

        return call
