# SPDX-License-Identifier: GPL-2.0-or-later
"""Publish and query as routes call them, native and in Python: codes, variables, counters, lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemi_nsq import KemiNsq, NativeNsq
from kemi_nsq.counters import Counter
from kemi_nsq.errors import ConnectionLost, NsqdRefused, NsqError, OutboxError, PayloadError, QueryFailed
from kemi_nsq.host import Suspended
from kemi_nsq.nsq.ways import Outgoing
from kemi_nsq.plugin.face import Face
from kemi_nsq.plugin.native import _split
from kemi_nsq.plugin.nsq_functions import NsqFunctions
from kemi_nsq.runtime.page import read
from kemi_nsq.testing import FakeHost
from tests.support.doubles import FakeAsker, FakeHandover, FakeOutbox, FakePublisher

MESSAGE = object()


@pytest.fixture
def host() -> FakeHost:
    host = FakeHost()
    host.transaction = (7, 9)
    host.routes = {"R", "ANSWERED"}
    return host


@pytest.fixture
def publisher() -> FakePublisher:
    return FakePublisher()


@pytest.fixture
def outbox() -> FakeOutbox:
    return FakeOutbox()


@pytest.fixture
def asker() -> FakeAsker:
    return FakeAsker()


Parts = tuple[FakePublisher, FakeAsker]


@pytest.fixture
def parts(publisher: FakePublisher, asker: FakeAsker) -> Parts:
    return publisher, asker


def inside(plugin: Face) -> NsqFunctions:
    return plugin._parts.nsq


def fill(plugin: Face, parts: Parts) -> None:
    functions = inside(plugin)
    functions._publisher, functions._asker = parts


@pytest.fixture
def native(host: FakeHost, parts: Parts) -> NativeNsq:
    plugin = NativeNsq(host)
    fill(plugin, parts)
    return plugin


@pytest.fixture
def kemi(host: FakeHost, parts: Parts) -> KemiNsq:
    plugin = KemiNsq(host)
    fill(plugin, parts)
    return plugin


# nsq_publish


def test_native_publish_takes_topic_blank_payload(native: NativeNsq, publisher: FakePublisher, host: FakeHost) -> None:
    assert native.nsq_publish(MESSAGE, 'calls {"a": "b c"}') == 1
    assert publisher.sent == [Outgoing(topic="calls", body=b'{"a": "b c"}')]
    assert host.counters == {Counter.PUBLISHED: 1}
    assert host.lines == []


def test_native_deferred_takes_milliseconds_between(native: NativeNsq, publisher: FakePublisher) -> None:
    assert native.nsq_publish_deferred(MESSAGE, 'calls 250 {"a": "b c"}') == 1
    assert publisher.sent == [Outgoing(topic="calls", body=b'{"a": "b c"}', delay_ms=250)]


def test_kemi_publish_takes_text_or_dictionary(kemi: KemiNsq, publisher: FakePublisher) -> None:
    assert kemi.nsq_publish("calls", '{"a": 1}') == 1
    assert kemi.nsq_publish("calls", {"a": 1}) == 1
    assert kemi.nsq_publish_deferred("calls", 3_600_000, {"ü": "€"}) == 1
    assert publisher.sent == [
        Outgoing(topic="calls", body=b'{"a": 1}'),
        Outgoing(topic="calls", body=b'{"a":1}'),
        Outgoing(topic="calls", body='{"ü":"€"}'.encode(), delay_ms=3_600_000),
    ]


# nsq_publish_async


def queueing(plugin: Face, failure: ConnectionLost | None = None) -> FakeHandover:
    """Let a plugin hand over to a double."""
    handover = FakeHandover(failure)
    inside(plugin)._handover = handover
    return handover


def test_what_is_not_waited_for_goes_to_the_relay(
    native: NativeNsq, kemi: KemiNsq, publisher: FakePublisher, host: FakeHost
) -> None:
    by_native, by_kemi = queueing(native), queueing(kemi)
    assert native.nsq_publish_async(MESSAGE, 'calls {"a": "b c"}') == 1
    assert kemi.nsq_publish_async("calls", {"a": 1}) == 1
    assert (by_native.given, by_kemi.given) == ([("calls", b'{"a": "b c"}')], [("calls", b'{"a":1}')])
    assert publisher.sent == []
    assert host.counters == {}, "the relay adds it to the server's copy"
    sheet = read(bytes(host.page.memory))
    assert sheet is not None
    assert sheet.counters == {Counter.QUEUED: 2}


def test_a_relay_that_does_not_take_it_is_minus_one(
    native: NativeNsq, publisher: FakePublisher, host: FakeHost
) -> None:
    """It never goes past the relay: what that holds came before."""
    queueing(native, ConnectionLost("the relay takes no more"))
    assert native.nsq_publish_async(MESSAGE, "calls {}") == -1
    assert publisher.sent == []
    assert host.counters == {Counter.PUBLISH_FAILED: 1}
    assert [line for _, line in host.lines] == ["nsq_publish_async: the relay takes no more"]


@pytest.mark.parametrize("payload", ["no JSON", "", "{", "0", "\ud800"])
def test_what_cannot_be_published_is_not_handed_over(kemi: KemiNsq, payload: str) -> None:
    handover = queueing(kemi)
    assert kemi.nsq_publish_async("t", payload) == -1
    assert kemi.nsq_publish_async("a/b", "{}") == -1
    assert handover.given == []


def test_with_publish_wait_0_nsq_publish_hands_over_and_deferred_does_not(publisher: FakePublisher) -> None:
    plugin = KemiNsq(FakeHost(defines={"NSQ_PUBLISH_WAIT": "0"}))
    inside(plugin)._publisher, handover = publisher, queueing(plugin)
    assert plugin.nsq_publish("t", "{}") == 1
    assert plugin.nsq_publish_deferred("t", 5, "{}") == 1
    assert handover.given == [("t", b"{}")]
    assert publisher.sent == [Outgoing(topic="t", body=b"{}", delay_ms=5)]


@pytest.mark.parametrize("function", ["nsq_publish", "nsq_publish_async"])
def test_a_message_that_is_too_large_is_refused_at_once(function: str, publisher: FakePublisher) -> None:
    host = FakeHost(defines={"NSQ_MAX_MESSAGE_SIZE": "10"})
    plugin = KemiNsq(host)
    inside(plugin)._publisher, handover = publisher, queueing(plugin)
    call = getattr(plugin, function)
    assert [call("t", '"12345678"'), call("t", '"123456789"'), call("t", {"a": "12345"})] == [1, -1, -1]
    assert len(publisher.sent) + len(handover.given) == 1
    said = f"{function}: the payload has {{}} bytes; NSQ_MAX_MESSAGE_SIZE allows 10"
    assert [line for _, line in host.lines] == [said.format(11), said.format(13)]


BAD_TOPICS = ["", "a/b", "a#b", "ä", "x" * 65, "#ephemeral", "x#ephemeral2", "a\n"]


@pytest.mark.parametrize("topic", BAD_TOPICS)
def test_a_topic_that_nsq_refuses_is_not_sent(kemi: KemiNsq, parts: Parts, host: FakeHost, topic: str) -> None:
    publisher, asker = parts
    assert kemi.nsq_publish(topic, "{}") == -1
    assert kemi.nsq_query(topic, "{}") is None
    assert host.variables["nqErr"] == "bad payload"
    assert kemi.nsq_query_async(topic, "{}", "ksr_reply_route") == -1
    assert (publisher.sent, asker.asked, asker.later, host.continued) == ([], [], [], [])
    assert [line.split(":")[0] for _, line in host.lines] == ["nsq_publish", "nsq_query", "nsq_query_async"]
    assert all("is no name for a topic or channel" in line for _, line in host.lines)


def test_a_payload_that_is_no_json_is_logged_with_the_place_and_the_way_out(kemi: KemiNsq, host: FakeHost) -> None:
    assert kemi.nsq_publish("calls", "{\n}}") == -1
    [(_, line)] = host.lines
    assert line.endswith(
        "the payload is not JSON: unexpected content after document at line 2 column 2 "
        "(NSQ_PUBLISH_RAW=1 publishes it all the same)"
    )


@pytest.mark.parametrize("payload", ["", "x", "{", "{'a': 1}", '{"a": "\0"}', '{"a": "\n"}', '{"a": "\ud800"}'])
def test_a_payload_that_is_no_json_is_not_sent(
    kemi: KemiNsq, publisher: FakePublisher, host: FakeHost, payload: str
) -> None:
    assert kemi.nsq_publish("t", payload) == -1
    assert publisher.sent == []
    assert host.counters == {Counter.PUBLISH_FAILED: 1}
    assert "the payload " in host.lines[0][1]


def test_raw_payloads_are_sent_as_they_are(parts: Parts) -> None:
    kemi = KemiNsq(FakeHost(defines={"NSQ_PUBLISH_RAW": "1"}))
    fill(kemi, parts)
    assert kemi.nsq_publish("t", "no JSON, ü") == 1
    assert kemi.nsq_publish("t", "\ud800") == -1
    assert [message.body for message in parts[0].sent] == ["no JSON, ü".encode()]


@pytest.mark.parametrize("delay", ["-1", "3600001", "1.5", "x", "", "9" * 5000, "٣", "1_0"])
def test_a_delay_that_nsqd_refuses_is_not_sent(
    native: NativeNsq, publisher: FakePublisher, host: FakeHost, delay: str
) -> None:
    assert native.nsq_publish_deferred(MESSAGE, f"t {delay} {{}}") == -1
    assert publisher.sent == []
    assert host.counters == {Counter.PUBLISH_FAILED: 1}


def test_without_an_outbox_a_dead_nsqd_is_a_failure(
    native: NativeNsq, publisher: FakePublisher, host: FakeHost
) -> None:
    publisher.failure = ConnectionLost("127.0.0.1:4150: Connection refused")
    assert native.nsq_publish(MESSAGE, "t {}") == -1
    assert host.counters == {Counter.PUBLISH_FAILED: 1}
    assert host.lines[0][1] == "nsq_publish: 127.0.0.1:4150: Connection refused"


def test_with_an_outbox_a_dead_nsqd_is_code_2(
    native: NativeNsq, publisher: FakePublisher, outbox: FakeOutbox, host: FakeHost
) -> None:
    inside(native)._outbox = outbox
    publisher.failure = ConnectionLost("gone")
    assert native.nsq_publish_deferred(MESSAGE, "t 50 {}") == 2
    assert outbox.kept == [Outgoing(topic="t", body=b"{}", delay_ms=50)]
    assert host.counters == {Counter.OUTBOX_KEPT: 1}
    assert host.lines == []


def test_a_full_outbox_is_a_failure(
    native: NativeNsq, publisher: FakePublisher, outbox: FakeOutbox, host: FakeHost
) -> None:
    inside(native)._outbox = outbox
    publisher.failure, outbox.failure = ConnectionLost("gone"), OutboxError("full")
    assert native.nsq_publish(MESSAGE, "t {}") == -1
    assert host.counters == {Counter.PUBLISH_FAILED: 1}


def test_the_outbox_keeps_nothing_that_nsqd_refuses(
    native: NativeNsq, publisher: FakePublisher, outbox: FakeOutbox
) -> None:
    inside(native)._outbox = outbox
    publisher.failure = NsqdRefused("E_BAD_MESSAGE", "too big", fatal=True)
    assert native.nsq_publish(MESSAGE, "t {}") == -1
    assert outbox.kept == []


# A variable that is not set


@pytest.mark.parametrize("raw", ["0", "1"])
@pytest.mark.parametrize("text", ["0 {}", "<null> {}", "0", "<null>", "t 0", "t <null>", "t  0"])
def test_a_native_variable_that_is_not_set_is_refused(parts: Parts, text: str, raw: str) -> None:
    host = FakeHost(defines={"NSQ_PUBLISH_RAW": raw})
    native = NativeNsq(host)
    fill(native, parts)
    topic, _, payload = text.partition(" ")
    assert native.nsq_publish(MESSAGE, text) == -1
    assert native.nsq_publish_deferred(MESSAGE, f"{topic} 50 {payload}") == -1
    assert native.nsq_query(MESSAGE, text) == -1
    assert host.variables["nqErr"] == "bad payload"
    assert native.nsq_query_async(MESSAGE, f"{topic} R {payload}") == -1
    assert (parts[0].sent, parts[1].asked, parts[1].later) == ([], [], [])
    wrong, found = ("payload", payload) if topic == "t" else ("topic", topic)
    assert {line.partition(": ")[2] for _, line in host.lines} == {
        f"the {wrong} is {found!r}, which is what a variable holds that is not set"
    }
    assert len(host.lines) == 4


@pytest.mark.parametrize("unset", [None, 0, "0", "<null>"])
def test_a_variable_of_a_script_that_is_not_set_is_refused(
    kemi: KemiNsq, parts: Parts, host: FakeHost, unset: Any
) -> None:
    for topic, payload in ((unset, {"a": 1}), ("t", unset)):
        assert kemi.nsq_publish(topic, payload) == -1
        assert kemi.nsq_query(topic, payload) is None
        assert kemi.nsq_query_async(topic, payload, "ksr_reply_route") == -1
    assert (parts[0].sent, parts[1].asked, parts[1].later) == ([], [], [])
    assert host.counters == {Counter.PUBLISH_FAILED: 2, Counter.QUERY_FAILED: 4}
    assert all(line.endswith("which is what a variable holds that is not set") for _, line in host.lines)


def test_an_empty_object_and_names_that_only_contain_it_are_sent(kemi: KemiNsq, publisher: FakePublisher) -> None:
    assert [kemi.nsq_publish("00", {}), kemi.nsq_publish("None", "[0]"), kemi.nsq_publish("t", "null")] == [1] * 3
    assert len(publisher.sent) == 3


# nsq_query


def test_a_reply_for_which_there_is_no_room_is_no_reply(native: NativeNsq, parts: Parts, host: FakeHost) -> None:
    """`$var(nqR)` would be empty, and the route go on as if there were one."""
    fill(native, parts)
    host.variables["nqR"] = "of an earlier query"
    host.longest = 3
    assert native.nsq_query(MESSAGE, "t {}") == -1
    assert (host.variables["nqR"], host.variables["nqErr"]) == ("", "bad reply")
    assert host.counters == {Counter.QUERY_FAILED: 1}


def test_a_value_for_which_there_is_no_room_is_none(native: NativeNsq, host: FakeHost) -> None:
    host.longest = 3
    assert native.nsq_json(MESSAGE, 'a {"a": "long enough"}') == -1
    assert native.nsq_json(MESSAGE, 'a {"a": "abc"}') == 1


REASONS = [
    (QueryFailed("timeout"), "timeout"),
    (QueryFailed("no consumer"), "no consumer"),
    (QueryFailed("bad reply"), "bad reply"),
    (PayloadError("not JSON"), "bad payload"),
    (NsqdRefused("E_BAD_MESSAGE", "too big", fatal=True), "bad payload"),
    (ConnectionLost("gone"), "no nsqd"),
]


def test_native_query_leaves_the_reply_in_a_variable(native: NativeNsq, asker: FakeAsker, host: FakeHost) -> None:
    host.variables = {"nqR": "old", "nqErr": "old"}
    assert native.nsq_query(MESSAGE, 'where {"a": "b c"}') == 1
    assert asker.asked == [("where", '{"a": "b c"}', 2.0)]
    assert host.variables == {"nqR": asker.reply, "nqErr": ""}
    assert host.counters == {Counter.QUERIED: 1}


def test_kemi_query_returns_the_reply_and_leaves_it_too(kemi: KemiNsq, asker: FakeAsker, host: FakeHost) -> None:
    assert kemi.nsq_query("where", {"a": 1}) == asker.reply
    assert host.variables == {"nqR": asker.reply, "nqErr": ""}


@pytest.mark.parametrize(("failure", "reason"), REASONS, ids=str)
def test_a_query_that_fails_empties_the_reply_and_says_why(
    parts: Parts, host: FakeHost, failure: NsqError, reason: str
) -> None:
    parts[1].failure = failure
    native, kemi = NativeNsq(host), KemiNsq(host)
    fill(native, parts)
    fill(kemi, parts)
    host.variables = {"nqR": "old", "nqErr": "old"}
    assert native.nsq_query(MESSAGE, "t {}") == -1
    assert host.variables == {"nqR": "", "nqErr": reason}
    host.variables = {"nqR": "old", "nqErr": "old"}
    assert kemi.nsq_query("t", "{}") is None
    assert host.variables == {"nqR": "", "nqErr": reason}
    assert host.counters == {Counter.QUERY_FAILED: 2}
    assert [line for _, line in host.lines] == [f"nsq_query: {failure}"] * 2


@pytest.mark.parametrize(
    ("text", "timeout_s"),
    [("0.25", 0.25), ("7", 7.0), ("", 2.0), ("0", 0.01), ("-5", 0.01), ("1e9", 300.0), ("inf", 300.0), ("1e-9", 0.01)],
)
def test_the_timeout_of_the_variable_is_for_one_query(
    native: NativeNsq, asker: FakeAsker, host: FakeHost, text: str, timeout_s: float
) -> None:
    host.variables["nsq_query_timeout"] = text
    native.nsq_query(MESSAGE, "t {}")
    native.nsq_query(MESSAGE, "t {}")
    assert [asked[2] for asked in asker.asked] == [timeout_s, 2.0]
    assert host.variable("nsq_query_timeout") == ""


@pytest.mark.parametrize("call", ["t {}", "/ {}", "t R {}"])
@pytest.mark.parametrize("text", ["5", "soon"])
def test_the_timeout_is_used_up_by_a_query_that_fails_too(
    native: NativeNsq, asker: FakeAsker, host: FakeHost, call: str, text: str
) -> None:
    """A `$var` outlives the SIP request: what is left would change somebody else's query."""
    asker.failure = QueryFailed("timeout")
    host.variables["nsq_query_timeout"] = text
    query = native.nsq_query_async if " R " in call else native.nsq_query
    assert query(MESSAGE, call) == -1
    assert host.variable("nsq_query_timeout") == ""


