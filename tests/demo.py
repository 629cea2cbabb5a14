# SPDX-License-Identifier: GPL-2.0-or-later
"""`make demo`: a call, a mailbox and presence, from JSON on NSQ to a lamp on a phone, with real servers on loopback.

Exit code 0: every NOTIFY came and said the right thing, and Kamailio's log has no warning and no error. With KEEP=1 in
the environment all of it keeps running, and how to try each verb of `kemi-nsq` on it is printed.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from types import FrameType

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.support.chain import SHIPPED, TOPIC, Chain, JsonField, event
from tests.support.notify import LAMPS, Notify
from tests.support.subscription import Subscription
from tests.support.tour import ALICE, BOB, LIVE, ONCE, PROGRAM, Tour

USER = "alice"
#: The configuration that Kamailio runs.
BASE = SHIPPED / "kamailio.cfg"
CALL: Mapping[str, JsonField] = {"To": BOB, "Call_ID": "demo-call", "Direction": "inbound"}

#: What a lamp shows: a word, and its colour.
Lamp = tuple[str, str]
DIALOG_LAMPS: Mapping[str, Lamp] = {
    "early": ("ringing", "yellow"),
    "confirmed": ("in a call", "red"),
    "terminated": ("free", "green"),
}
PRESENCE_LAMPS: Mapping[str, Lamp] = {
    "Available": ("available", "green"),
    "Busy": ("busy", "red"),
    "Away": ("away", "yellow"),
    "Offline": ("offline", "bright_black"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One event, and what the NOTIFY that it causes must say.

    Attributes:
        what: what happens, in words.
        package: event package.
        fields: fields of the event.
        says: the expected `state_of` the NOTIFY.
    """

    what: str
    package: str
    fields: Mapping[str, JsonField]
    says: str


STEPS = (
    Step(what="Alice calls Bob", package="dialog", fields={**CALL, "State": "early"}, says="early"),
    Step(what="Bob answers", package="dialog", fields={**CALL, "State": "confirmed"}, says="confirmed"),
    Step(what="they hang up", package="dialog", fields={**CALL, "State": "terminated"}, says="terminated"),
    Step(what="two messages are left", package="message-summary", fields={"Messages_New": 2}, says="2 new, 0 old"),
    Step(
        what="Alice hears both",
        package="message-summary",
        fields={"Messages_New": 0, "Messages_Saved": 2},
        says="0 new, 2 old",
    ),
    Step(what="Alice is busy", package="presence", fields={"State": "busy"}, says="Busy"),
    Step(what="Alice goes home", package="presence", fields={"State": "offline"}, says="Offline"),
)


def state_of(notify: Notify) -> str:
    """Return in words what a NOTIFY says."""
    return _READERS[notify.event](notify)[0]


def lamp_of(notify: Notify) -> Lamp:
    """Return what a phone's lamp shows after a NOTIFY."""
    return _READERS[notify.event](notify)[1]


def _dialog(notify: Notify) -> tuple[str, Lamp]:
    state = next((each for each in DIALOG_LAMPS if each in notify.dialog_info.states), "terminated")
    return state, DIALOG_LAMPS[state]


def _mailbox(notify: Notify) -> tuple[str, Lamp]:
    summary = notify.message_summary
    new, old = (summary.voice.new, summary.voice.saved) if summary.voice else (0, 0)
    return f"{new} new, {old} old", ("message waiting", "red") if summary.waiting else ("no message", "green")


def _presence(notify: Notify) -> tuple[str, Lamp]:
    note = notify.pidf.note
    return note, PRESENCE_LAMPS.get(note, (note, "white"))


_READERS: Mapping[str, Callable[[Notify], tuple[str, Lamp]]] = {
    "dialog": _dialog,
    "message-summary": _mailbox,
    "presence": _presence,
}


class Demo:
    """The steps, one after the other, and what came of them.

    Args:
        chain: the servers.
        subscriptions: by event package, to Alice.
    """

    def __init__(self, chain: Chain, subscriptions: Mapping[str, Subscription]) -> None:
        self._chain = chain
        self._subscriptions = subscriptions
        self._version = 0
        self.delays_ms: list[float] = []
        self.problems: list[str] = []
        self.table = Table("event on NSQ", "Event-Package", "NOTIFY says", "version", "ms", "lamp", header_style="bold")
        for column in self.table.columns[3:5]:
            column.justify = "right"

    def run(self) -> None:
        """Do every step, each after the NOTIFY of the one before."""
        for step in STEPS:
            try:
                self._do(step)
            except AssertionError as error:
                self.problems.append(f"{step.what}: {error}")
                self.table.add_row(step.what, step.package, Text("no such NOTIFY", "bold red"))

    def _do(self, step: Step) -> None:
        subscription = self._subscriptions[step.package]
        before = len(subscription.notifies)
        published_at = time.monotonic()
        self._chain.publish(event(step.package, USER, **step.fields))
        notify = subscription.wait(lambda notify: state_of(notify) == step.says, what=step.says, after=before)
        self.delays_ms.append((notify.received_at - published_at) * 1000)
        version = self._check(step, notify)
        word, colour = lamp_of(notify)
        self.table.add_row(
            step.what,
            step.package,
            state_of(notify),
            version,
            f"{self.delays_ms[-1]:.1f}",
            Text(f"● {word}", colour),
        )

    def _check(self, step: Step, notify: Notify) -> str:
        """Check whom the document is about and that versions grow; return the version, if it has one."""
        about = {
            "dialog": lambda: notify.dialog_info.entity,
            "presence": lambda: notify.pidf.entity,
            "message-summary": lambda: notify.message_summary.account,
        }[step.package]()
        if about != ALICE:
            self.problems.append(f"{step.what}: the document is about {about}")
        if step.package != "dialog":
            return "-"
        version = notify.dialog_info.version
        if version <= self._version:
            self.problems.append(f"{step.what}: version {version} came after {self._version}")
        self._version = version
        return str(version)


