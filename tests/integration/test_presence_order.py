# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever order, how often and through which consumer events come, the end is that of their history in order.

Each watcher's last NOTIFY shows that end, and none ever shows an older state than one before it. A call that is over
was told once and leaves the document; while calls end, are hidden and shown, late events come, commits fail and
processes die.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from kemi_nsq.consumer.message import Delivery
from kemi_nsq.presence import expiry as upkeep
from kemi_nsq.presence import pacing
from tests.support.deliveries import again
from tests.support.histories import FORMS, ORDER_FIELD, Key, Said, deliveries, expected, histories, shown_by
from tests.support.presence_consumers import FlakyStore, PresenceConsumer, Seen, ViewingHost, Views
from tests.support.tables import Database

#: The database is emptied before each example.
SUPPRESSED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
#: Examples are small, and a seed repeats each.
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]
WAIT_S = 30.0


class Setup(NamedTuple):
    """Consumers of one table.

    Attributes:
        form: how producers write the position of an event (`histories.FORMS`); None for nsqd's timestamp.
        workers: how many consumers.
        limit: NSQ_PUA_MAX_DIALOGS; 0 for no limit.
    """

    form: str | None
    workers: int
    limit: int


FORMS_OR_NONE = st.sampled_from([None, None, *FORMS])
LIMITS = st.sampled_from([0, 0, 1, 2])


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let calls that are over leave as soon as somebody looks, so that late events race with that."""
    monkeypatch.setattr(pacing, "AFTER_S", 0.0)
    monkeypatch.setattr(upkeep, "LINGER_S", 0)


@dataclass
class Chance:
    """Lets things go wrong, at random, but not for ever."""

    random: random.Random
    faults_left: int = field(default=12)

    def strikes(self, one_in: int) -> bool:
        if self.faults_left and not self.random.randrange(one_in):
            self.faults_left -= 1
            return True
        return False

    def commit_fault(self) -> str:
        return self.random.choice(["before", "after"]) if self.strikes(4) else ""

    def crash(self) -> bool:
        return self.strikes(8)


def consumers(stack: ExitStack, views: Views, setup: Setup, chance: Chance | None = None) -> list[PresenceConsumer]:
    values = {} if setup.form is None else {"pua_order_field": ORDER_FIELD}
    made = []
    for _ in range(setup.workers):
        faults: Callable[[], str] = chance.commit_fault if chance else lambda: ""
        table = stack.enter_context(closing(FlakyStore(views.database, faults, setup.limit)))
        host = ViewingHost(views, chance.crash) if chance else ViewingHost(views)
        made.append(PresenceConsumer(host, table, **values))
    return made


def shuffled(messages: Sequence[Delivery], chance: random.Random) -> list[Delivery]:
    """Return every message at least once, some twice, in any order."""
    twice = chance.sample(messages, len(messages) // 3)
    return chance.sample([*messages, *twice], len(messages) + len(twice))


def run_in_turns(workers: Sequence[PresenceConsumer], waiting: list[Delivery], chance: Chance) -> None:
    """Let any consumer handle any batch, until nsqd has an answer for each message. FINs get lost, too."""
    while waiting:
        if chance.random.randrange(2):
            chance.random.choice(workers).tick()
        batch = [waiting.pop() for _ in range(min(len(waiting), chance.random.randint(1, 7)))]
        answered = chance.random.choice(workers).handle(batch)
        lost = [again(each) for each in answered.finished if chance.strikes(10)]
        for each in answered.requeued + lost:
            waiting.insert(chance.random.randint(0, len(waiting)), each)


def run_at_once(workers: Sequence[PresenceConsumer], waiting: list[Delivery], chance: random.Random) -> None:
    """Let all consumers handle what they get, at the same time."""
    failures: list[BaseException] = []

    def work(worker: PresenceConsumer, left: list[Delivery], sizes: random.Random) -> None:
        try:
            while left:
                left += worker.handle([left.pop() for _ in range(min(len(left), sizes.randint(1, 7)))]).requeued
                if sizes.randrange(2):
                    worker.tick()
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=work, args=(worker, waiting[index :: len(workers)], random.Random(chance.random())))
        for index, worker in enumerate(workers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert failures == []


def check(views: Views, history: Sequence[Said], workers: Sequence[PresenceConsumer], limit: int) -> None:
    """Compare the table and the last NOTIFYs with the end of the history, when nothing goes wrong any more."""
    for worker in workers:
        worker.expiry.sweep()
    wanted = {key: [each for each in shown if not is_over(each)] for key, shown in expected(history).items()}
    stored = {key: shown_by(documents(views.stored(*key))) for key in wanted}
    told = {key: shown_by(documents(views.latest.get(key, {}))) for key in wanted}
    assert {key: [each for each in shown if not is_over(each)] for key, shown in told.items()} == stored
    if limit:
        assert all(set(shown) <= set(wanted[key]) for key, shown in stored.items())
        assert {key: len(shown) for key, shown in stored.items() if len(shown) < room(key, wanted[key], limit)} == {}
    else:
        assert stored == wanted
    assert len(views.database.rows()) == sum(map(len, expected(history).values())), "rows of nobody"
    assert views.went_back == []


def is_over(shown: tuple[str, ...]) -> bool:
    return shown[-1] == "terminated"


def room(key: Key, shown: Sequence[tuple[str, ...]], limit: int) -> int:
    """Return how many of the documents of a presentity are shown at least."""
    return min(limit, len(shown)) if key[1] == "dialog" else len(shown)


def documents(seen: Seen) -> list[bytes]:
    return [body for _, (_, body) in sorted(seen.items())]


@examples(max_examples=60, deadline=None, suppress_health_check=SUPPRESSED, phases=PHASES)
@given(
    history=histories(),
    setup=st.builds(Setup, form=FORMS_OR_NONE, workers=st.integers(1, 4), limit=LIMITS),
    seed=st.integers(0, 2**32),
)
def test_any_interleaving_duplication_and_failure_ends_in_the_state_of_the_history(
    database: Database, history: list[Said], setup: Setup, seed: int
) -> None:
    """Commits fail, before or after all is stored; consumers die between commit and NOTIFY; FINs get lost."""
    database.clear()
    chance, views = Chance(random.Random(seed)), Views(database, setup.limit)
    with ExitStack() as stack:
        workers = consumers(stack, views, setup, chance)
        run_in_turns(workers, shuffled(deliveries(history, setup.form), chance.random), chance)
        chance.faults_left = 0
        check(views, history, workers, setup.limit)


@examples(max_examples=30, deadline=None, suppress_health_check=SUPPRESSED, phases=PHASES)
@given(
    history=histories(),
    setup=st.builds(Setup, form=FORMS_OR_NONE, workers=st.integers(2, 4), limit=LIMITS),
    seed=st.integers(0, 2**32),
)
def test_consumers_at_the_same_time_end_in_the_state_of_the_history(
    database: Database, history: list[Said], setup: Setup, seed: int
) -> None:
    database.clear()
    chance, views = random.Random(seed), Views(database, setup.limit)
    with ExitStack() as stack:
        workers = consumers(stack, views, setup)
        run_at_once(workers, shuffled(deliveries(history, setup.form), chance), chance)
        check(views, history, workers, setup.limit)