@pytest.mark.parametrize("text", ["soon", "nan", "1,5", "2 s", "0x10"])
def test_a_timeout_that_is_no_number_is_refused(native: NativeNsq, asker: FakeAsker, host: FakeHost, text: str) -> None:
    host.variables["nsq_query_timeout"] = text
    assert native.nsq_query(MESSAGE, "t {}") == -1
    assert asker.asked == []
    assert host.variable("nqErr") == "bad payload"
    assert host.lines[0][1] == f"nsq_query: $var(nsq_query_timeout) is {text!r}; a number of seconds is wanted"


def test_a_timeout_of_the_call_wins(kemi: KemiNsq, asker: FakeAsker, host: FakeHost) -> None:
    host.variables["nsq_query_timeout"] = "9"
    kemi.nsq_query("t", "{}", timeout=0.5)
    assert kemi.nsq_query("t", "{}", timeout=float("nan")) is None
    assert [asked[2] for asked in asker.asked] == [0.5]
    assert host.variable("nsq_query_timeout") == ""
    assert "the timeout is nan" in host.lines[0][1]


# nsq_query_async


def test_native_async_takes_topic_route_payload(native: NativeNsq, asker: FakeAsker, host: FakeHost) -> None:
    assert native.nsq_query_async(MESSAGE, 'where ANSWERED {"a": "b c"}') == 1
    assert asker.asked == [("where", '{"a": "b c"}', 2.0)]
    assert asker.later == [("where", Suspended(index=7, label=9, route="ANSWERED"))]
    assert host.continued == []
    assert host.counters == {Counter.QUERIED: 1}


