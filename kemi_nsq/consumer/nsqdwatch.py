# SPDX-License-Identifier: GPL-2.0-or-later
"""The thread that asks each nsqd now and then who reads the replies to our queries, and what its clock shows.

Who may read them is judged in `queries.readers`, the clocks in `presence.clocks`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from kemi_nsq.background import Background
from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.consumer.message import Item
from kemi_nsq.counters import Counter
from kemi_nsq.errors import DeadlineExceeded, TransientError
from kemi_nsq.host import Level, Report
from kemi_nsq.names import Address, Subscription
from kemi_nsq.nsq import httpapi, nodes, stats
from kemi_nsq.nsq.stats import Reader
from kemi_nsq.presence.clocks import Clocks, Reading
from kemi_nsq.queries.readers import ReplyReaders
from kemi_nsq.runtime.page import Fact, Page
from kemi_nsq.settings import Settings

#: Seconds between two looks, and that one answer may take.
LOOK_INTERVAL_S = 10.0
HTTP_TIMEOUT_S = 2.0
#: nsqd that are asked, however many nsqlookupd knows; and how many at once.
MOST_NSQD, SIDE_BY_SIDE = 64, 16
_ADVICE = (
    "replies may go there and be missing here. If that is another Kamailio, give it another NSQ_NODE; if not, keep "
    "strangers away from nsqd"
)
Answer = TypeVar("Answer")


class _Seen(NamedTuple):
    """What one nsqd says; the reading is None where its answer had no `Date`."""

    readers: Sequence[Reader]
    reading: Reading | None


class NsqdWatch(Background):
    """Notices a stranger that reads our replies, and clocks that are wrong: one line, a counter, a fact in the page.

    Args:
        settings: NSQ_LOOKUPD_ADDRESS, which knows the HTTP addresses of nsqd, or else NSQ_NSQD_ADDRESS.
        subscription: the reply topic and channel.
        client_id: what we call ourselves there.
        clocks: judges the clocks; None where nobody needs to.
        page: where it is shown.
        emit: takes what the main thread should log.
        clock: tells the time.
    """

    def __init__(  # noqa: PLR0913  # the supervisor passes each part in
        self,
        settings: Settings,
        subscription: Subscription,
        client_id: str,
        *,
        clocks: Clocks | None,
        page: Page,
        emit: Callable[[Item], None],
        clock: Clock = SYSTEM,
    ) -> None:
        super().__init__("nsq-watch", emit)
        self._lookupds = settings.lookupd_address
        self._named = settings.nsqd_address
        self._topic = subscription.topic
        self._readers = ReplyReaders(subscription, client_id)
        self._clocks = clocks
        self._page = page
        self._emit = emit
        self._clock = clock
        self._listed: dict[Address, list[Address]] = {}
        self._problems: dict[Address, str] = {}
        self._shown = ""

    def _work(self) -> None:
        while not self._stopping.wait(LOOK_INTERVAL_S * (0.8 + 0.4 * self._clock.chance())):
            self._look()

    def _end(self) -> None:
        self._page.show(Fact.STRANGERS, "")
        self._page.show(Fact.CLOCKS, "")

    def _look(self) -> None:
        problems: dict[Address, str] = {}
        nsqds = self._nsqds(problems)
        found = self._ask("nsqd", nsqds, self._look_at, problems)
        if self._stopping.is_set():
            return
        readers = {nsqd: each.readers for nsqd, each in found.items()}
        self._show_strangers(self._readers.look(set(nsqds), readers, self._clock.monotonic()))
        if self._clocks is not None:
            readings = {nsqd: each.reading for nsqd, each in found.items() if each.reading}
            self._show_clocks(*self._clocks.look(set(nsqds), readings, self._our_reading()))
        nobody = "nobody looks who else reads replies" + (", nor at clocks" if self._clocks else "")
        for server in sorted(problems.keys() - self._problems.keys()):
            self._emit(Report(level=Level.INFO, text=f"{nobody}: {problems[server]}"))
        self._problems = problems

    def _our_reading(self) -> Reading:
        """Look at our own clock; in between, the main thread may keep Python's lock for long."""
        before, wall, after = self._clock.monotonic(), self._clock.wall(), self._clock.monotonic()
        return Reading(wall, before, after, cut_s=0.0)

    def _nsqds(self, problems: dict[Address, str]) -> Sequence[Address]:
        """Return where to ask. A nsqlookupd that is down must not make us forget the nsqd that only it knew."""
        if not self._lookupds:
            return self._named[:MOST_NSQD]
        self._listed |= self._ask("nsqlookupd", self._lookupds, _nodes_of, problems)
        return nodes.in_turns(self._listed.values(), most=MOST_NSQD)

    def _ask(
        self, what: str, servers: Sequence[Address], ask: Callable[[Address], Answer], problems: dict[Address, str]
    ) -> dict[Address, Answer]:
        """Ask servers side by side, and return what those said that answered; `problems` has the others."""
        answers = {}
        with ThreadPoolExecutor(SIDE_BY_SIDE, thread_name_prefix="nsq-watch") as pool:
            for server, asked in {server: pool.submit(ask, server) for server in servers}.items():
                try:
                    answers[server] = asked.result()
                except TransientError as error:
                    problems[server] = f"{what} {error}"
        return answers

    def _look_at(self, nsqd: Address) -> _Seen:
        if self._stopping.is_set():
            raise DeadlineExceeded("stopped")
        asked_at = self._clock.monotonic()
        found = stats.ask(nsqd, self._topic, timeout_s=HTTP_TIMEOUT_S)
        answered_at = self._clock.monotonic()
        return _Seen(found.readers, None if found.date is None else Reading(found.date, asked_at, answered_at))

    def _show_clocks(self, news: Sequence[Report], wrong: str) -> None:
        self._page.show(Fact.CLOCKS, wrong)
        for report in news:
            self._emit(report)

    def _show_strangers(self, strangers: str) -> None:
        self._page.show(Fact.STRANGERS, strangers)
        if strangers and not self._shown:
            text = f"{strangers}: {_ADVICE}"
            self._emit(Report(level=Level.ERROR, text=text, counter=Counter.REPLY_STRANGERS))
        elif self._shown and not strangers:
            self._emit(Report(level=Level.WARNING, text=f"nobody else reads {self._topic} any more"))
        self._shown = strangers


def _nodes_of(lookupd: Address) -> list[Address]:
    """Return the HTTP addresses that a nsqlookupd names. Of what is none the connector tells."""
    answer = httpapi.get(lookupd, nodes.PATH, timeout_s=HTTP_TIMEOUT_S)
    return nodes.read(answer.body, lookupd, "http_port").addresses[:MOST_NSQD]
