# SPDX-License-Identifier: GPL-2.0-or-later
"""nsq_publish in real routes, native and in Python: request, failure and event routes, timers; and bad input."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kemi_nsq.names import Subscription, address
from kemi_nsq.tools.reader import Reader
from tests.support.calls import Caller, calls_chain, result
from tests.support.chain import Chain
from tests.support.ports import LOOPBACK
from tests.support.until import until

PUBLISH_TIMEOUT_S = 0.3
#: How late an answer may be on a busy machine.
LATE_S = 0.2
MAX_MSG_SIZE = 20_000


@pytest.fixture(scope="module")
def chain(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """One SIP worker, so that each call finds what the last one left behind."""
    with calls_chain(
        kind,
        tmp_path_factory.mktemp(kind),
        nsqd_options={"max_msg_size": MAX_MSG_SIZE},
        TEST_CHILDREN=1,
        NSQ_PUBLISH_TIMEOUT=str(PUBLISH_TIMEOUT_S),
    ) as chain:
        yield chain


@pytest.fixture
def caller(chain: Chain) -> Iterator[Caller]:
    with Caller(chain.kamailio.sip_target) as caller:
        yield caller


def read(chain: Chain, topic: str) -> bytes:
    """Take one message of a topic."""
    with closing(Reader(address(chain.nsqd.tcp_address), Subscription(topic, "test"))) as reader:
        return reader.next_message(10).body


def code(caller: Caller, function: str, text: str | bytes) -> int:
    return result(caller.call(function, text).wait())[0]


# From every route


def test_from_a_request_route(chain: Chain, caller: Caller) -> None:
    payload = '{"a": "b c", "ü": "€ \\" \\\\ $rU %s"}'
    assert code(caller, "nsq_publish", f"request {payload}") == 1
    assert read(chain, "request").decode() == payload


def test_later(chain: Chain, caller: Caller) -> None:
    started = time.monotonic()
    assert code(caller, "nsq_publish_deferred", 'deferred 300 {"a": 1}') == 1
    assert time.monotonic() - started < 0.3
    assert read(chain, "deferred") == b'{"a": 1}'
    assert time.monotonic() - started >= 0.3


def test_from_a_failure_route(chain: Chain, caller: Caller) -> None:
    busy = f"sip:bob@{LOOPBACK}:{caller.address[1]}"  # answers 486
    call = caller.send("MESSAGE", uri=busy, headers=(("x-call", "failure"),))
    assert (call.wait().status, call.wait().reason) == (480, "Published")
    assert json.loads(read(chain, "failures")) == {"Call-ID": call.call_id, "Status": "486"}


def test_from_an_event_route(chain: Chain) -> None:
    event = b'{"Event-Category": "test", "Event-Name": "publish", "n": 1}'
    chain.publish(event)
    assert read(chain, "published") == event


def test_from_a_timer(chain: Chain) -> None:
    until(lambda: chain.nsqd.topic("timers")["message_count"] >= 2, what="two ticks")
    assert json.loads(read(chain, "timers"))["Process"].isdigit()


@pytest.mark.parametrize("size", [100, 8_192, 15_000])
def test_texts_above_the_buffer_of_kamailio_are_sent_whole(chain: Chain, caller: Caller, size: int) -> None:
    """Its default for pv_buffer_size is 8192; nsq.cfg raises it."""
    payload = json.dumps({"text": "x" * size})
    assert code(caller, "nsq_publish", f"size-{size} {payload}") == 1
    assert read(chain, f"size-{size}").decode() == payload


# Bad input: a code, a line, and the next call works

BAD = {
    "no JSON": "t hello",
    "half JSON": 't {"a":',
    "no payload": "t",
    "nothing": "",
    "slash": "a/b {}",
    "hash": "a#b {}",
    "umlaut": "ä {}",
    "long topic": "x" * 65 + " {}",
    "too large": 't {"a": "' + "x" * MAX_MSG_SIZE + '"}',
    "NUL": 't {"a": "\0"}',
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_bad_input_is_minus_one_and_the_next_call_works(chain: Chain, caller: Caller, text: str) -> None:
    before = chain.counter("publish_failed")
    for _ in range(3):
        assert code(caller, "nsq_publish", text) == -1
        assert code(caller, "nsq_publish", "next {}") == 1
        assert code(caller, "nsq_encode", "x") == 1
    assert chain.counter("publish_failed") - before == 3
    assert "bug" not in chain.counters()


def test_any_function_may_be_the_next_after_a_text_that_is_not_utf_8(tmp_path: Path) -> None:
    """Kamailio does not call Python then, and keeps the error: the next call of that worker would fail, whosever it is.

    In Python routes KSR.pv.get raises it at once, in the operator's own code.
    """
    with calls_chain("native", tmp_path, TEST_CHILDREN=1) as chain, Caller(chain.kamailio.sip_target) as caller:
        for function, text in (("nsq_json", 'a {"a": 1}'), ("nsq_encode", "x"), ("nsq_publish", "next {}")):
            for _ in range(20):  # Python specialises what runs often
                assert code(caller, "nsq_publish", b't {"a": "\xff"}') == -1
                assert code(caller, function, text) == 1
        assert not chain.log_lines("SystemError")
        assert chain.nsqd.topic("next")["message_count"] == 20


# A nsqd that does not answer. These come last: for some seconds the nsqd is left alone.


@pytest.fixture
def revived(chain: Chain, caller: Caller) -> Iterator[None]:
    yield
    chain.nsqd.thaw()
    if chain.nsqd.process.exit_code is not None:
        chain.nsqd.start()
    until(lambda: code(caller, "nsq_publish", "revived {}") == 1, timeout_s=10, what="a publish after the outage")


@pytest.mark.usefixtures("revived")
def test_a_frozen_nsqd_costs_no_more_than_the_deadline(chain: Chain, caller: Caller) -> None:
    assert code(caller, "nsq_publish", "t {}") == 1
    chain.nsqd.freeze()
    started = time.monotonic()
    assert code(caller, "nsq_publish", "t {}") == -1
    assert PUBLISH_TIMEOUT_S <= time.monotonic() - started < PUBLISH_TIMEOUT_S + LATE_S
    started = time.monotonic()
    assert code(caller, "nsq_publish", "t {}") == -1
    assert time.monotonic() - started < LATE_S, "it is left alone"


@pytest.mark.usefixtures("revived")
def test_a_dead_nsqd_fails_at_once_and_a_restarted_one_is_found(chain: Chain, caller: Caller) -> None:
    chain.nsqd.kill()
    started = time.monotonic()
    assert code(caller, "nsq_publish", "t {}") == -1
    assert time.monotonic() - started < LATE_S