def test_kemi_async_names_a_method(kemi: KemiNsq, asker: FakeAsker) -> None:
    assert kemi.nsq_query_async("where", {"a": 1}, "ksr_reply_route") == 1
    assert asker.later == [("where", Suspended(index=7, label=9, route="ksr_reply_route"))]


@pytest.mark.parametrize("name", ["NOSUCH", ""])
def test_a_route_that_is_not_there_is_refused(
    native: NativeNsq, kemi: KemiNsq, asker: FakeAsker, host: FakeHost, name: str
) -> None:
    assert native.nsq_query_async(MESSAGE, f"t {name} {{}}") == -1
    assert kemi.nsq_query_async("t", {}, name) == -1
    assert host.variable("nqErr") == "bad payload"
    assert (asker.asked, asker.later) == ([], [])
    line = f"nsq_query_async: there is no route or method {name!r} in which the transaction could go on"
    assert [text for _, text in host.lines] == [line, line]


@pytest.mark.parametrize(("failure", "reason"), REASONS, ids=str)
def test_what_fails_before_it_is_suspended_goes_on_where_it_is(
    native: NativeNsq, asker: FakeAsker, host: FakeHost, failure: NsqError, reason: str
) -> None:
    asker.failure = failure
    assert native.nsq_query_async(MESSAGE, "t R {}") == -1
    assert host.variables == {"nqR": "", "nqErr": reason}
    assert (asker.later, host.continued) == ([], [])
    assert host.counters == {Counter.QUERY_FAILED: 1}


