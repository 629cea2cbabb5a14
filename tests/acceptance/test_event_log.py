# SPDX-License-Identifier: GPL-2.0-or-later
"""One id finds the whole way of an event in Kamailio's log; lines in JSON; the log level at run time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import custom_chain
from tests.support.chain import CHANNEL, CONFIGURATIONS, TOPIC, Chain, Person, event
from tests.support.kamailio import quoted
from tests.support.until import until

TOOL = str(Path(sys.executable).with_name("kemi-nsq"))
ROUTE = "nsq:consumer-event-test-follow-update"
CONFIGURATION = """
include_file "{shipped}"
debug=1
event_route[{route}] {{
    python_exec("nsq_pua_publish");
    xlog("L_NOTICE", "test: rc=$rc id=$var(nqMessageId)\\n");
}}
"""
#: Of an event that comes alone.
STEPS = ["received", "stored", "told", "route", "finished"]
#: Where an object of ours begins, whatever stands before it.
OBJECT = '{"kemi-nsq":'
ENGINE = "--log-engine=json:jM"


def tool(chain: Chain, *words: str) -> str:
    command = [TOOL, *words, "--run-dir", str(chain.kamailio.pages_folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def followed(folder: Path, form: str, *options: str) -> Chain:
    config = folder / "follow.cfg"
    config.write_text(CONFIGURATION.format(shipped=CONFIGURATIONS["native"][0], route=ROUTE))
    return Chain("native", folder, config=config, defines={"NSQ_LOG_FORMAT": quoted(form)}, options=options)


def follow(chain: Chain) -> tuple[Person, str, list[str]]:
    """Have an event go its way, to a watcher; return whose it was, its id, and the lines that have it."""
    person = Person(chain=chain)
    with chain.watcher() as watcher:
        lamp = watcher.subscribe(person.uri, "dialog")
        lamp.wait(lambda notify: True, what="the first NOTIFY")
        fields = person.call_fields("early", Event_Category="test-follow")
        chain.publish(event("dialog", person.user, **fields))
        lamp.wait(lambda notify: notify.dialog_info.states == ("early",), what="the lamp")
        chain.drain()
    (route,) = until(lambda: chain.log_lines("test: rc=1 id="), what="what the route itself says")
    message_id = route.partition("test: rc=1 id=")[2][:16]
    assert int(message_id, 16)
    until(lambda: chain.log_lines(f"finished: message {message_id}"), what="the last step")
    return person, message_id, chain.log_lines(message_id)


def objects(lines: list[str]) -> list[dict[str, Any]]:
    """Return what is ours in lines of the log."""
    read = json.JSONDecoder().raw_decode
    return [read(line[line.index(OBJECT) :])[0] for line in lines if OBJECT in line]


def test_the_id_finds_the_whole_way_to_the_watchers_and_the_answer(tmp_path: Path) -> None:
    with followed(tmp_path, "text") as chain:
        tool(chain, "presence", "log-events", "on")
        person, message_id, lines = follow(chain)
        said = [line.partition("INFO: kemi-nsq: ")[2] for line in lines]
        assert [text.partition(":")[0] for text in said if text] == STEPS
        assert said.index("") == 3, "the route's own line"
        assert f"dialog of {person.uri} early" in said[1]
        assert said[4] == f"route: message {message_id} of {TOPIC}: {ROUTE}: done"
        tool(chain, "presence", "log-events", "off")
        before = chain.log_lines("kemi-nsq: ")
        person.call("terminated")
        chain.drain()
        assert chain.log_lines("kemi-nsq: ") == before
        assert chain.complaints(["each step of an event"]) == []


@pytest.mark.parametrize("options", [(), (ENGINE,)], ids=["plain", "Kamailio's own engine"])
def test_with_json_each_line_of_ours_parses_and_has_the_id(tmp_path: Path, options: tuple[str, ...]) -> None:
    with followed(tmp_path, "json", *options) as chain:
        tool(chain, "presence", "log-events", "on")
        person, message_id, lines = follow(chain)
        ours = objects(lines)
        assert [each["step"] for each in ours] == STEPS
        for each in ours:
            assert (each["message_id"], each["topic"], each["channel"]) == (message_id, TOPIC, CHANNEL)
            assert (each["level"], each["attempts"]) == ("info", 1)
            assert each["pid"] in chain.kamailio.pids()
        assert [each.get("route") for each in ours] == [None, *[ROUTE] * 4]
        assert [each.get("presentity") for each in ours] == [None, person.uri, person.uri, None, None]
        every = chain.log_lines('kemi-nsq[:"]')
        assert len(objects(every)) == len(every), "no line in another form"
        assert any(each["level"] == "warning" and "message_id" not in each for each in objects(every))
        if options:
            whole = [json.loads(line) for line in every]
            assert [each["message"] for each in whole] == objects(every), "an object in Kamailio's object"


@pytest.fixture
def raising(tmp_path: Path) -> Iterator[Chain]:
    with custom_chain("kemi", tmp_path) as chain:
        yield chain
        assert chain.complaints(["this handler fails once", "by the operator"]) == []


def test_the_log_level_changes_what_is_logged_while_kamailio_runs(raising: Chain) -> None:
    """A handler that raises is an ERROR, and its traceback DEBUG, which `debug=1` leaves out."""
    seen = 0, 0

    def raised() -> tuple[int, int]:
        nonlocal seen
        raising.publish(json.dumps({"Event-Category": "test", "Event-Name": "raise"}).encode())
        raising.drain()
        now = len(raising.log_lines("ERROR: .*kemi-nsq: .* raised ")), len(raising.log_lines("DEBUG: .*Traceback"))
        before, seen = seen, now
        return now[0] - before[0], now[1] - before[1]

    pid = json.loads(tool(raising, "log-level", "--json"))["consumers"][0]["pid"]
    assert tool(raising, "log-level") == f"consumer {pid}: default\n"
    assert raised() == (1, 0)
    assert tool(raising, "log-level", "debug") == f"consumer {pid}: debug\n"
    assert raised() == (1, 1)
    assert f"{pid}: log level debug" in tool(raising, "status")
    tool(raising, "log-level", "error")
    assert raised() == (1, 0)
    tool(raising, "pause")
    tool(raising, "resume")
    assert raising.log_lines("(paused|resumed) by the operator") == [], "a WARNING is above ERROR"
    tool(raising, "log-level", "default")
    tool(raising, "pause")
    tool(raising, "resume")
    assert len(raising.log_lines("WARNING: .*kemi-nsq: (paused|resumed) by the operator")) == 2
    assert len(raising.log_lines("log level set by the operator")) == 3
