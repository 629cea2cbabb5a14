# SPDX-License-Identifier: GPL-2.0-or-later
"""Scenarios: what happens in a world, in order. All that is left to chance is decided here, by the seed.

A step says what happens without reference to other steps, and numbers are taken modulo what there is: so any part of a
scenario is a scenario, which `shrink` needs. Printed, a scenario is the Python text that makes it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import NamedTuple, TypeAlias

#: Lifetimes of states: one that is over at rest, whatever happens, and one that is not.
SHORT_S, LONG_S = 8, 1_000_000
#: A route that raises so often never succeeds.
ALWAYS = 1000
#: The presentities.
USERS = ("alice", "bob", "queue")
STATES = ("early", "confirmed", "terminated")
#: How many worlds have few calls, and how many calls the others have.
_FEW, _VERY_MANY = 0.995, 200
#: What a process may meet at one of its points: see `process.Process.point`.
TROUBLES = ("crash", "refuse", "pause", "error", "lost")


class Say(NamedTuple):
    """A producer publishes an event to an nsqd.

    Attributes:
        what: `call`, `mailbox`, `reset` (all of its sender's states are over) or `junk`, which is no JSON.
        nsqd: where to; the first that is up from there on.
        user: whose call or mailbox.
        thing: which call; of a mailbox, how many messages it has.
        state: of the call.
        sender: which producer.
        short: it lives for `SHORT_S`.
        fails: so often its route raises.
        stalls_s: so long its route takes.
        delay_s: nsqd holds it back.
    """

    what: str
    nsqd: int = 0
    user: int = 0
    thing: int = 0
    state: str = "early"
    sender: int = 0
    short: bool = False
    fails: int = 0
    stalls_s: float = 0.0
    delay_s: float = 0.0


class Publish(NamedTuple):
    """A SIP worker calls nsq_publish."""

    number: int


class Wait(NamedTuple):
    """Time passes."""

    seconds: float


class At(NamedTuple):
    """The main thread of a process meets a trouble, `after` so many points from now."""

    process: int
    after: int
    what: str


class Kill(NamedTuple):
    """A process dies between two turns."""

    process: int


class Database(NamedTuple):
    """The database `works`, `fails` at once, or is `frozen`."""

    mode: str


class Outbox(NamedTuple):
    """The outbox's file `works`, or cannot be written: it `fails`."""

    mode: str


class Nsqd(NamedTuple):
    """An nsqd is `up`, `down`, or `frozen`."""

    number: int
    mode: str


class SetClock(NamedTuple):
    """The clock of an nsqd is set forward, or back; with None that of the host of all processes."""

    number: int | None
    seconds: float


class Subscribe(NamedTuple):
    """A watcher subscribes to a user's calls, or to the mailbox."""

    user: int
    mailbox: bool = False


Step: TypeAlias = Say | Publish | Wait | At | Kill | Database | Outbox | Nsqd | SetClock | Subscribe


class Scenario(NamedTuple):
    """A world, and what happens in it.

    Attributes:
        seed: decides what the steps leave open: who is handed a message first, how long somebody waits.
        consumers: processes.
        clocks: seconds by which the clock of each nsqd is ahead.
        settings: those that are not the default: `{"batch": "1"}`.
        steps: what happens.
    """

    seed: int
    consumers: int
    clocks: Sequence[float]
    settings: Mapping[str, str]
    steps: Sequence[Step]


def scenario(seed: int) -> Scenario:
    """Make the scenario of a seed."""
    dice = Random(seed)
    settings = {
        "batch": dice.choice(("1", "3", "100")),
        "max_in_flight": dice.choice(("1", "5", "50")),
        "max_attempts": "3",
        "pua_max_dialogs": dice.choice(("0", "1", "2", "3", "50")),
        "notify_interval": dice.choice(("0", "1.5")),
        "pua_watchers_table": dice.choice(("", "active_watchers")),
        "pua_order_field": dice.choice(("", "", "", "Seq")),
        "route_timeout": dice.choice(("30", "2")),
        "msg_timeout": dice.choice(("10", "3")),
        "db_timeout": dice.choice(("5", "1")),
    }
    clocks = [0.0] + [dice.choice((0.0, 0.7, -2.0, 30.0)) for _ in range(dice.choice((0, 0, 1, 2)))]
    steps = _steps(dice)
    return Scenario(seed, dice.choice((1, 1, 2, 2, 3, 4)), clocks, settings, steps)


def _steps(dice: Random) -> list[Step]:
    calls = dice.choice((1, 2, 2, 4, 4, 8, 20)) if dice.random() < _FEW else _VERY_MANY
    queues = [_call(dice, number) for number in range(calls)]
    queues += [[_other(dice)] for _ in range(dice.choice((0, 2, 5)))]
    queues += [_outbox_day(dice) for _ in range(dice.choice((0, 0, 0, 1)))]
    queues += [_trouble(dice) for _ in range(dice.choice((0, 1, 2, 4, 10)))]
    patience = dice.choice((0.1, 0.3, 0.7))
    steps: list[Step] = [Subscribe(user, mailbox) for user in range(len(USERS)) for mailbox in (False, True)]
    dice.shuffle(steps)
    queues += [[step] for step in steps[dice.randint(0, len(steps)) :]]
    del steps[len(steps) // 2 :]
    while queues:
        queue = dice.choice(queues)
        steps.append(queue.pop(0))
        if not queue:
            queues.remove(queue)
        if dice.random() < patience:
            steps.append(Wait(dice.choice((0.01, 0.1, 0.3, 0.6, 1.0, 2.0, 6.0))))
    return steps


def _call(dice: Random, number: int) -> list[Step]:
    """The events of one call, mostly in order; some twice, through another nsqd."""
    user, sender, short = dice.randrange(len(USERS)), dice.randrange(2), dice.random() < 0.3
    states = dice.choice((STATES, STATES, STATES[1:], STATES[:2], ("confirmed",), ("early", "terminated", "early")))
    said: list[Step] = []
    for state in states:
        event = Say(
            "call", dice.randrange(3), user, number, state, sender, short, stalls_s=dice.choice((0.0,) * 9 + (4.0,))
        )
        if dice.random() < 0.1:
            event = event._replace(fails=dice.choice((1, 2, ALWAYS)))
        if dice.random() < 0.1:
            event = event._replace(delay_s=dice.choice((0.5, 5.0)))
        said.append(event)
        if dice.random() < 0.15:
            said.append(event._replace(nsqd=dice.randrange(3)))
    return said


def _other(dice: Random) -> Step:
    return dice.choice(
        (
            Say("mailbox", dice.randrange(3), dice.randrange(len(USERS)), dice.randrange(5)),
            Say("reset", dice.randrange(3), sender=dice.randrange(2)),
            Say("junk", dice.randrange(3), thing=dice.randrange(100)),
            Publish(dice.randrange(1000)),
            Publish(dice.randrange(1000)),
        )
    )


def _outbox_day(dice: Random) -> list[Step]:
    """No nsqd for a while in which workers publish, and then nsqd again, at first perhaps with a file that is full."""
    day: list[Step] = [Nsqd(each, "down") for each in range(3)]
    day += [Publish(each) for each in range(dice.randint(1, 4))]
    day += [Outbox("fails")] * dice.randrange(2)
    day += [Nsqd(each, "up") for each in range(3)]
    return [*day, Wait(dice.choice((1.0, 3.0))), Outbox("works")]


def _trouble(dice: Random) -> list[Step]:
    """What breaks, and perhaps what mends it before the end."""
    process, number = dice.randrange(4), dice.randrange(3)
    broken, frozen = dice.sample(("fails", "frozen"), 2), dice.choice(("down", "frozen"))
    troubles: tuple[list[Step], ...] = (
        [At(process, dice.randint(1, 40), dice.choice(TROUBLES))],
        [At(process, dice.randint(1, 200), dice.choice(TROUBLES))],
        [At(process, dice.randint(1, 40), "pause")],
        [Kill(process)],
        [Database(broken[0]), Database("works")],
        [Database(broken[0]), Wait(12.0), Database("works"), Database(broken[1]), Database("works")],
        [Outbox("fails"), Outbox("works")],
        [Nsqd(number, frozen), Nsqd(number, "up")],
        [Nsqd(each, "down") for each in range(3)],
        [SetClock(number, dice.choice((-3600.0, -5.0, 60.0)))],
        [SetClock(None, dice.choice((-60.0, -5.0, 5.0, 60.0)))],
    )
    return dice.choice(troubles)
