# SPDX-License-Identifier: GPL-2.0-or-later
"""nsqd and Kamailio, to which things happen, one in each step; and a terminal beside them."""

from __future__ import annotations

import itertools
import math
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.screens.steady import STEP_S, zone
from tests.support.chain import TOPIC, JsonField, event
from tests.support.kamailio import Kamailio
from tests.support.nsqd import Nsqd
from tests.support.terminal import Terminal
from tests.support.tour import ALICE, BOB, PROGRAM, Tour
from tests.support.until import until
from tests.support.watcher import Watcher

#: Of the terminal: what is longer than it is high would be cut.
WIDTH, HEIGHT = 100, 150
NODE = "sip1"
_PATIENCE_S = 20.0
_CALL: Mapping[str, JsonField] = {"To": BOB, "Call_ID": "4f2a", "Direction": "inbound"}


class Scene:
    """Servers that run, and what happens to them.

    Args:
        tour: the servers.
        watcher: the phone with a lamp for Alice.
        terminal: where verbs are typed.

    Attributes:
        began_s: epoch second of the first step.
        begun: numbers of the steps that have begun.
        bad_id: the message that became a dead letter; '' before.
    """

    def __init__(self, tour: Tour, watcher: Watcher, terminal: Terminal) -> None:
        self._tour, self._watcher, self._terminal = tour, watcher, terminal
        self._typed = itertools.count(1)
        self.began_s = float(int(time.time()) + 1)
        self.begun: list[int] = []
        self.bad_id = ""

    @property
    def nsqd(self) -> Nsqd:
        """The nsqd."""
        return self._tour.chain.nsqd

    @property
    def kamailio(self) -> Kamailio:
        """The Kamailio."""
        return self._tour.chain.kamailio

    def names(self) -> dict[str, str]:
        """Return the addresses and folders of this scene, to those of a machine that is like others.

        The port of the phone stands in tables, which may fold an address, and is as long as what stands for it.
        """
        return {
            self.nsqd.tcp_address: "127.0.0.1:4150",
            self.nsqd.http_address: "127.0.0.1:4151",
            f":{self._watcher.target[1]}": ":35060",
            str(self._tour.run_folder): "/run/kamailio/kemi-nsq",
        }

    def step(self) -> None:
        """Wait for the next step that has not begun yet."""
        number = math.ceil((time.time() - self.began_s) / STEP_S)
        begins = self.began_s + number * STEP_S
        self.begun.append(number)
        until(lambda: time.time() >= begins, timeout_s=2 * STEP_S, what="the next step")

    def happen(self) -> None:
        """Have Alice and Bob telephone: the page docs/ask-why.md tells what, and what came of it."""
        chain = self._tour.chain
        self.step()
        lamp = self._watcher.subscribe(ALICE, "dialog")
        lamp.wait(lambda _: True, what="the first NOTIFY")
        self.step()
        early = event("dialog", "alice", **_CALL, State="early")
        self.nsqd.http("POST", "/pub", body=early, topic=TOPIC, defer=str(2 * STEP_S * 1000))
        self.step()
        chain.publish(event("dialog", "alice", **_CALL, State="confirmed"))
        self.step()
        until(lambda: chain.counter("pua_stale"), timeout_s=_PATIENCE_S, what="the late one")
        for body in (
            event("dialog", "alice", **{**_CALL, "Call_ID": "77c1"}, State="terminated"),
            event("presence", "bob", State="busy"),
            event("message-summary", "bob", Messages_New=2, Messages_Saved=5),
        ):
            self.step()
            chain.publish(body)
            chain.drain()
        until(lambda: "no: over:" in self.run(f"presence explain {ALICE}"), timeout_s=_PATIENCE_S, what="its end")

    def bury(self) -> None:
        """Publish what becomes a dead letter."""
        self.step()
        self.bad_id = self._tour.bury()

    def wait_in_nsqd(self) -> None:
        """Publish while the topic is paused."""
        self.step()
        for state in ("early", "confirmed"):
            self._tour.chain.publish(event("dialog", "carol", **{**_CALL, "Call_ID": "c0de"}, State=state))
        until(lambda: self.nsqd.channel(TOPIC, TOPIC).depth == 2, what="both to wait")

    def handle(self) -> None:
        """Wait until all is handled that waits."""
        self._tour.chain.drain()

    def say(self) -> None:
        """Publish an event as soon as somebody looks at the topic."""
        until(lambda: len(self.nsqd.topic(TOPIC)["channels"]) > 1, timeout_s=_PATIENCE_S, what="who looks")
        self.step()
        self._tour.chain.publish(event("presence", "bob", State="away"))

    def begin(self, words: str) -> str:
        """Type a verb into an empty terminal; return what will stand in it at its end."""
        mark = f"end-{next(self._typed)}-"
        command = f"{shlex.quote(str(PROGRAM))} --config {shlex.quote(str(self._tour.config))} {words}"
        self._terminal.type(f"clear; TZ={zone(self.began_s)} {command}; echo {mark}$?")
        return mark

    def end(self, mark: str) -> str:
        """Return what a verb has shown, when it has ended."""
        pattern = re.compile(rf"^{mark}\d+$", re.MULTILINE)
        found = until(lambda: pattern.search(self._terminal.screen()), timeout_s=_PATIENCE_S, what=f"the end, {mark}")
        return found.string[: found.start()]

    def run(self, words: str) -> str:
        """Return what a verb shows."""
        return self.end(self.begin(words))

    def live(self, words: str, pattern: str) -> str:
        """Return what a verb shows that goes on until Ctrl-C, as soon as it is this."""
        mark = self.begin(words)
        found = until(
            lambda: re.search(pattern, self._terminal.screen()), timeout_s=_PATIENCE_S, what=f"{pattern} on the screen"
        )
        self._terminal.interrupt()
        self.end(mark)
        return found.string


@contextmanager
def scene() -> Iterator[Scene]:
    """Run the servers, and a terminal."""
    with TemporaryDirectory(prefix="kemi-nsq-screens-") as name:
        folder = Path(name)
        tour = Tour(folder, NSQ_NODE=NODE)
        with tour.chain as chain, Terminal(folder, width=WIDTH, height=HEIGHT) as terminal, chain.watcher() as watcher:
            until(lambda: chain.counter("connected") == 3, timeout_s=_PATIENCE_S, what="the consumer")
            yield Scene(tour, watcher, terminal)