def main() -> int:
    """Run the demo and return its exit code."""
    signal.signal(signal.SIGTERM, _end)
    # Without a terminal rich would cut lines at 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 110)
    try:
        with TemporaryDirectory(prefix="kemi-nsq-demo-") as folder:
            tour = Tour(Path(folder), BASE)
            with tour.chain:
                return _show(tour, console)
    except KeyboardInterrupt:
        console.print("ended")
        return 0


def _show(tour: Tour, console: Console) -> int:
    chain = tour.chain
    console.print(f"nsqd listens on {chain.nsqd.tcp_address}, Kamailio on udp:{_sip_address(chain)}", highlight=False)
    console.print(f"a watcher subscribes to {ALICE}: {', '.join(LAMPS)}\n", highlight=False)
    with chain.watcher() as watcher:
        subscriptions = {package: watcher.subscribe(ALICE, package) for package in LAMPS}
        for package, subscription in subscriptions.items():
            subscription.wait(lambda notify: True, what=f"the initial NOTIFY of {package}")
        demo = Demo(chain, subscriptions)
        demo.run()
        demo.problems += chain.complaints()
        console.print(demo.table)
        for problem in demo.problems:
            console.print(problem, style="red", markup=False, highlight=False)
        if demo.problems:
            console.print(chain.kamailio.log_text(), markup=False, highlight=False)
            return 1
        median_ms = statistics.median(demo.delays_ms)
        console.print(f"\nmedian from publish to NOTIFY: {median_ms:.1f} ms", highlight=False)
        if os.environ.get("KEEP", "") not in ("", "0"):
            _keep(tour, subscriptions, console)
    return 0


def _keep(tour: Tour, subscriptions: Mapping[str, Subscription], console: Console) -> None:
    """Say how to go on by hand, and show each NOTIFY, until Ctrl-C."""
    for line in _advice(tour):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    shown = {package: len(subscription.notifies) for package, subscription in subscriptions.items()}
    nobody_sets_this = Event()
    while not nobody_sets_this.wait(0.05):
        for package, subscription in subscriptions.items():
            for notify in subscription.notifies[shown[package] :]:
                shown[package] += 1
                word, colour = lamp_of(notify) if notify.body else ("unknown", "white")
                console.print(f"NOTIFY {package}: ", Text(f"● {word}", colour), sep="", highlight=False)


def _advice(tour: Tour) -> Iterator[str]:
    """Yield how to go on by hand: an event of a mailbox, each verb of the command, a phone."""
    chain, letter = tour.chain, tour.bury()
    fields = {"Event-Category": "presence", "Event-Name": "update", "From": ALICE}
    mailbox = json.dumps({**fields, "Event-Package": "message-summary", "Messages-New": 3})
    command = f"{_program()} --config {shlex.quote(str(tour.config))}"
    yield "\nAll keeps running until Ctrl-C. Publish by hand:\n"
    yield f"  curl -d '{mailbox}' 'http://{chain.nsqd.http_address}/pub?topic={TOPIC}'"
    for heading, verbs in ONCE.items():
        yield f"\n{heading}:\n"
        yield from (f"  {command} {words.replace('{letter}', letter)}" for words in verbs)
    yield "\nThese go on until Ctrl-C, each in a terminal of its own:\n"
    yield from (f"  {command} {words}" for words in LIVE)
    yield f"\nKamailio's log: {chain.kamailio.process.log_file}"
    yield f"\nA phone on this machine subscribes to {ALICE} with sip:{_sip_address(chain)} (UDP) as its outbound proxy,"
    yield "without a password.\n"


def _program() -> str:
    here = Path.cwd()
    return shlex.quote(str(PROGRAM.relative_to(here) if PROGRAM.is_relative_to(here) else PROGRAM))


def _sip_address(chain: Chain) -> str:
    host, port = chain.kamailio.sip_target
    return f"{host}:{port}"


def _end(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # SIGTERM ends the servers too


if __name__ == "__main__":
    sys.exit(main())
