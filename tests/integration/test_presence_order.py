# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever order, how often and through which consumer events come, the end is that of their history in order.

Each watcher's last NOTIFY shows that end, and none ever shows an older state than one before it.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from kemi_nsq.traffic import Delivery
from tests.support.histories import FORMS, ORDER_FIELD, Said, deliveries, expected, histories, shown_by
from tests.support.presence_consumers import FlakyStore, PresenceConsumer, Seen, ViewingHost, Views, again
from tests.support.stores import Database

#: The database is emptied before each example.
SUPPRESSED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
#: Examples are small, and a seed repeats each.
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]
WAIT_S = 30.0

Forms = st.sampled_from([None, None, *FORMS])


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


def consumers(
    stack: ExitStack, views: Views, form: str | None, count: int, chance: Chance | None = None
) -> list[PresenceConsumer]:
    values = {} if form is None else {"pua_order_field": ORDER_FIELD}
    made = []
    for _ in range(count):
        faults: Callable[[], str] = chance.commit_fault if chance else lambda: ""
        store = stack.enter_context(closing(FlakyStore(views.database, faults)))
        host = ViewingHost(views, chance.crash) if chance else ViewingHost(views)
        made.append(PresenceConsumer(host, store, **values))
    return made


def shuffled(messages: Sequence[Delivery], chance: random.Random) -> list[Delivery]:
    """Return every message at least once, some twice, in any order."""
    twice = chance.sample(messages, len(messages) // 3)
    return chance.sample([*messages, *twice], len(messages) + len(twice))


def run_in_turns(workers: Sequence[PresenceConsumer], waiting: list[Delivery], chance: Chance) -> None:
    """Let any consumer handle any batch, until nsqd has an answer for each message. FINs get lost, too."""
    while waiting:
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


def check(views: Views, history: Sequence[Said]) -> None:
    wanted = expected(history)
    stored = {key: views.stored(*key) for key in wanted}
    assert {key: shown_by(documents(seen)) for key, seen in stored.items()} == wanted
    assert len(views.database.rows()) == sum(map(len, wanted.values())), "rows of nobody"
    told = {key: documents(views.latest.get(key, {})) for key in wanted}
    assert told == {key: documents(seen) for key, seen in stored.items()}, "each last NOTIFY shows what is stored"
    assert views.went_back == []


def documents(seen: Seen) -> list[bytes]:
    return [body for _, (_, body) in sorted(seen.items())]


@examples(max_examples=60, deadline=None, suppress_health_check=SUPPRESSED, phases=PHASES)
@given(history=histories(), form=Forms, count=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_any_interleaving_duplication_and_failure_ends_in_the_state_of_the_history(
    database: Database, history: list[Said], form: str | None, count: int, seed: int
) -> None:
    """Commits fail, before or after all is stored; consumers die between commit and NOTIFY; FINs get lost."""
    database.clear()
    chance, views = Chance(random.Random(seed)), Views(database)
    with ExitStack() as stack:
        workers = consumers(stack, views, form, count, chance)
        run_in_turns(workers, shuffled(deliveries(history, form), chance.random), chance)
    check(views, history)


@examples(max_examples=30, deadline=None, suppress_health_check=SUPPRESSED, phases=PHASES)
@given(history=histories(), form=Forms, count=st.integers(2, 4), seed=st.integers(0, 2**32))
def test_consumers_at_the_same_time_end_in_the_state_of_the_history(
    database: Database, history: list[Said], form: str | None, count: int, seed: int
) -> None:
    database.clear()
    chance, views = random.Random(seed), Views(database)
    with ExitStack() as stack:
        workers = consumers(stack, views, form, count)
        run_at_once(workers, shuffled(deliveries(history, form), chance), chance)
    check(views, history)
