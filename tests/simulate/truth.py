# SPDX-License-Identifier: GPL-2.0-or-later
"""What must be so when a world has come to rest, computed from what was said, by nothing of the package."""

from __future__ import annotations

import traceback
from collections import Counter as Multiset
from collections.abc import Mapping
from pathlib import Path

from kemi_nsq.counters import Counter
from tests.simulate.database import at_work
from tests.simulate.presence import DIALOG, MAILBOX, Document
from tests.simulate.steps import ALWAYS, SHORT_S, USERS, Scenario
from tests.simulate.world import EVENTS, Said, World, uri_of

#: A world that is mended rests within so many seconds.
PATIENCE_S = 400.0
_RANKS = {"early": 3, "confirmed": 4, "terminated": 5}


def run(scenario: Scenario, folder: Path) -> tuple[list[str], list[str]]:
    """Let a scenario happen; return what is wrong at its end, and the last lines of the log."""
    world = World(scenario, folder)
    at_work(world)
    try:
        for step in scenario.steps:
            world.apply(step)
        problems = _rest(world) or _check(world, scenario.settings)
    except Exception as error:  # of ours or of the product's: the seed has found it
        problems = [f"{type(error).__name__}: {error}", traceback.format_exc()]
    finally:
        at_work(None)
        world.close()
    return problems, list(world.lines)


def _rest(world: World) -> list[str]:
    world.heal()
    world.log("--- all is mended")
    ends = world.now + PATIENCE_S
    while busy := _restless(world):
        if world.now > ends:
            return [f"no rest after {PATIENCE_S:.0f} s: {', '.join(busy)}"]
        world.advance(2.0)
    world.advance(SHORT_S + 7.0 + world.back_s)
    return [f"no more at rest: {each}" for each in _restless(world)]


def _restless(world: World) -> list[str]:
    busy = [f"nsqd{number} is {nsqd.mode}" for number, nsqd in enumerate(world.nsqds) if nsqd.mode != "up"]
    for nsqd in world.nsqds:
        busy += [f"{message.message_id!r} waits" for message in nsqd.waiting.values() if message.topic == EVENTS]
        busy += [f"{each!r} is in flight" for each in nsqd.in_flight]
    if world.kept:
        busy.append(f"{len(world.kept)} messages are in the outbox")
    if len(world.everybody()) < len(world.processes):
        busy.append("a process is down")
    for process in world.everybody():
        busy += [f"{process.name} {what}" for what in process.restless()]
    return busy


def _check(world: World, settings: Mapping[str, str]) -> list[str]:
    return [
        *_wrong_lamps(world, settings),
        *_wrong_dead_letters(world),
        *_wrong_outbox(world),
        *(f"{process.name}: {hoard}" for process in world.everybody() for hoard in process.hoards()),
        *(f"{count} bugs" for count in [world.counted(Counter.BUG)] if count),
    ]


def _wrong_lamps(world: World, settings: Mapping[str, str]) -> list[str]:
    problems = []
    most = int(settings["pua_max_dialogs"]) or 10**6
    by_sequence = bool(settings["pua_order_field"])
    for user in range(len(USERS)):
        uri = uri_of(user)
        for event in (DIALOG, MAILBOX):
            wanted, shown = _expected(world.record.said, user, event, by_sequence), world.presence.document(uri, event)
            if event == DIALOG and len(wanted) > most:
                fits = len(shown) == most and shown.items() <= wanted.items()
            else:
                fits = _lit(shown) == _lit(wanted)
            if not fits:
                problems.append(f"{uri} {event}: {dict(shown)} is shown, {wanted} is true")
            problems += [
                f"a watcher of {uri} {event} was told {dict(watcher.shown)} last, {dict(shown)} is shown"
                for watcher in world.presence.watchers
                if (watcher.uri, watcher.event) == (uri, event) and _live(watcher.shown) != shown
            ]
    # One that was over may live again, and the database fail before another waits: then the next sweep sees to it.
    calls, over = world.presence.largest
    if calls > 2 * most or over > most:
        problems.append(f"a document had {calls} calls, and one {over} that were over; {2 * most} and {most} may be")
    return problems


def _live(document: Document) -> dict[str, str]:
    """Leave out what is over: that a call ended is told, that it is hidden a moment later is not."""
    return {name: state for name, state in document.items() if state != "terminated"}


def _lit(document: Document) -> dict[str, str]:
    """Leave out a mailbox without messages: its light is off, as where nothing is known of it."""
    return {name: state for name, state in document.items() if state != "0/0"}


def _expected(said: list[Said], user: int, event: str, by_sequence: bool) -> dict[str, str]:
    def order(each: Said) -> tuple[int, int, bytes]:
        position = each.sequence if by_sequence else each.stored.timestamp_ns
        return position, _RANKS[each.step.state] if each.step.what == "call" else 0, each.stored.message_id

    good = [each for each in said if each.step.fails < ALWAYS]
    resets: dict[int, int] = {}
    for each in good:
        if each.step.what == "reset":
            resets[each.step.sender] = max(resets.get(each.step.sender, 0), order(each)[0])
    what = "call" if event == DIALOG else "mailbox"
    last: dict[str, Said] = {}
    for each in sorted((each for each in good if (each.step.what, each.step.user) == (what, user)), key=order):
        last[f"c{each.step.thing}" if event == DIALOG else "box"] = each
    shown = {}
    for name, each in last.items():
        over = order(each)[0] <= resets.get(each.step.sender, -1)
        if event == MAILBOX:
            shown[name] = "0/0" if over else f"{each.step.thing}/0"
        elif not (over or each.step.short or each.step.state == "terminated"):
            shown[name] = each.step.state
    return shown


def _wrong_dead_letters(world: World) -> list[str]:
    wanted = {
        each.stored.message_id.decode()
        for each in world.record.said
        if each.step.what == "junk" or each.step.fails >= ALWAYS
    }
    found = set(world.record.dead)
    return [
        *(f"{each} is a dead letter by no fault of its own" for each in found - wanted),
        *(f"{each} should be a dead letter" for each in wanted - found),
    ]


def _wrong_outbox(world: World) -> list[str]:
    record = world.record
    copies = Multiset(record.published)
    problems = [f"published message {each} is lost" for each in record.accepted if not copies[each]]
    twice = sum(count - 1 for count in copies.values())
    if twice > record.deaths:
        problems.append(f"{twice} copies were published, though processes died {record.deaths} times only")
    came = [each for each in dict.fromkeys(record.published) if each in record.kept]
    if came != record.kept:
        problems.append(f"the outbox had {record.kept}, which came as {came}")
    return problems
