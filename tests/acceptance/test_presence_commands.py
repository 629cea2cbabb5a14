# SPDX-License-Identifier: GPL-2.0-or-later
"""`kemi-nsq presence` beside a Kamailio that works: why a lamp is on, who was told, set, reset, and a live board."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from tests.support.chain import TOPIC, Chain, Person, event
from tests.support.terminal import Terminal
from tests.support.until import until

TOOL = str(Path(sys.executable).with_name("kemi-nsq"))


@pytest.fixture(scope="module", params=["native", "kemi"])
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with Chain(request.param, tmp_path_factory.mktemp("presence")) as chain:
        until(lambda: chain.status()[0] == 0, what="all to be well")
        yield chain
        assert chain.complaints(["by the operator", "each step of an event"]) == []


def run(chain: Chain, *words: str) -> tuple[int, str, str]:
    """Run `kemi-nsq presence` on the runtime folder of a Kamailio; return its exit code and what it says."""
    command = [TOOL, "presence", *words, "--run-dir", str(chain.kamailio.pages_folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return done.returncode, done.stdout, done.stderr


def done(chain: Chain, *words: str) -> str:
    """Run it as `run` does; it must succeed."""
    code, out, err = run(chain, *words)
    assert (code, err) == (0, "")
    return out


def answer(chain: Chain, *words: str) -> Any:
    """Return what it prints as JSON."""
    return json.loads(done(chain, *words, "--json"))


def test_a_lamp_that_is_on_is_explained_by_the_message_that_set_it(person: Person) -> None:
    chain = person.chain
    with chain.watcher() as watcher:
        lamp = watcher.subscribe(person.uri, "dialog")
        person.call("early")
        lamp.wait(lambda notify: notify.dialog_info.states == ("early",), what="early")
        person.call("confirmed")
        lamp.wait(lambda notify: notify.dialog_info.states == ("confirmed",), what="confirmed")
        chain.drain()
        found = answer(chain, "explain", person.uri)
        text = done(chain, "explain", person.uri)
        told = len(lamp.notifies)
    (state,) = found["states"]
    assert (state["state"], state["shown"], state["order"]["rank"]) == ("confirmed", True, "4 (confirmed)")
    early, confirmed = state["decisions"]
    assert (early["state"], early["what"], early["made"]) == ("early", "stored", False)
    assert (confirmed["state"], confirmed["what"], confirmed["made"]) == ("confirmed", "stored", True)
    assert (confirmed["topic"], confirmed["sent_at"] <= confirmed["at"]) == (TOPIC, True)
    assert confirmed["order"]["message_id"] == state["order"]["message_id"] == state["ruid"].split(".")[2]
    (who,) = found["watchers"]
    assert (who["watcher"], who["event"], who["notifies"] + 1) == ("sip:watcher@example.com", "dialog", told)
    assert who["contact"].startswith("sip:watcher@127.0.0.1:")
    assert who["last"]["accepted"] is True
    assert who["last"]["at"] >= confirmed["at"]
    assert found["notes"] == []
    because = f"  because     message {state['order']['message_id']} of topic {TOPIC} said so, which nsqd took at "
    assert because in text
    assert "  <- this" in text
    assert "sip:watcher@example.com at sip:watcher@127.0.0.1:" in text


def test_who_subscribes_later_was_told_nothing_by_a_consumer(person: Person) -> None:
    with person.chain.watcher() as early, person.chain.watcher() as late:
        early.subscribe(person.uri, "dialog").wait(lambda notify: True, what="the first NOTIFY")
        person.call("confirmed")
        person.chain.drain()
        late.subscribe(person.uri, "dialog").wait(lambda notify: True, what="the first NOTIFY")
        found = until(
            lambda: found if len(found := answer(person.chain, "watchers", person.uri)) == 2 else None, what="both"
        )
    assert sorted((each["notifies"], each["last"] is None) for each in found) == [(0, True), (1, False)]


def test_what_came_late_and_changed_nothing_is_told(person: Person) -> None:
    chain = person.chain
    stale = chain.counter("pua_stale")
    # nsqd stamps a message when it takes it, and holds this one back: so it is handled after a later one.
    early = event("dialog", person.user, **person.call_fields("early"))
    chain.nsqd.http("POST", "/pub", body=early, topic=TOPIC, defer="300")
    person.call("confirmed")
    until(lambda: chain.counter("pua_stale") > stale, what="the late one")
    (state,) = answer(chain, "explain", person.uri)["states"]
    assert state["state"] == "confirmed"
    confirmed, late = state["decisions"]
    assert (confirmed["state"], confirmed["what"], confirmed["made"]) == ("confirmed", "stored", True)
    assert (late["state"], late["what"], late["made"]) == ("early", "stale", False)
    assert late["sent_at"] < confirmed["sent_at"] < late["at"]
    assert " stale     early (with sip:bob@example.com, call " in done(chain, "explain", person.uri)


def test_what_is_hidden_is_shown_with_its_reason(person: Person) -> None:
    chain = person.chain
    person.call("confirmed")
    person.call("terminated")
    chain.drain()
    (state,) = until(
        lambda: [each for each in answer(chain, "show", person.uri) if not each["shown"]], what="it to be hidden"
    )
    assert (state["state"], state["order"]["rank"]) == ("over", "5 (over)")
    assert state["hidden"] == "over: kept so that a late event does not revive it (NSQ_PUA_TOMBSTONE)"
    listed = [each["uri"] for each in answer(chain, "list", "--event", "dialog")]
    assert person.uri not in listed
    assert person.uri in [each["uri"] for each in answer(chain, "list", "--event", "dialog", "--all")]


def test_what_is_published_by_hand_is_stored_and_told(person: Person) -> None:
    chain = person.chain
    with chain.watcher() as watcher:
        lamps = {each: watcher.subscribe(person.uri, each) for each in ("dialog", "presence", "message-summary")}
        said = done(chain, "set", person.uri, "--state", "confirmed", "--to", "sip:bob@example.com")
        assert said.startswith(f"published to {TOPIC} at {chain.nsqd.http_address}: ")
        assert json.loads(said.partition(": ")[2])["State"] == "confirmed"
        lamps["dialog"].wait(lambda notify: notify.dialog_info.states == ("confirmed",), what="the call")
        done(chain, "set", person.uri, "--state", "terminated", "--to", "sip:bob@example.com")
        lamps["dialog"].wait(lambda notify: notify.dialog_info.states == ("terminated",), what="its end")
        done(chain, "set", person.uri, "--state", "away")
        lamps["presence"].wait(lambda notify: notify.pidf.note == "Away", what="away")
        done(chain, "set", person.uri, "--state", "2/5")
        lamps["message-summary"].wait(lambda notify: notify.message_summary.waiting, what="messages")
        assert len(answer(chain, "watchers", person.uri)) == 3


def test_a_state_that_is_none_is_not_published(person: Person) -> None:
    code, out, err = run(person.chain, "set", person.uri, "--state", "half", "--event", "dialog")
    assert (code, out) == (2, "")
    assert err.startswith(
        "kemi-nsq: State is 'half'; one of trying, proceeding, early, confirmed, terminated is wanted"
    )


def test_a_reset_answers_how_many_states_it_ended(person: Person) -> None:
    chain = person.chain
    with chain.watcher() as watcher:
        lamp = watcher.subscribe(person.uri, "dialog")
        for number in range(3):
            person.call("confirmed", Call_ID=f"{person.user}-{number}")
        person.publish("presence", State="busy")
        chain.drain()
        lamp.wait(lambda notify: len(notify.dialog_info.states) == 3, what="three calls")
        assert done(chain, "reset", "user", person.uri) == f"4 states ended of user {person.uri}\n"
        lamp.wait(lambda notify: set(notify.dialog_info.states) == {"terminated"}, what="their end")
        assert answer(chain, "reset", f"user {person.uri}") == {"scope": f"user {person.uri}", "ended": 0}
    found = answer(chain, "explain", person.uri)
    assert {each["decisions"][-1]["what"] for each in found["states"]} == {"reset"}
    assert "it was ended here at " in done(chain, "explain", person.uri)


def test_a_large_reset_lets_events_go_on_and_counts_all(chain: Chain) -> None:
    many = 1200
    for number in range(many):
        chain.publish(event("presence", f"crowd{number}", State="busy", Sender_URI="sip:crowd@pbx"))
    chain.drain(timeout_s=30)
    assert done(chain, "reset", "sender", "sip:crowd@pbx") == f"{many} states ended of sender sip:crowd@pbx\n"


@pytest.mark.parametrize("scope", ["everything", "realm", "user nobody@", "sender"])
def test_a_scope_that_is_none_is_refused(chain: Chain, scope: str) -> None:
    code, out, err = run(chain, "reset", *scope.split())
    assert (code, out) == (2, "")
    assert err.startswith("kemi-nsq: ")
    assert len(err.splitlines()) == 1


def test_a_sender_is_reset_by_its_event_as_well(person: Person) -> None:
    chain = person.chain
    person.call("confirmed", Sender_URI=f"sip:{person.user}@pbx")
    chain.drain()
    assert "published to " in done(chain, "reset", "--publish", "sender", f"sip:{person.user}@pbx")
    until(lambda: [each["state"] for each in answer(chain, "show", person.uri)] == ["over"], what="its end")
    assert run(chain, "reset", "--publish", "all")[0] == 2


def test_a_line_for_each_decision_is_switched_on_and_off(person: Person) -> None:
    chain = person.chain
    assert done(chain, "log-events", "on").endswith(": on\n")
    person.call("early")
    chain.drain()
    (line,) = until(lambda: chain.log_lines(f"stored: dialog of {person.uri} early"), what="a line")
    assert f" of {TOPIC}, sender sip:{person.user}@example.com" in line
    done(chain, "log-events", "off")
    person.call("confirmed")
    chain.drain()
    assert not chain.log_lines(f"stored: dialog of {person.uri} confirmed")
    assert run(chain, "log-events", "maybe")[0] == 2


@contextmanager
def watching(chain: Chain, *uris: str) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Run the board in a pipe."""
    command = [TOOL, "presence", "watch", *uris, "--run-dir", str(chain.kamailio.pages_folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process, closing(process.stdout) as lines:
        try:
            yield process, lines
        finally:
            process.kill()


def test_a_board_in_a_pipe_prints_a_line_for_each_change(person: Person) -> None:
    chain = person.chain
    person.publish("presence", State="busy")
    chain.drain()
    with watching(chain, person.uri) as (process, lines):
        assert lines.readline().endswith(f"{person.uri} presence open (Busy)\n")
        person.publish("presence", State="offline")
        assert lines.readline().endswith(f"{person.uri} presence closed (Offline)\n")
        person.call("confirmed", Call_ID="watched")
        assert f"{person.uri} dialog confirmed (with sip:bob@example.com, call watched)\n" in lines.readline()
        process.send_signal(2)
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_board_in_a_terminal_lives_until_ctrl_c(person: Person, tmp_path: Path) -> None:
    chain = person.chain
    person.publish("presence", State="busy")
    chain.drain()
    with Terminal(tmp_path) as terminal:
        terminal.type(f"{TOOL} presence watch {person.uri} --run-dir {chain.kamailio.pages_folder}; echo ended with $?")
        until(
            lambda: re.search(f"{person.uri} +presence +open +Busy +yes ", terminal.screen()),
            what="the lamp",
            timeout_s=20,
        )
        person.publish("presence", State="offline")
        until(
            lambda: re.search(f"{person.uri} +presence +closed +Offline ", terminal.screen()),
            what="its change",
            timeout_s=20,
        )
        terminal.interrupt()
        until(lambda: "ended with 0" in terminal.screen(), what="the end", timeout_s=20)
        assert "Traceback" not in terminal.screen()
