# SPDX-License-Identifier: GPL-2.0-or-later
"""The thread of a consumer process that answers tools (`runtime.console`), and what it can be asked.

What belongs to another thread is asked of that thread: the connections of the I/O thread, and all that changes
something, or calls Kamailio, of the main thread. Either may be busy for long, so who asks waits with a deadline.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Protocol, TypeAlias

from kemi_nsq.background import Background
from kemi_nsq.consumer.errand import WAIT_S, Errand
from kemi_nsq.consumer.gate import Gate
from kemi_nsq.consumer.message import Item
from kemi_nsq.consumer.routes import Handler
from kemi_nsq.consumer.tally import Tally
from kemi_nsq.errors import ConnectionLost, UsageError
from kemi_nsq.host import Host, Level, Report
from kemi_nsq.jsontext import JsonObject, JsonValue
from kemi_nsq.loading import in_force
from kemi_nsq.names import Subscription
from kemi_nsq.runtime.console import Listener, console_name
from kemi_nsq.runtime.place import Place
from kemi_nsq.settings import Settings

#: What a tool may ask for: from its arguments to the answer. It is called in a thread of its own.
Verb: TypeAlias = Callable[[JsonObject], JsonValue]
#: Seconds that the main thread has for a verb, where they are others than usual: a script may import much.
PATIENT_S: Mapping[str, float] = {"reload": 20.0}
#: What an operator may have written, by the name that `LogPolicy` has for it; None leaves it to Kamailio.
LEVELS: Mapping[str, Level | None] = {
    "default": None,
    **{level.name.lower(): level for level in Level if level is not Level.CRITICAL},
}
#: The thread looks so often whether it shall stop, and whether its socket is still there.
_LOOK_S = 0.5


class Reloadable(Protocol):
    """The operator's script.

    Attributes:
        handlers: its event handlers by route name; the same mapping for ever.
    """

    handlers: dict[str, Handler]

    def describe(self) -> dict[str, JsonValue]:
        """Return which it is."""

    def reload(self, arguments: JsonObject) -> JsonValue:
        """Load it anew, in the main thread, and describe it."""


@dataclass(frozen=True, slots=True)
class Threads:
    """Those that do errands: each of these puts one where its thread finds it."""

    main: Callable[[Errand], None]
    io: Callable[[Errand], None]
    connections: Callable[[], JsonValue]  #: is called in the I/O thread


class Inquiries:
    """What tools may ask of a consumer process.

    Args:
        settings: what is in force.
        host: the SIP server.
        gate: holds topics.
        tally: what was done, by topic and by route.
        script: has the Python handlers.
        at_once: further verbs; each is run by the thread that is asked.
        in_main: further verbs; each is run by the main thread.
    """

    def __init__(  # noqa: PLR0913  # the wiring passes each part in
        self,
        settings: Settings,
        host: Host,
        gate: Gate,
        tally: Tally,
        script: Reloadable,
        *,
        at_once: Mapping[str, Verb],
        in_main: Mapping[str, Verb],
    ) -> None:
        self._settings = settings
        self._host = host
        self._gate = gate
        self._tally = tally
        self._script = script
        self._threads: Threads
        self._in_main: Mapping[str, Verb] = {
            "pause": self._pause,
            "resume": self._resume,
            "reload": script.reload,
            **in_main,
        }
        self._here: Mapping[str, Verb] = {"status": self._status, "log-level": self._log_level, **at_once}
        self._versions: JsonObject = {
            "kemi-nsq": version("kemi-nsq"),
            "kamailio": host.version(),
            "python": platform.python_version(),
        }

    def attach(self, threads: Threads) -> None:
        """Say who does errands from now on."""
        self._threads = threads

    def answer(self, verb: str, arguments: JsonObject) -> JsonValue:
        """Answer a tool, in a thread that may wait.

        Raises:
            UsageError: there is no such verb, or its arguments are wrong.
            TransientError: it cannot be done now.
        """
        if work := self._here.get(verb):
            return work(arguments)
        if work := self._in_main.get(verb):
            asked = work
            errand = Errand(lambda: asked(arguments))
            self._threads.main(errand)
            return errand.wait("the main thread", PATIENT_S.get(verb, WAIT_S))
        raise UsageError(f"consumer {os.getpid()} cannot be asked for {verb[:40]!r}: another release runs there")

    def _status(self, _arguments: JsonObject) -> JsonValue:
        errand = Errand(self._threads.connections)
        self._threads.io(errand)
        return {
            "node": self._settings.node,
            "subscriptions": [str(each) for each in self._settings.subscriptions],
            "versions": dict(self._versions),
            "settings": dict(in_force(self._settings)),
            "log_level": self._host.log_policy.level_name,
            "log_events": self._host.log_policy.events,
            "connections": errand.wait("the I/O thread"),
            "script": self._script.describe(),
            **self._tally.as_json(),
        }

    def _log_level(self, arguments: JsonObject) -> JsonValue:
        """Set the level, if one is given, and return which holds; at once, because the main thread may be stuck."""
        policy, name = self._host.log_policy, str(arguments.get("level", ""))
        if name and name not in LEVELS:
            raise UsageError(f"{name[:40]!r} is no level; allowed: {', '.join(LEVELS)}")
        if name and name != policy.level_name:
            policy.level = None  # whatever held and will hold, this is said
            self._host.log_aside(Level.WARNING, f"log level set by the operator: {name}")
            policy.level = LEVELS[name]
        return policy.level_name

    def _pause(self, arguments: JsonObject) -> JsonValue:
        return self._turn(arguments, self._gate.pause)

    def _resume(self, arguments: JsonObject) -> JsonValue:
        return self._turn(arguments, self._gate.unpause)

    def _turn(self, arguments: JsonObject, turn: Callable[[Collection[Subscription]], None]) -> JsonValue:
        topic = arguments.get("topic", "")
        meant = [each for each in self._settings.subscriptions if topic in ("", each.topic, str(each))]
        if not meant:
            raise UsageError(f"topic {topic!r} is not consumed here; see NSQ_LISTEN_TOPIC and NSQ_TOPIC_CHANNEL")
        turn(meant)
        return [str(each) for each in meant]


class Console(Background):
    """Answers tools, one after the other.

    Args:
        place: the runtime folder.
        inquiries: knows the answers.
        emit: takes what the main thread should log.
    """

    def __init__(self, place: Place, inquiries: Inquiries, emit: Callable[[Item], None]) -> None:
        super().__init__("nsq-console", emit)
        self._listener = Listener(place, console_name(os.getpid()))
        self._inquiries = inquiries
        self._emit = emit
        self._problem = ""

    def _work(self) -> None:
        while not self._stopping.is_set():
            problem = ""
            try:
                self._listener.keep_open()
            except ConnectionLost as error:  # the reply desk makes the folder again
                problem = str(error)
            if problem and problem != self._problem:
                self._emit(Report(level=Level.WARNING, text=f"tools cannot ask this consumer: {problem}"))
            self._problem = problem
            self._listener.serve(self._inquiries.answer, _LOOK_S)

    def _end(self) -> None:
        self._listener.close()