def test_without_a_transaction_there_is_nothing_to_suspend(native: NativeNsq, asker: FakeAsker, host: FakeHost) -> None:
    host.transaction = None
    assert native.nsq_query_async(MESSAGE, "t R {}") == -1
    assert host.variable("nqErr") == "bad payload"
    assert asker.later == []


def test_a_request_that_does_not_leave_resumes_elsewhere(native: NativeNsq, asker: FakeAsker, host: FakeHost) -> None:
    asker.sends = False
    assert native.nsq_query_async(MESSAGE, "t R {}") == 1
    assert host.continued == []
    assert host.counters == {Counter.QUERY_FAILED: 1}


def test_a_query_that_no_consumer_takes_any_more_resumes_here(
    native: NativeNsq, asker: FakeAsker, host: FakeHost
) -> None:
    """It is suspended already, and nobody else would ever let it go on."""
    asker.later_failure = QueryFailed("no consumer")
    assert native.nsq_query_async(MESSAGE, "t R {}") == 1
    ((suspended, variables),) = host.continued
    assert suspended == Suspended(index=7, label=9, route="R")
    assert variables == {"nqR": "", "nqErr": "no consumer"}
    assert host.counters == {Counter.QUERY_FAILED: 1}


# nsq_json and nsq_encode


@pytest.mark.parametrize(
    ("text", "code", "result"),
    [
        ('a.b {"a": {"b": "c d"}}', 1, "c d"),
        ('a {"a": ""}', 1, ""),
        ('a {"a": false}', 1, "false"),
        ('a {"a": null}', -1, ""),
        ('b {"a": 1}', -1, ""),
        ("a {", -1, ""),
        ("a", -1, ""),
        ("", -1, ""),
        (" {}", -1, ""),
        ('a {"a": "b\\u0000c"}', 1, "bc"),
    ],
)
def test_native_json_leaves_a_value_or_nothing(
    native: NativeNsq, host: FakeHost, text: str, code: int, result: str
) -> None:
    host.variables["nqJ"] = "old"
    assert native.nsq_json(MESSAGE, text) == code
    assert host.variables["nqJ"] == result


