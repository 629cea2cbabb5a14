# SPDX-License-Identifier: GPL-2.0-or-later
"""The faults: a kill (SIGKILL, later started again) and a freeze (SIGSTOP, later SIGCONT) of each part."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from tests.chaos.stage import Stage
from tests.support.kamailio import Kamailio
from tests.support.nsqd import NsqServer
from tests.support.until import until

#: How long Kamailio may take to end when its consumer process was killed.
_END_S = 20.0


@contextmanager
def _killed(server: NsqServer) -> Iterator[None]:
    server.kill()
    try:
        yield
    finally:
        server.start()


@contextmanager
def _frozen(server: NsqServer) -> Iterator[None]:
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


@contextmanager
def _kamailio_killed(kamailio: Kamailio) -> Iterator[None]:
    kamailio.process.kill()
    try:
        yield
    finally:
        _start_again(kamailio)


@contextmanager
def _kamailio_frozen(kamailio: Kamailio) -> Iterator[None]:
    kamailio.process.freeze()
    try:
        yield
    finally:
        kamailio.process.thaw()


@contextmanager
def _consumer_killed(kamailio: Kamailio) -> Iterator[None]:
    """Kamailio's main process ends all others when one of them is gone."""
    os.kill(_consumer(kamailio), signal.SIGKILL)
    try:
        kamailio.process.wait_exit(timeout_s=_END_S)
        yield
    finally:
        _start_again(kamailio)


@contextmanager
def _consumer_frozen(kamailio: Kamailio) -> Iterator[None]:
    with _stopped([_consumer(kamailio)]):
        yield


@contextmanager
def _database_frozen(stage: Stage) -> Iterator[None]:
    """PostgreSQL's processes have a session each, so that stopping the main one alone leaves the others at work."""
    [(some_child,)] = stage.server.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
    main = _parents()[int(str(some_child))]
    with _stopped([main, *(pid for pid, parent in _parents().items() if parent == main)]):
        yield


#: Name to what strikes when its context begins, and mends when it ends. `none` is what all is compared with.
FAULTS: Mapping[str, Callable[[Stage], AbstractContextManager[None]]] = {
    "none": lambda _stage: nullcontext(),
    "nsqd-kill": lambda stage: _killed(stage.nsqds["nsqd1"]),
    "nsqd-freeze": lambda stage: _frozen(stage.nsqds["nsqd2"]),
    "nsqlookupd-kill": lambda stage: _killed(stage.lookupds[0]),
    "nsqlookupd-freeze": lambda stage: _frozen(stage.lookupds[1]),
    "consumer-kill": lambda stage: _consumer_killed(stage.nodes[0].kamailio),
    "consumer-freeze": lambda stage: _consumer_frozen(stage.nodes[1].kamailio),
    "kamailio-kill": lambda stage: _kamailio_killed(stage.nodes[0].kamailio),
    "kamailio-freeze": lambda stage: _kamailio_frozen(stage.nodes[1].kamailio),
    "postgresql-kill": lambda stage: stage.server.outage(),
    "postgresql-freeze": _database_frozen,
}


def _start_again(kamailio: Kamailio) -> None:
    kamailio.stop()  # removes what the killed one left
    kamailio.start()


def _consumer(kamailio: Kamailio) -> int:
    return next(pid for pid, what in kamailio.pids().items() if "nsq:consumer" in what)


@contextmanager
def _stopped(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    until(lambda: all(_state(pid) == "T" for pid in pids), what="the processes to stop")
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _state(pid: int) -> str:
    return _stat(Path(f"/proc/{pid}/stat"))[0]


def _parents() -> dict[int, int]:
    """Return the parent of each process."""
    return {int(path.parent.name): int(_stat(path)[1]) for path in Path("/proc").glob("[0-9]*/stat") if _stat(path)}


def _stat(path: Path) -> list[str]:
    """Return state, parent and so on (proc(5)); nothing of a process that has ended."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
