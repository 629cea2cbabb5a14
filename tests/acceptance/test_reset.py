# SPDX-License-Identifier: GPL-2.0-or-later
"""A reset: every state of a scope ends with a full document, by an event of its sender or by the operator's command."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.support.chain import DOMAIN, Chain, Person
from tests.support.documents import MessageCounts
from tests.support.kamailio import CLEAN_PATH
from tests.support.notify import LAMPS, Notify
from tests.support.subscription import Subscription
from tests.support.watcher import Watcher

EXPECTED_LINES = (r"kemi-nsq: nsq_pua_reset: .* is no scope to reset", "kemi-nsq: nsq_pua_reset: user is ")
#: What `kamcmd evrexec.run` runs, with each configuration.
COMMANDS = {"native": "nsq:reset", "kemi": "ksr_nsq_reset"}

Lamps = dict[str, Subscription]


def lit(person: Person, watcher: Watcher, sender: str) -> Lamps:
    """Publish a call, a presence and a mailbox of a person, and wait until each is shown."""
    lamps = {package: watcher.subscribe(person.uri, package) for package in LAMPS}
    switch = {"Sender_URI": sender}
    person.call("confirmed", **switch)
    person.publish("presence", State="busy", **switch)
    person.publish("message-summary", Messages_New=2, **switch)
    for package, lamp in lamps.items():
        lamp.wait(is_on, what=f"{package} that is on")
    return lamps


def is_on(notify: Notify) -> bool:
    """Whether a NOTIFY shows a call, a presence or a message; raises when its document is no full one."""
    match notify.event:
        case "dialog":
            return notify.dialog_info.states == ("confirmed",)
        case "presence":
            return notify.pidf.basic == "open"
        case _:
            return notify.message_summary.waiting


def are_off(lamps: Lamps) -> None:
    """Wait until each lamp was told, once, that its state is over."""
    for package, lamp in lamps.items():
        last = lamp.wait(lambda notify: not is_on(notify), what=f"the end of {package}", after=2)
        assert last.body
        assert len(lamp.notifies) == 3
    assert lamps["dialog"].notifies[-1].dialog_info.states == ("terminated",)
    assert lamps["presence"].notifies[-1].pidf.note == "Offline"
    assert lamps["message-summary"].notifies[-1].message_summary.voice == MessageCounts(new=0, saved=0)


def still_on(lamps: Lamps) -> None:
    """Check that nobody was told anything more: after a round trip, whatever was sent has come."""
    for lamp in lamps.values():
        told = len(lamp.notifies)
        lamp.refresh()
        assert is_on(lamp.wait(lambda _: True, what="the NOTIFY of the refresh", after=told))
        assert len(lamp.notifies) == told + 1


def reset(chain: Chain, scope: str) -> None:
    """Give the operator's command."""
    chain.kamailio.rpc("evrexec.run", COMMANDS[chain.kind], scope)


def test_an_event_ends_what_its_own_sender_published(person: Person, watcher: Watcher) -> None:
    other = Person(chain=person.chain)
    mine, others = lit(person, watcher, "sip:one@pbx"), lit(other, watcher, "sip:two@pbx")
    # Flush-Level asks the C module for more than its own: not obeyed.
    fields = {"Event-Category": "presence", "Event-Name": "reset", "Sender-URI": "sip:one@pbx", "Flush-Level": "3"}
    person.chain.publish(json.dumps(fields).encode())
    are_off(mine)
    still_on(others)


@pytest.mark.parametrize("scope", ["sender sip:{user}@pbx", "user sip:{user}@example.com", "user {user}@example.com"])
def test_the_operator_ends_one_sender_or_user(chain: Chain, scope: str) -> None:
    person, other = Person(chain=chain), Person(chain=chain)
    with chain.watcher() as watcher:
        mine, others = lit(person, watcher, f"sip:{person.user}@pbx"), lit(other, watcher, f"sip:{other.user}@pbx")
        reset(chain, scope.format(user=person.user))
        are_off(mine)
        still_on(others)


@pytest.mark.parametrize("scope", [f"realm {DOMAIN}", "all"])
def test_the_operator_ends_all(chain: Chain, scope: str) -> None:
    people = [Person(chain=chain) for _ in range(3)]
    with chain.watcher() as watcher:
        lamps = [lit(person, watcher, f"sip:{person.user}@pbx") for person in people]
        reset(chain, "realm example.org")
        still_on(lamps[0])
        told = len(lamps[0]["dialog"].notifies) - 2
        reset(chain, scope)
        are_off(lamps[1])
        are_off(lamps[2])
        for lamp in lamps[0].values():
            lamp.wait(lambda notify: not is_on(notify), what="the end", after=2 + told)


def test_the_command_as_an_operator_types_it(person: Person, watcher: Watcher) -> None:
    """In a shell the scope is quoted once; kamcmd passes it on as one text, blanks and all."""
    lamps = lit(person, watcher, "sip:three@pbx")
    command = f'kamcmd -s "$CTL" -D "$RUN" evrexec.run {COMMANDS[person.chain.kind]} "user {person.uri}"'
    socket = person.chain.kamailio.control_socket()
    environment = {"PATH": CLEAN_PATH, "CTL": socket, "RUN": socket.removeprefix("unix:").rpartition("/")[0]}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    are_off(lamps)


@pytest.mark.parametrize(
    ("scope", "line"),
    [
        (
            "everything",
            "'everything' is no scope to reset; `sender URI`, `user URI`, `realm DOMAIN` or `all` is wanted",
        ),
        ("realm", "'realm' is no scope to reset"),
        ("user nobody", "user is 'nobody'; "),
        ("sender ' OR 1=1 --", ""),
    ],
)
def test_a_scope_that_is_none_ends_nothing(chain: Chain, scope: str, line: str) -> None:
    person = Person(chain=chain)
    with chain.watcher() as watcher:
        lamps = lit(person, watcher, "sip:four@pbx")
        reset(chain, scope)
        if line:
            chain.kamailio.process.wait_for_log(line)
        still_on(lamps)
    assert chain.kamailio.alive()


def test_the_next_event_after_a_reset_lights_the_lamp_again(person: Person, watcher: Watcher) -> None:
    lamps = lit(person, watcher, "sip:five@pbx")
    reset(person.chain, f"user {person.uri}")
    are_off(lamps)
    person.call("confirmed")
    lamps["dialog"].wait(is_on, what="the call again", after=3)