def test_only_what_is_wrong_is_logged_by_json(native: NativeNsq, host: FakeHost) -> None:
    native.nsq_json(MESSAGE, 'b {"a": 1}')
    assert (host.lines, host.counters) == ([], {})
    native.nsq_json(MESSAGE, "a..b {}")
    assert host.counters == {Counter.JSON_FAILED: 1}


def test_kemi_json_and_encode_return(kemi: KemiNsq) -> None:
    assert kemi.nsq_json("a[0].b%c", '{"a": [{"b.c": "\\u0000"}]}') == "\0"
    assert kemi.nsq_json("x", "{}") is None
    assert kemi.nsq_json("x", "") is None
    assert kemi.nsq_encode("a.b c") == "a%2Eb+c"
    assert kemi.nsq_encode(None) == ""


def test_native_encode_leaves_the_key(native: NativeNsq, host: FakeHost) -> None:
    assert native.nsq_encode(MESSAGE, "é b") == 1
    assert host.variables["nqJ"] == "%C3%A9+b"


# Shapes


@pytest.mark.parametrize(
    ("text", "count", "parts"),
    [
        ("a b c", 2, ["a", "b c"]),
        ("a b c d", 3, ["a", "b", "c d"]),
        ("a", 3, ["a", "", ""]),
        ("", 2, ["", ""]),
        ("a  b", 2, ["a", " b"]),
        (" a", 2, ["", "a"]),
        ("a\tb", 2, ["a\tb", ""]),
    ],
)
def test_the_first_blanks_cut(text: str, count: int, parts: list[str]) -> None:
    assert _split(text, count) == parts


