# SPDX-License-Identifier: GPL-2.0-or-later
"""What a process shows of itself, for whoever looks from outside, also while it is stuck.

A page is a piece of memory with a fixed layout: a head, a slot for each counter, one for each gauge, a histogram for
each stage of an event's way, and a text for each fact. Inside Kamailio the memory is a file in the runtime folder
(`folder`), so that what was shown is there whatever becomes of the process; without Kamailio it is the process's own.

Several threads of one process write. Readers, in other processes, take no lock: a number is written at once, and a text
that changes while it is read may be a mixture of two. That is good enough for somebody who looks.
"""

from __future__ import annotations

import enum
import os
import struct
import threading
import zlib
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from mmap import mmap
from typing import NamedTuple, TypeAlias

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.counters import Counter, Named

#: What processes are for; one without a role is a SIP worker.
CONSUMER, RELAY = "consumer", "relay"
#: Bytes of a text, if its fact does not say otherwise.
_TEXT = 512
#: 256 message ids of 16 characters and a blank after each.
_IDS = 256 * 17


class Fact(enum.StrEnum):
    """What is shown besides the counters: one name each, and what it says. Empty where there is nothing to say."""

    meaning: str
    size: int

    def __new__(cls, name: str, meaning: str, size: int = _TEXT) -> Fact:
        """Make a member from its name, a sentence that says what it shows, and the bytes that it may have."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.meaning = meaning
        member.size = size
        return member

    HANDLING = "handling", "ids of the messages whose route runs, or that are being committed", _IDS
    DATABASE = "database", "since when the database fails, and why"
    DATABASE_FILE = "database_file", "that the SQLite database was deleted or replaced; until Kamailio is restarted"
    DEAD_LETTERS = "dead_letters_blocked", "since when no nsqd takes dead letters, and why"
    OUTBOX = "outbox", "since when what the outbox holds cannot be sent, and why; by the consumer that sends it"
    PAUSED = "paused", "topics that an operator has paused: nothing is taken from them until he resumes them"
    BACKOFF = "backoff", "topics whose routes fail for every event, and until when nothing, or one, is taken from them"
    RELAY = "relay", "since when nobody takes what the relay holds, and why"
    FAILED = "failed", "how often the loop of the process failed in a row, and why; until it has done something"
    DISCOVERY = "discovery", "nsqlookupd that do not answer, or name what is no nsqd"
    STRANGERS = "strangers", "who else reads the replies to queries, and where"
    CLOCKS = "clocks", "which clocks were set back or differ: those of nsqd, which put events in order, and ours", 1024
    DOING = "doing", "what the main thread does: the route of the messages that it is handling, say"
    STUCK = "stuck", "since when it has done that for too long (NSQ_ROUTE_TIMEOUT), and what"


class Gauge(Named):
    """A number that goes up and down: its name and what it says. Times are seconds since the epoch, 0 for never."""

    IN_FLIGHT = "in_flight", "messages that nsqd waits to have answered, of all connections"
    QUEUED = "queued", "messages that the main thread has not begun"
    QUEUED_BYTES = "queued_bytes", "bytes of the messages that it has not taken from the queue"
    LAST_EVENT = "last_event", "when the last message came"
    OUTBOX_MESSAGES = "outbox_messages", "messages that the outbox holds, as the consumer saw it that sends them"
    OUTBOX_BYTES = "outbox_bytes", "bytes of those"
    OUTBOX_OLDEST = "outbox_oldest", "when the oldest of them was put in"
    RELAY_MESSAGES = "relay_messages", "messages of nsq_publish_async that the relay holds"
    RELAY_BYTES = "relay_bytes", "bytes of those"
    MAIN_TURN = "main_turn", "when the main thread was done with all that it had, last"
    IO_TURN = "io_turn", "when the I/O thread turned last; it does twice a second"
    BUSY_SINCE = "busy_since", "since when the main thread does what the fact `doing` says; 0 while it waits"
    ROUTE_TIMEOUT = "route_timeout", "seconds after which that is too long: NSQ_ROUTE_TIMEOUT"


class Stage(Named):
    """A part of an event's way whose seconds are counted: its name and what it lasts from and to."""

    NSQ = "nsq", "from nsqd's timestamp to the begin of the route, by two clocks: the queues of nsqd and of ours"
    COMMIT = "commit", "one transaction that stores what the routes of one or more events have published"
    NOTIFY = "notify", "the presence module tells the watchers of one presentity"


#: Upper ends of the buckets of a histogram, in seconds; the last bucket has no end.
BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Doing(NamedTuple):
    """What the main thread does, since which monotonic second, and which second of the epoch that was."""

    since: float
    what: str
    wall: float = 0.0


class Took(NamedTuple):
    """What the main thread did, and how many seconds that took."""

    what: str
    seconds: float


