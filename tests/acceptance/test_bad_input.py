# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever a producer sends: one clear line in the log, a counter, FIN; Kamailio lives and the next event works."""

from __future__ import annotations

import json

import pytest

from tests.support.chain import CHANNEL, DOMAIN, TOPIC, Chain, Person, event
from tests.support.database import rows
from tests.support.until import until
from tests.support.watcher import Watcher

#: Who the bad events are about.
BAD = "bad"
GOOD_CALL = {"To": f"sip:bob@{DOMAIN}", "State": "early", "Call_ID": "c1"}
EXPECTED_LINES = (rf"kemi-nsq: {TOPIC}:{CHANNEL} message [0-9a-f]{{16}} dropped: ", r"kemi-nsq: nsq_pua_publish: ")

#: What no event is: name, body, and what the log must say of it.
NOT_DECODED = [
    ("blank", b" \n", "the body is empty; a JSON object is wanted"),
    ("text", b"hello", "the body is not JSON: .* at line 1 column 1"),
    ("cut off", b'{"Event-Category":"pres', "the body is not JSON: "),
    ("array", b'[{"Event-Category":"presence"}]', "the body is a JSON array; a JSON object is wanted"),
    ("number", b"17", "the body is a JSON number; a JSON object is wanted"),
    ("1 MB", b'{"a":"' + b"x" * (1048576 - 8) + b'"}', "the body has 1048576 bytes; NSQ_MAX_EVENT_SIZE allows 65536"),
    ("no UTF-8", b'{"From":"\xff\xfe"}', "the body is not UTF-8: invalid start byte at byte 9"),
    ("single quotes", b"{'Event-Category':'presence'}", "JSON strings stand in double quotes, this one uses single"),
    ("NUL", b'\x00{"a":1}', "the body is not JSON: "),
]

#: What announces no state: name, package, fields, and what the log must say of it.
NO_STATE = [
    ("no From", "dialog", GOOD_CALL | {"From": None}, "From is missing"),
    ("no State", "dialog", GOOD_CALL | {"State": None}, "State is missing"),
    ("no To", "dialog", GOOD_CALL | {"To": None}, "To is missing"),
    ("no Call-ID", "dialog", GOOD_CALL | {"Call_ID": None}, "Call-ID is missing"),
    ("unknown state", "dialog", GOOD_CALL | {"State": "ringing"}, "State is 'ringing'; one of trying, "),
    ("unknown package", "weather", GOOD_CALL, "Event-Package is 'weather'; one of dialog, presence, message-summary"),
    ("no package", None, GOOD_CALL, "Event-Package is missing"),
    ("From is no URI", "presence", {"State": "busy", "From": "alice"}, "From is 'alice'; a SIP URI"),
    ("Expires of 0", "dialog", GOOD_CALL | {"Expires": 0}, "Expires is '0'; a whole number of seconds above 0"),
    ("negative Expires", "presence", {"State": "busy", "Expires": "-1"}, "Expires is '-1'; a whole number"),
    ("realm with a port", "presence", {"State": "busy", "From_Realm": f"{DOMAIN}:5060"}, "From-Realm is .* without a"),
    ("negative count", "message-summary", {"Messages_New": -1}, "Messages-New is '-1'; a whole number from 0"),
    ("a list as State", "presence", {"State": ["busy"]}, r"State is '\[\"busy\"\]'; a text or a number"),
    ("a domain of 65 letters", "presence", {"State": "busy", "From_Realm": "d" * 65}, "at most 64 fit the column"),
    ("two lines", "presence", {"State": "busy", "From": "a\r\nERROR: b"}, r"From is 'a\\r\\nERROR: b'"),
]


def refused(chain: Chain, body: bytes, counter: str, line: str) -> None:
    """Publish a body; exactly one line and one count must come of it, and nothing else."""
    counters, lines = chain.counters(), len(chain.log_lines("."))
    stored = rows(chain.database)
    chain.publish(body)
    until(lambda: chain.counter("received") == counters.get("received", 0) + 1, what="the message to be taken")
    chain.drain()
    found = chain.counters()
    grown = {name for name in found if found[name] != counters.get(name, 0)} - {"connected"}
    assert grown == {"received", counter}
    assert found[counter] == counters.get(counter, 0) + 1
    said = chain.log_lines(".")[lines:]
    assert len(said) == 1
    assert chain.log_lines(line)[-1:] == said, said
    assert rows(chain.database) == stored
    assert chain.kamailio.options().status == 200


def works(person: Person, watcher: Watcher) -> None:
    """Check that an event after the bad one becomes a NOTIFY."""
    lamp = watcher.subscribe(person.uri, "dialog")
    person.call("early")
    lamp.wait(lambda notify: notify.dialog_info.states == ("early",), what="the next event")


@pytest.mark.parametrize(("body", "line"), [each[1:] for each in NOT_DECODED], ids=[each[0] for each in NOT_DECODED])
def test_a_body_that_is_no_event(person: Person, watcher: Watcher, body: bytes, line: str) -> None:
    refused(person.chain, body, "invalid", line)
    works(person, watcher)


@pytest.mark.parametrize(
    ("package", "fields", "line"), [each[1:] for each in NO_STATE], ids=[each[0] for each in NO_STATE]
)
def test_an_event_that_announces_no_state(  # the columns of the table
    person: Person, watcher: Watcher, package: str, fields: dict[str, str | int | None], line: str
) -> None:
    refused(person.chain, event(package, BAD, **fields), "pua_invalid", line)
    works(person, watcher)


def test_nsqd_itself_refuses_an_empty_body(chain: Chain) -> None:
    with pytest.raises(AssertionError, match="MSG_EMPTY"):
        chain.publish(b"")


def test_a_uri_with_a_port_is_the_presentity_of_its_host(person: Person, watcher: Watcher) -> None:
    lamp = watcher.subscribe(person.uri, "dialog")
    person.call("early", From=f"{person.uri}:5070")
    lamp.wait(lambda notify: notify.dialog_info.states == ("early",), what="early")
    assert person.user in [row["username"] for row in rows(person.chain.database) if row["domain"] == DOMAIN]


def test_a_flood_of_bad_events_does_not_flood_the_log(chain: Chain) -> None:
    """Its lines are at most 20 in 10 s, and each is counted."""
    invalid, lines = chain.counter("invalid"), len(chain.log_lines("dropped: "))
    chain.nsqd.publish_many(TOPIC, [json.dumps(number).encode() for number in range(500)])
    until(lambda: chain.counter("invalid") == invalid + 500, what="500 refused messages", timeout_s=20)
    assert len(chain.log_lines("dropped: ")) - lines <= 40
    assert chain.kamailio.alive()
