# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmark's presence server with timers around the stages of an event: what `--profile` loads."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lamps  # type: ignore[import-not-found]  # lies beside this file; it makes the package known
import sqlalchemy as sa

# isort: split
from kemi_nsq import Event, event_route
from kemi_nsq.consumer.chores import Chores
from kemi_nsq.consumer.handling import EventHandling
from kemi_nsq.consumer.iothread import IoThread
from kemi_nsq.consumer.routes import Router
from kemi_nsq.consumer.supervisor import Supervisor
from kemi_nsq.consumer.verdict import Verdicts
from kemi_nsq.plugin.ksr import KamailioHost
from kemi_nsq.plugin.pua_functions import PuaFunctions
from kemi_nsq.presence import table, writer
from kemi_nsq.presence.database import Database
from kemi_nsq.presence.history import History
from kemi_nsq.presence.packages.dialog import DialogState
from kemi_nsq.presence.statements import crowds, lookup
from kemi_nsq.presence.table import PresentityTable
from kemi_nsq.presence.watchers import Watchers
from kemi_nsq.presence.writer import PresenceWriter
from tests.bench.timers import Stage, Timers

#: Stage to its functions, each by what has it and its name there.
_STAGES: dict[str, tuple[tuple[Any, str], ...]] = {
    "I/O thread: what nsqd sends": ((IoThread, "_read"),),
    "I/O thread: answers, and its turns": ((IoThread, "_turn"),),
    "hand-over to the main thread": ((Supervisor, "_waiting"), (Supervisor, "_take")),
    "handling": ((EventHandling, "_handle"), (EventHandling, "_run")),
    "counters": ((KamailioHost, "count"), (KamailioHost, "mirror")),
    "JSON": ((EventHandling, "_event"),),
    "names of routes": ((Router, "names"),),
    "route": ((Router, "run"),),
    "route: evrexec": ((KamailioHost, "run_event_route"),),
    "nsq_pua_publish": ((PuaFunctions, "publish"),),
    "from_event": ((writer, "from_event"),),
    "document": ((DialogState, "document"),),
    "row and order key": ((PresenceWriter, "row"),),
    "storing: what changes": ((PresenceWriter, "commit"), (PresentityTable, "save_all")),
    "storing: transaction": ((Database, "run"),),
    "storing: look-up": ((table, "lookup"), (table, "crowds")),
    "storing: upsert": ((PresentityTable, "_put"),),
    "storing: COMMIT": ((sa.engine.default.DefaultDialect, "do_commit"),),
    "history, and whom to tell": ((History, "committed"), (Watchers, "tell_saved")),
    "answers: FIN": ((Verdicts, "answer"),),
    "expiry and other chores": ((Chores, "tick"),),
}
#: These make functions of their stage, instead of being one.
_MAKERS = (lookup, crowds)

_timers = Timers()
#: Tried once, here: in an event it would count as time of its route.
_SHARE_INSIDE = _timers.share_inside()


def _wrapped(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    if function in _MAKERS:
        return lambda *arguments, **named: _timers.timed(name, function(*arguments, **named))
    return _timers.timed(name, function)


for _name, _functions in _STAGES.items():
    _timers.stages[_name] = Stage()  # in this order, though it may have no function yet
    for _owner, _attribute in _functions:
        setattr(_owner, _attribute, _wrapped(_name, getattr(_owner, _attribute)))


class Timed(lamps.Lamps):  # type: ignore[misc]  # lamps is not known to mypy here
    """The benchmark's presence server, and its timers."""

    @event_route("nsq:consumer-event-bench-timers")
    def timers(self, _event: Event) -> None:
        """Write what was counted of each stage since the last such event to $BENCH_TIMERS, and begin anew."""
        counted = {name: asdict(stage) for name, stage in _timers.stages.items()}
        made = {"stages": counted, "share_inside": _SHARE_INSIDE}
        Path(os.environ["BENCH_TIMERS"]).write_text(json.dumps(made), encoding="utf-8")
        _timers.reset()


def mod_init() -> Timed:
    """Return the object that `python_exec` calls."""
    return Timed()
