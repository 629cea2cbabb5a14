# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said of nsqlookupd that are broken or lie: once, until it changes."""

from __future__ import annotations

from kemi_nsq.consumer.discovery import NO_ROOM, Discovery
from kemi_nsq.counters import Counter
from kemi_nsq.errors import ConnectionLost
from kemi_nsq.host import Level, Report
from kemi_nsq.names import Address
from kemi_nsq.nsq.nodes import Listed

ONE, TWO = Address("one", 4161), Address("two", 4161)
WELL = Listed([], [])
LATE = ConnectionLost("one:4161: timed out")


def warning(text: str, counter: Counter) -> Report:
    return Report(level=Level.WARNING, text=text, counter=counter)


def test_nothing_is_wrong() -> None:
    discovery = Discovery()
    assert discovery.answered(ONE, WELL, room=True) == []
    assert discovery.wrong == ""


def test_one_that_does_not_answer_is_told_once_and_shown_until_it_does() -> None:
    discovery = Discovery()
    told = [warning("nsqlookupd one:4161: timed out", Counter.LOOKUP_FAILED)]
    assert discovery.failed(ONE, LATE) == told
    assert discovery.failed(ONE, LATE) == []
    assert discovery.answered(TWO, WELL, room=True) == []
    assert discovery.wrong == "nsqlookupd one:4161: timed out"
    again = [Report(level=Level.INFO, text="nsqlookupd one:4161: it answers well again")]
    assert discovery.answered(ONE, WELL, room=True) == again
    assert discovery.wrong == ""
    assert discovery.failed(ONE, LATE) == told


def test_each_entry_that_is_no_address_is_told_once() -> None:
    discovery = Discovery()
    first = discovery.answered(ONE, Listed([], ["a is none", "b is none"]), room=False)
    assert [report.text.removeprefix("nsqlookupd one:4161: ") for report in first] == [
        "a is none",
        "b is none",
        NO_ROOM,
    ]
    assert {report.counter for report in first} == {Counter.NODES_REFUSED}
    assert discovery.wrong == "nsqlookupd one:4161: a is none, and 2 more"
    second = discovery.answered(ONE, Listed([], ["b is none", "c is none"]), room=True)
    assert second == [warning("nsqlookupd one:4161: c is none", Counter.NODES_REFUSED)]


def test_each_nsqlookupd_has_its_words() -> None:
    discovery = Discovery()
    discovery.failed(TWO, ConnectionLost("two:4161: no"))
    discovery.failed(ONE, LATE)
    assert discovery.wrong == "nsqlookupd one:4161: timed out; nsqlookupd two:4161: no"
