# SPDX-License-Identifier: GPL-2.0-or-later
"""nsq_query and nsq_query_async in real routes, native and in Python; what goes wrong is in test_query_failures.py."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from kemi_nsq.names import Subscription, address
from kemi_nsq.tools.reader import Reader
from tests.support.calls import Caller, calls_chain, result
from tests.support.chain import Chain
from tests.support.responding import Request, Responding, reply_to
from tests.support.sip_message import Response
from tests.support.sipp import sipp
from tests.support.until import until

#: A publisher keeps its connections as long as its process lives, so the responder's has no `close`.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

#: How late an answer may be on a busy machine.
LATE_S = 0.2
METHODS = pytest.mark.parametrize("method", ["MESSAGE", "INVITE"])


@pytest.fixture(scope="module")
def chain(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """One SIP worker and one consumer, so that neither can hide behind another."""
    with calls_chain(kind, tmp_path_factory.mktemp(kind), TEST_CHILDREN=1, NSQ_CONSUMERS=1) as chain:
        yield chain


@pytest.fixture
def caller(chain: Chain) -> Iterator[Caller]:
    with Caller(chain.kamailio.sip_target) as caller:
        yield caller


def fields(request: Request) -> Request:
    return {"asked": request.get("n")}


def silent(_request: Request) -> None:
    return None


def reply_of(answer: Response) -> Request:
    fields: Request = json.loads(answer.require("X-Reply"))
    return fields


def resumed(chain: Chain, call_id: str) -> int:
    """Return how often the transaction of a call was resumed."""
    return len(chain.log_lines(f"test: resumed {call_id}"))


# nsq_query


def test_a_query_has_its_reply(chain: Chain, caller: Caller) -> None:
    with Responding(chain.nsqd, "where", fields) as responding:
        for number in range(5):
            answer = caller.call("nsq_query", f'where {{"n": {number}}}').wait()
            assert result(answer) == (1, "")
            assert reply_of(answer)["asked"] == number
    assert responding.requests[0]["Node"] == "node"


@pytest.mark.parametrize("size", [1_000, 100_000, 900_000])
@pytest.mark.parametrize("function", ["nsq_query where", "nsq_query_async where ANSWERED"])
def test_a_large_reply_arrives_whole(chain: Chain, caller: Caller, function: str, size: int) -> None:
    name, _, rest = function.partition(" ")
    with Responding(chain.nsqd, "where", lambda _request: {"text": "x" * size, "Msg-ID": ""}) as responding:
        answer = caller.call(name, rest + ' {"Msg-ID": "m"}').wait()
    assert responding.requests[0]["Msg-ID"] == "m"
    assert int(answer.require("X-Length")) == len('{"text":"","Msg-ID":"m"}') + size


def test_a_query_without_a_reply_ends_at_its_deadline(chain: Chain, caller: Caller) -> None:
    started = time.monotonic()
    answer = caller.call("nsq_query", "nobody {}", timeout="0.3").wait()
    assert result(answer) == (-1, "timeout")
    assert answer.require("X-Length") == "0"
    assert 0.3 <= time.monotonic() - started < 0.3 + LATE_S


def test_the_timeout_of_one_request_is_not_that_of_the_next(chain: Chain, caller: Caller) -> None:
    """The one worker keeps its variables. It is busy for longer than T1: t_newtran, since the request comes again."""

    def slow(request: Request) -> None:
        until(lambda: time.monotonic() - started > 0.6, what="longer than the first timeout")
        responding.reply(request, reply_to(request))

    caller.call("nsq_query", "nobody {}", timeout="0.1").wait()
    started = time.monotonic()
    with Responding(chain.nsqd, "where", slow) as responding:
        assert result(caller.call("nsq_query", "where {}", newtran=True).wait()) == (1, "")


@pytest.mark.parametrize("text", ["where hello", "where []", "where", "a/b {}", 'where {"a": "\0"}'])
@pytest.mark.parametrize("function", ["nsq_query", "nsq_query_async"])
def test_a_bad_query_is_refused_and_not_suspended(chain: Chain, caller: Caller, function: str, text: str) -> None:
    if function == "nsq_query_async":
        topic, blank, payload = text.partition(" ")
        text = f"{topic} ANSWERED{blank}{payload}"
    answer = caller.call(function, text).wait()
    assert (answer.status, result(answer)) == (200, (-1, "bad payload"))


def test_a_query_inside_an_event_route(chain: Chain) -> None:
    """The only consumer asks, and the reply comes through itself."""
    with Responding(chain.nsqd, "where", fields):
        for number in range(10):
            chain.publish(json.dumps({"Event-Category": "test", "Event-Name": "query", "n": number}).encode())
        with closing(Reader(address(chain.nsqd.tcp_address), Subscription("queried", "test"))) as reader:
            asked = {json.loads(reader.next_message(10).body)["asked"] for _ in range(10)}
    assert asked == set(range(10))


# nsq_query_async


@METHODS
def test_a_suspended_request_goes_on_with_the_reply(chain: Chain, caller: Caller, method: str) -> None:
    with Responding(chain.nsqd, "where", fields):
        call = caller.call("nsq_query_async", 'where ANSWERED {"n": 1}', method=method)
        answer = call.wait()
    assert (answer.status, answer.reason) == (202, "Later")
    assert reply_of(answer)["asked"] == 1
    assert resumed(chain, call.call_id) == 1


@METHODS
def test_a_suspended_request_goes_on_at_the_deadline(chain: Chain, caller: Caller, method: str) -> None:
    with Responding(chain.nsqd, "where", silent) as responding:
        started = time.monotonic()
        call = caller.call("nsq_query_async", "where ANSWERED {}", timeout="0.3", method=method)
        answer = call.wait()
        assert 0.3 <= time.monotonic() - started < 0.3 + LATE_S
        dropped = chain.counter("reply_dropped")
        (late,) = until(lambda: responding.requests, what="the question")
        responding.reply(late, reply_to(late))
        until(lambda: chain.counter("reply_dropped") == dropped + 1, what="the late reply to be dropped")
    assert (answer.status, result(answer)) == (202, (1, "timeout"))
    assert resumed(chain, call.call_id) == 1


@pytest.mark.parametrize("newtran", [True, False], ids=["after t_newtran", "without t_newtran"])
def test_a_repeated_request_asks_again_unless_its_transaction_is_there(
    chain: Chain, caller: Caller, newtran: bool
) -> None:
    with Responding(chain.nsqd, "where", silent) as responding:
        call = caller.call("nsq_query_async", "where ANSWERED {}", timeout="20", newtran=newtran)
        until(lambda: responding.requests, what="the question")
        caller.repeat()
        assert caller.send("OPTIONS").wait().status == 200  # the only worker has handled the repeated request
        chain.drain(topic="where", channel="responder")
        asked = list(responding.requests)
        assert (len(asked) == 1) == newtran
        failed = chain.counter("resume_failed")
        for request in asked:
            responding.reply(request, reply_to(request))
        assert call.wait().status == 202
        until(lambda: chain.counter("resume_failed") == failed + len(asked) - 1, what="the others to resume nothing")
    assert resumed(chain, call.call_id) == 1


def test_a_second_reply_resumes_nothing(chain: Chain, caller: Caller) -> None:
    def twice(request: Request) -> None:
        for number in (1, 2):
            responding.reply(request, reply_to(request, number=number))

    dropped = chain.counter("reply_dropped")
    with Responding(chain.nsqd, "where", twice) as responding:
        call = caller.call("nsq_query_async", "where ANSWERED {}")
        assert reply_of(call.wait())["number"] == 1
        until(lambda: chain.counter("reply_dropped") == dropped + 1, what="the second reply to be dropped")
    assert resumed(chain, call.call_id) == 1


def test_a_resumed_route_may_ask_again(chain: Chain, caller: Caller) -> None:
    def answer(request: Request) -> Request:
        return {"got": request["second"]} if "second" in request else {"next": "step"}

    with Responding(chain.nsqd, "where", answer):
        call = caller.call("nsq_query_async", "where TWICE {}")
        assert reply_of(call.wait())["got"] == "step"
    assert resumed(chain, call.call_id) == 2


def test_an_event_route_has_nothing_to_suspend(chain: Chain) -> None:
    chain.publish(b'{"Event-Category": "test", "Event-Name": "async"}')
    with closing(Reader(address(chain.nsqd.tcp_address), Subscription("queried", "test"))) as reader:
        assert json.loads(reader.next_message(10).body) == {"code": -1, "reason": "bad payload"}


def test_the_only_worker_is_free_meanwhile(chain: Chain, caller: Caller) -> None:
    held: list[Request] = []
    with Responding(chain.nsqd, "where", held.append) as responding:
        calls = [caller.call("nsq_query_async", f'where ANSWERED {{"n": {n}}}', method="INVITE") for n in range(50)]
        until(lambda: len(held) == 50, what="all questions")
        for _ in range(10):
            started = time.monotonic()
            assert caller.send("OPTIONS").wait().status == 200
            assert time.monotonic() - started < LATE_S
        assert not any(call.done for call in calls)
        for request in reversed(held):
            responding.reply(request, reply_to(request, asked=request["n"]))
        assert [reply_of(call.wait())["asked"] for call in calls] == list(range(50))
    assert all(resumed(chain, call.call_id) == 1 for call in calls)


def test_a_cancelled_request_is_resumed_no_more(chain: Chain, caller: Caller) -> None:
    with Responding(chain.nsqd, "where", fields) as responding:
        responding.answer_request = silent
        sipp("cancel", chain.kamailio.sip_target, chain.folder)  # from INVITE to 487
        (request,) = until(lambda: responding.requests, what="the question")
        lines = len(chain.log_lines("test: resumed"))
        dropped = chain.counter("reply_dropped")
        for _ in range(2):
            responding.reply(request, reply_to(request))
        until(lambda: chain.counter("reply_dropped") == dropped + 1, what="the first reply to be taken")
        responding.answer_request = fields
        assert caller.call("nsq_query_async", "where ANSWERED {}").wait().status == 202
    assert len(chain.log_lines("test: resumed")) == lines + 1


# nsq_json and nsq_encode


@pytest.mark.parametrize(
    ("function", "text", "code", "value"),
    [
        ("nsq_json", 'Channels[1].switch_url {"Channels": [{}, {"switch_url": "sip:é"}]}', 1, "sip:é"),
        ("nsq_json", 'a%b {"a.b": 1}', 1, "1"),
        ("nsq_json", 'a {"a": null}', -1, ""),
        ("nsq_json", "a {", -1, ""),
        ("nsq_json", "a..b {}", -1, ""),
        ("nsq_encode", "a.b c/é", 1, "a%2Eb+c%2F%C3%A9"),
        ("nsq_encode", "#", 1, "#"),
    ],
)
def test_json_and_encode(chain: Chain, caller: Caller, function: str, text: str, code: int, value: str) -> None:  # noqa: PLR0913, PLR0917
    answer = caller.call(function, text).wait()
    assert (result(answer)[0], answer.get("X-Value")) == (code, value)
