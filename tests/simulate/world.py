# SPDX-License-Identifier: GPL-2.0-or-later
"""The world of a scenario: its time, its nsqd, processes and database; it applies steps, and lets all take turns."""

from __future__ import annotations

import json
from collections import Counter as Multiset
from collections import deque
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from random import Random

from kemi_nsq.clock import Clock
from kemi_nsq.counters import Counter
from kemi_nsq.event import Event
from kemi_nsq.settings import Settings
from tests.simulate.database import DATABASE, fresh_database
from tests.simulate.nsqd import ModelNsqd, Stored
from tests.simulate.outside import Crash
from tests.simulate.presence import CLEAN_S, DIALOG, MAILBOX, PresenceModule
from tests.simulate.process import Process
from tests.simulate.steps import (
    LONG_S,
    SHORT_S,
    USERS,
    At,
    Database,
    Kill,
    Nsqd,
    Outbox,
    Publish,
    Say,
    Scenario,
    SetClock,
    Step,
    Subscribe,
    Wait,
)
from tests.support.settings import settings

#: Monotonic second 0.
_EPOCH_S = 1_700_000_000.0
DOMAIN = "example.com"
EVENTS, DEAD, PUBLISHED = "kamailio", "dead", "published"
#: A process that has ended is there again after so long.
_RESTART_S = 1.0
#: How deep a wait may be in the wait of another process.
_DEEP = 3
#: So many turns without any time: then somebody goes round in circles.
_CIRCLES = 2000
#: Time goes on by so much at least.
_LEAST_S = 0.0005
_LOG_KEPT = 60