class Latencies(NamedTuple):
    """How many seconds something took, each time.

    Attributes:
        counts: of each of `BUCKETS_S` and of all above them, not cumulated.
        total_s: the sum.
    """

    counts: Sequence[int]
    total_s: float


#: Where a page is: a file that others read, or memory of the process's own.
Memory: TypeAlias = mmap | bytearray

_MAGIC = b"kemi-nsq"
#: Magic, layout, process id, start of the process in clock ticks since the boot (proc(5), stat), role.
_HEAD = struct.Struct("=8sIIQ16s")
_ROLE_AT, _ROLE_SIZE = _HEAD.size - 16, 16
_CELL = 8


def _cells_of(names: type[enum.StrEnum], first: int) -> dict[str, int]:
    return {name: first + number for number, name in enumerate(names)}


# The head, a cell of 8 bytes for each counter, gauge and length of a text, the histograms, then the texts.
_COUNTERS = _cells_of(Counter, _HEAD.size // _CELL)
_GAUGES = _cells_of(Gauge, _HEAD.size // _CELL + len(Counter))
_BUSY = _GAUGES[Gauge.BUSY_SINCE]
_LENGTHS = _cells_of(Fact, _HEAD.size // _CELL + len(Counter) + len(Gauge))
# Of a histogram: a cell for each bucket, then one for the sum.
_HISTOGRAM_CELLS = len(BUCKETS_S) + 2
_FIRST_HISTOGRAM = _HEAD.size // _CELL + len([*Counter, *Gauge, *Fact])
_HISTOGRAMS = {stage: _FIRST_HISTOGRAM + _HISTOGRAM_CELLS * number for number, stage in enumerate(Stage)}
_FIRST_TEXT = _CELL * (_FIRST_HISTOGRAM + _HISTOGRAM_CELLS * len(Stage))
_ENDS = list(accumulate((fact.size for fact in Fact), initial=_FIRST_TEXT))
_TEXTS: dict[str, int] = dict(zip(Fact, _ENDS, strict=False))
_HANDLING_AT, _HANDLING_LENGTH = _TEXTS[Fact.HANDLING], _LENGTHS[Fact.HANDLING]
#: The least that NSQ_ROUTE_TIMEOUT may be.
_LONG_S = 1.0
#: So many of the messages are named where what is done is described.
_NAMED = 3
#: Bytes of a page.
SIZE = -(-_ENDS[-1] // _CELL) * _CELL
#: Another release may have other names; whoever reads a page that was written by one must see that.
_NAMES = "".join(f"{name} " for names in (Counter, Gauge, Stage, Fact) for name in names)
LAYOUT = zlib.crc32(f"2 {SIZE} {_NAMES}".encode())


def described(what: str, handling: str) -> str:
    """Describe what a main thread does.

    Args:
        what: the fact DOING.
        handling: the fact HANDLING.
    """
    ids = handling.split()
    named = " ".join(ids[:_NAMED])
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return f"{what}, message {named}{more}" if ids else what


def prepare(memory: Memory, pid: int, started: int) -> None:
    """Write the head of an empty page: for which process it is."""
    _HEAD.pack_into(memory, 0, _MAGIC, LAYOUT, pid, started, b"")


def _own_memory(pid: int) -> Memory:
    memory = bytearray(SIZE)
    prepare(memory, pid, 0)
    return memory


class Page:
    """The page of the process that uses it: after a fork, the first use makes a new one. Any thread may write.

    Args:
        make: returns the memory for a process id. It must not raise: what is shown must never be what fails.
        clock: tells the time.

    Attributes:
        doing: what the main thread does now, for the other threads of this process.
        long: what took it so long that other threads may have been kept from running, last.
        memory: where it is, from the first use on; `read` reads it.
    """

    def __init__(self, make: Callable[[int], Memory] = _own_memory, clock: Clock = SYSTEM) -> None:
        self._make = make
        self._monotonic, self._wall = clock.monotonic, clock.wall
        self._lock = threading.Lock()
        self._pid = 0
        self._what = ""
        self.doing: Doing | None = None
        self.long = Took("", 0.0)
        self.memory: Memory
        self._integers: memoryview
        self._floats: memoryview[float]

    def count(self, counter: Counter, number: int = 1) -> None:
        """Add to a counter."""
        if os.getpid() != self._pid:
            self._turn_over()
        with self._lock:  # two threads may add at once
            self._integers[_COUNTERS[counter]] += number

    def set(self, gauge: Gauge, value: float) -> None:
        """Show a number."""
        if os.getpid() != self._pid:
            self._turn_over()
        self._floats[_GAUGES[gauge]] = value

    def observe(self, stage: Stage, seconds: float) -> None:
        """Count how long a stage took; for the main thread alone."""
        if os.getpid() != self._pid:
            self._turn_over()
        first = _HISTOGRAMS[stage]
        self._integers[first + bisect_left(BUCKETS_S, seconds)] += 1
        self._floats[first + _HISTOGRAM_CELLS - 1] += seconds

    def show(self, fact: Fact, text: str) -> None:
        """Show a fact, from any thread; '' takes it back. What is too long for it is cut."""
        if os.getpid() != self._pid:
            self._turn_over()
        data = text.encode("utf-8", "replace")
        if len(data) > fact.size:
            data = data[: fact.size].decode("utf-8", "ignore").encode()
        start = _TEXTS[fact]
        self.memory[start : start + len(data)] = data
        self._integers[_LENGTHS[fact]] = len(data)

    def shown(self, fact: Fact) -> str:
        """Return what is shown."""
        if os.getpid() != self._pid:
            self._turn_over()
        return _text(self.memory, fact)

    def handle(self, message_id: bytes) -> None:
        """Show the message whose route is about to run: what `show` does for HANDLING, in a third of its time."""
        if not self._pid:
            self._turn_over()
        self.memory[_HANDLING_AT : _HANDLING_AT + len(message_id)] = message_id
        self._integers[_HANDLING_LENGTH] = len(message_id)

    def begin(self, what: str) -> None:
        """Say what the main thread does from now on; the fact HANDLING says with which messages."""
        self.turn()
        wall = self._wall()
        self.doing = Doing(self._monotonic(), what, wall)
        if what is not self._what:  # nearly always the route that ran before
            self._what = what
            self.show(Fact.DOING, what)
        self._floats[_BUSY] = wall

    @property
    def last(self) -> str:
        """What the main thread does, or did last."""
        return self._what

    def described(self, doing: Doing) -> str:
        """Say what the main thread does, and with which messages."""
        return described(doing.what, self.shown(Fact.HANDLING))

    def turn(self) -> None:
        """Say that the main thread goes on to the next."""
        if self.doing is not None:
            took_s = self._monotonic() - self.doing.since
            if took_s >= _LONG_S:
                self.long = Took(self.doing.what, took_s)
            self.doing = None

    def wait(self) -> None:
        """Say that the main thread waits for something to do."""
        self.turn()
        self.set(Gauge.MAIN_TURN, self._wall())
        self._floats[_BUSY] = 0.0

    def role(self, name: str) -> None:
        """Say what the process is for."""
        if os.getpid() != self._pid:
            self._turn_over()
        struct.pack_into(f"{_ROLE_SIZE}s", self.memory, _ROLE_AT, name.encode())

    def move(self) -> None:
        """Go on in new memory, with all that is shown: where the old one was, nobody looks any more."""
        with self._lock:
            if os.getpid() == self._pid:
                shown = bytes(self.memory)
                self._begin(self._pid)
                self.memory[:] = shown

    def _turn_over(self) -> None:
        """Begin the page of this process; Kamailio forks without telling Python."""
        with self._lock:
            pid = os.getpid()
            if pid != self._pid:
                self._begin(pid)
                self._what = ""
                self._pid = pid  # last: another thread may use the page as soon as it sees this

    def _begin(self, pid: int) -> None:
        self.memory = self._make(pid)
        whole = memoryview(self.memory)
        self._integers, self._floats = whole.cast("Q"), whole.cast("d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A page as it was read.

    Attributes:
        pid: the process.
        started: its start, in clock ticks since the boot; with the pid it names one process for ever.
        role: what it is for, or ''.
        counters: those that are not 0.
        gauges: all of them.
        stages: how long each stage took.
        facts: those that are not empty.
    """

    pid: int
    started: int
    role: str
    counters: Mapping[Counter, int]
    gauges: Mapping[Gauge, float]
    stages: Mapping[Stage, Latencies]
    facts: Mapping[Fact, str]


def read(data: bytes) -> Sheet | None:
    """Read a page; None if it is none, or was written by a release with another layout."""
    if len(data) != SIZE:
        return None
    magic, layout, pid, started, role = _HEAD.unpack_from(data)
    if (magic, layout) != (_MAGIC, LAYOUT):
        return None
    integers, floats = memoryview(data).cast("Q"), memoryview(data).cast("d")
    return Sheet(
        pid=pid,
        started=started,
        role=role.rstrip(b"\0").decode("ascii", "replace"),
        counters={each: count for each in Counter if (count := integers[_COUNTERS[each]])},
        gauges={each: floats[_GAUGES[each]] for each in Gauge},
        stages={each: _latencies(integers, floats, _HISTOGRAMS[each]) for each in Stage},
        facts={each: text for each in Fact if (text := _text(data, each))},
    )


def _latencies(integers: memoryview, floats: memoryview[float], first: int) -> Latencies:
    last = first + _HISTOGRAM_CELLS - 1
    return Latencies(integers[first:last].tolist(), floats[last])


def _text(data: Memory | bytes, fact: Fact) -> str:
    (length,) = struct.unpack_from("=Q", data, _LENGTHS[fact] * _CELL)
    start = _TEXTS[fact]
    return bytes(data[start : start + min(length, fact.size)]).decode("utf-8", "replace")