@given(st.text(), st.integers(2, 3))
def test_nothing_of_the_text_is_lost(text: str, count: int) -> None:
    parts = _split(text, count)
    assert len(parts) == count
    assert " ".join(parts).rstrip(" ") == text.rstrip(" ")


CALLS: list[Callable[[KemiNsq, Any], object]] = [
    lambda kemi, value: kemi.nsq_publish(value, "{}"),
    lambda kemi, value: kemi.nsq_publish_deferred("t", value, "{}"),
    lambda kemi, value: kemi.nsq_query(value, "{}"),
    lambda kemi, value: kemi.nsq_query("t", "{}", value),
    lambda kemi, value: kemi.nsq_query_async(value, "{}", "ksr_reply_route"),
    lambda kemi, value: kemi.nsq_query_async("t", "{}", value),
    lambda kemi, value: kemi.nsq_json(value, "{}"),
    lambda kemi, value: kemi.nsq_json("a", value),
]


@pytest.mark.parametrize("value", [None, b"x", 1.5, [], {}, pytest.param(object(), id="object")], ids=repr)
@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_type_in_python_raises_nothing_into_kamailio(
    kemi: KemiNsq, call: Callable[[KemiNsq, Any], object], value: object
) -> None:
    assert call(kemi, value) != 0


def test_codes_are_numbers_that_a_route_can_tell_apart(native: NativeNsq, publisher: FakePublisher) -> None:
    codes = {native.nsq_publish(MESSAGE, text) for text in ("t {}", "t", "t [1]", "t {", json.dumps("x"))}
    assert codes == {1, -1}