class Circles(AssertionError):
    """A world that does not come to an end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """An event that an nsqd has taken: the step, its fields, the message."""

    step: Say
    sequence: int
    stored: Stored


@dataclass(slots=True)
class Record:
    """What happened, for who judges it.

    Attributes:
        said: events.
        dead: ids of messages in the dead-letter topic, as they came.
        published: numbers in the topic to which workers publish, as they came.
        accepted: numbers of which nsq_publish said that they are safe, in order; those that went to the outbox, too.
        kept: numbers that went to the outbox, in order.
        deaths: how often a process ended.
        counters: of all processes that have ended.
    """

    said: list[Said] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)
    published: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    deaths: int = 0
    counters: Multiset[Counter] = field(default_factory=Multiset)


class World:
    """A world in which a scenario happens.

    Args:
        scenario: what happens.
        folder: for its files.

    Attributes:
        now: monotonic seconds.
        ahead_s: by how much the wall clock of the processes is ahead of the truth.
        back_s: by how much it was set back, in all.
        database: `works`, `fails` or `frozen`.
        outbox: `works` or `fails`.
        kept: bodies in the outbox.
        nsqds: all of them.
        processes: those that are alive; None for one that has ended.
        presence: the presence module.
        record: what happened.
    """

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.now, self.ahead_s, self.back_s = 1000.0, 0.0, 0.0
        self.database = self.outbox = "works"
        self.kept: list[bytes] = []
        self.record = Record()
        self.lines: deque[str] = deque(maxlen=_LOG_KEPT)
        self._salt = str(scenario.seed).encode()
        self._turn = self._sequence = self._starts = self._depth = 0
        self._failures: dict[str, int] = {}
        self._running: list[Process] = []
        self._sender: Process | None = None
        self._clean_at = self.now + CLEAN_S
        self.settings = _settings(str(folder), tuple(sorted(scenario.settings.items())))
        self.presence = PresenceModule(fresh_database(folder), lambda: self.wall)
        self.nsqds = [ModelNsqd(number, ahead, self._prefer) for number, ahead in enumerate(scenario.clocks)]
        self._restarts: dict[int, float] = {}
        self.processes: list[Process | None] = [None] * scenario.consumers
        for number in range(scenario.consumers):
            self._start(number)
        self._worker: Process | None = None

    # Time and chance

    @property
    def wall(self) -> float:
        """Seconds since the epoch, as the processes have them."""
        return _EPOCH_S + self.now + self.ahead_s

    def clock(self, dice: Random) -> Clock:
        """Return the clock of a process."""
        return Clock(
            monotonic=lambda: self.now,
            wall=lambda: self.wall,
            wall_ns=lambda: int(self.wall * 1e9),
            chance=dice.random,
            entropy=dice.randbytes,
        )

    def _hash(self, *values: object) -> int:
        return int.from_bytes(blake2b(repr(values).encode(), digest_size=6, key=self._salt).digest(), "big")

    def _prefer(self, message: Stored, peer: int) -> int:
        return self._hash(message.message_id, message.attempts, peer)

    def advance(self, seconds: float, *, mains: bool = True) -> None:
        """Let time pass, in which everybody does what is due; the main threads only if `mains`."""
        until = self.now + seconds
        self._depth += 1
        while self._depth <= _DEEP:
            self._turns(mains, until)
            due = self._next_due(mains)
            if due > until:
                break
            self.now = max(self.now + _LEAST_S, due)
        self._depth -= 1
        self.now = max(self.now, until)

    def _next_due(self, mains: bool) -> float:
        dues = [nsqd.next_due(self.now) for nsqd in self.nsqds]
        dues += [self._clean_at, *self._restarts.values()]
        for process in self.everybody():
            dues.append(process.io_due())
            if self._sends(process):
                dues.append(process.send_due())
            if mains and not process.busy:
                dues.append(process.main_due())
        return min(dues)

    def _turns(self, mains: bool, until: float) -> None:
        """Let everybody take turns until nobody has anything to do now."""
        for _ in range(_CIRCLES):
            for nsqd in self.nsqds:
                nsqd.tick(self.now)
            self._turn += 1
            order = sorted(range(len(self.processes)), key=lambda number: self._hash(self._turn, number))
            if not any([self._process_turn(number, mains) for number in order]) or self.now > until:
                break
        else:
            raise Circles("the processes go round in circles")
        if self.now >= self._clean_at:
            self._clean_at = self.now + CLEAN_S
            if self.database == "works":
                self.presence.clean()

    def _process_turn(self, number: int, mains: bool) -> bool:  # noqa: PLR0911  # the first that is due
        process = self.processes[number]
        if process is None:
            if self._restarts[number] <= self.now:
                self._start(number)
                return True
            return False
        if process.io_due() <= self.now:
            process.io_turn()
            return True
        try:
            if self._sends(process) and process.send_due() <= self.now:
                process.send()
                return True
            if mains and not process.busy and process.main_due() <= self.now:
                self._main_turn(process)
                return True
        except Crash:
            self._bury(number, process)
            return True
        return False

    def _sends(self, process: Process) -> bool:
        """Whether a process has the lock of the outbox, for as long as it lives."""
        if self._sender is None or self._sender.dead:
            self._sender = process
        return self._sender is process

    def _main_turn(self, process: Process) -> None:
        self._running.append(process)
        try:
            process.main_turn()
        finally:
            self._running.pop()

    def _start(self, number: int) -> None:
        self._restarts.pop(number, None)
        self._starts += 1
        dice = Random(self._hash("process", number, self._starts))
        running, self._running = self._running, []  # it is not one of them who makes it
        self.processes[number] = Process(self, number, self.settings, dice)
        self._running = running

    def _bury(self, number: int, process: Process | None) -> None:
        if process is None or self.processes[number] is not process:
            return  # it ended while it waited, and was buried then
        self.log(f"{process.name} ends")
        self.record.deaths += 1
        self.record.counters += process.host.counters
        process.end()
        self.processes[number] = None
        self._restarts[number] = self.now + _RESTART_S

    # What its people and parts do

    def log(self, text: str) -> None:
        """Keep the last lines."""
        self.lines.append(f"{self.now - 1000:9.3f} {text}")

    def put(self, nsqd: ModelNsqd, topic: str, body: bytes, delay_s: float = 0.0) -> Stored:
        """Have an nsqd take a message."""
        stored = nsqd.put(topic, body, self.now, _EPOCH_S + self.now, delay_s)
        if topic == DEAD:
            self.record.dead.append(json.loads(body)["Message-ID"])
        if topic == PUBLISHED:
            self.record.published.append(json.loads(body)["Number"])
        if topic != EVENTS:
            del nsqd.waiting[stored.message_id]
        return stored

    def route_fails(self, event: Event) -> bool:
        """Whether the route of an event raises this time."""
        failed = self._failures.get(event.message_id, 0)
        self._failures[event.message_id] = failed + 1
        return failed < int(str(event.fields.get("Fails", 0)))

    @property
    def running(self) -> Process | None:
        """The process whose main thread runs."""
        return self._running[-1] if self._running else None

    # Steps

    def apply(self, step: Step) -> None:
        """Let a step happen."""
        self.log(f"--- {step}")
        match step:
            case Say():
                self._say(step)
            case Publish():
                self._publish()
            case Wait(seconds):
                self.advance(seconds)
            case At(number, after, what):
                if process := self.processes[number % len(self.processes)]:
                    process.arm(after, what)
            case Kill(number):
                self._bury(number % len(self.processes), self.processes[number % len(self.processes)])
            case Database(mode):
                self.database = mode
            case Outbox(mode):
                self.outbox = mode
            case Nsqd(number, mode):
                self._turn_nsqd(self.nsqds[number % len(self.nsqds)], mode)
            case SetClock(None, seconds):
                self.ahead_s += seconds
                self.back_s += max(0.0, -seconds)
            case SetClock(int(number), seconds):
                self.nsqds[number % len(self.nsqds)].ahead_s += seconds
            case Subscribe(user, mailbox):
                self.presence.subscribe(uri_of(user), MAILBOX if mailbox else DIALOG)

    def _turn_nsqd(self, nsqd: ModelNsqd, mode: str) -> None:
        if mode == "down":
            nsqd.stop()
        elif mode == "up":
            nsqd.thaw(self.now)
        elif nsqd.mode == "up":
            nsqd.mode = "frozen"

    def _say(self, step: Say) -> None:
        up = [nsqd for nsqd in self.nsqds if nsqd.mode == "up"]
        if not up:
            return  # nobody took it, and its producer knows
        self._sequence += 1
        body = b"junk" if step.what == "junk" else json.dumps(_fields(step, self._sequence)).encode()
        stored = self.put(up[step.nsqd % len(up)], EVENTS, body, step.delay_s)
        self.record.said.append(Said(step=step, sequence=self._sequence, stored=stored))

    def _publish(self) -> None:
        if self._worker is None:
            self._worker = Process(self, -1, self.settings, Random(self._hash("worker")))
        self._sequence += 1
        kept = len(self.kept)
        if self._worker.nsq_publish(PUBLISHED, {"Number": self._sequence}):
            self.record.accepted.append(self._sequence)
            if len(self.kept) > kept:
                self.record.kept.append(self._sequence)

    def heal(self) -> None:
        """Mend all that is broken, for good."""
        self.database = self.outbox = "works"
        for nsqd in self.nsqds:
            nsqd.thaw(self.now)
        for process in self.everybody():
            process.troubles.clear()
            process.refuses = process.fails = process.loses = False

    def counted(self, counter: Counter) -> int:
        """Return how often something was counted, in all processes, the worker too."""
        hosts = [process.host for process in (*self.everybody(), *self._workers())]
        return self.record.counters[counter] + sum(host.counters[counter] for host in hosts)

    def everybody(self) -> list[Process]:
        """Return the consumer processes that are alive."""
        return [process for process in self.processes if process is not None]

    def _workers(self) -> list[Process]:
        return [self._worker] if self._worker else []

    def close(self) -> None:
        """Close all files."""
        for process in (*self.everybody(), *self._workers()):
            process.end()
        self.presence.close()


def uri_of(user: int) -> str:
    """Return the URI of a presentity."""
    return f"sip:{USERS[user % len(USERS)]}@{DOMAIN}"


def _fields(step: Say, sequence: int) -> dict[str, object]:
    fields: dict[str, object] = {
        "Event-Category": "presence",
        "Event-Name": "reset" if step.what == "reset" else "update",
        "Sender-URI": f"sip:switch{step.sender}@{DOMAIN}",
        "From": uri_of(step.user),
        "Seq": sequence,
        "Stalls": step.stalls_s,
        "Fails": step.fails,
    }
    if step.what == "mailbox":
        return fields | {"Event-Package": MAILBOX, "Messages-New": step.thing, "Expires": LONG_S}
    return fields | {
        "Event-Package": DIALOG,
        "To": f"sip:{step.thing}@pstn.example.net",
        "Call-ID": f"c{step.thing}",
        "Direction": "initiator",
        "State": step.state,
        "Expires": SHORT_S if step.short else LONG_S,
    }


@lru_cache(maxsize=4096)
def _settings(folder: str, values: tuple[tuple[str, str], ...]) -> Settings:
    return settings(
        db_url=f"sqlite:///{folder}/{DATABASE}",
        outbox=f"{folder}/outbox",
        run_dir=folder,
        pua_lock="presence",
        dead_letter_topic=DEAD,
        nsqd_tcp_address="nsqd0:4150",
        pua_tombstone="3600",
        **dict(values),
    )
