# SPDX-License-Identifier: GPL-2.0-or-later
"""The faults: a kill (SIGKILL, later started again) and a freeze (SIGSTOP, later SIGCONT) of each part."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

from tests.chaos.stage import Stage
from tests.support.kamailio import Kamailio
from tests.support.nsqd import NsqServer
from tests.support.process import is_stopped
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
    with _stopped(_consumer(kamailio)):
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
    "postgresql-freeze": lambda stage: stage.server.silence(),
}


def _start_again(kamailio: Kamailio) -> None:
    kamailio.stop()  # removes what the killed one left
    kamailio.start()


def _consumer(kamailio: Kamailio) -> int:
    return next(pid for pid, what in kamailio.pids().items() if "nsq:consumer" in what)


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    until(lambda: is_stopped(pid), what="the process to stop")
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
