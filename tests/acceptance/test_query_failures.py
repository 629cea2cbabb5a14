# SPDX-License-Identifier: GPL-2.0-or-later
"""Queries when nsqd, the consumer or Kamailio itself is away: a reason in time, and no transaction left behind."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.calls import Caller, calls_chain, result
from tests.support.chain import Chain
from tests.support.kamailio import quoted
from tests.support.ports import LOOPBACK
from tests.support.process import is_stopped
from tests.support.responding import Request, Responding, reply_to
from tests.support.until import until

#: A publisher keeps its connections as long as its process lives, so the responder's has no `close`.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

#: How late an answer may be on a busy machine.
LATE_S = 0.2
#: After a query's time its transaction has so much more to be resumed, before tm ends it.
RESUME_S = 1.0


@pytest.fixture(params=["native", "kemi"])
def chain(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Chain]:
    # The reply topic is the same after a restart where the runtime folder is.
    run_dir = quoted(tmp_path / "run")
    with calls_chain(
        request.param,
        tmp_path,
        TEST_CHILDREN=1,
        NSQ_MAX_REPLY_SIZE=1000,
        NSQ_PUBLISH_TIMEOUT="0.2",
        NSQ_RUN_DIR=run_dir,
    ) as chain:
        yield chain


@pytest.fixture
def caller(chain: Chain) -> Iterator[Caller]:
    with Caller(chain.kamailio.sip_target) as caller:
        yield caller


def silent(_request: Request) -> None:
    return None


def resumed(chain: Chain, call_id: str) -> int:
    return len(chain.log_lines(f"test: resumed {call_id}"))


@contextmanager
def silent_phone() -> Iterator[str]:
    """Return the URI of a phone that never says anything."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as phone:
        phone.bind((LOOPBACK, 0))
        yield f"sip:bob@{LOOPBACK}:{phone.getsockname()[1]}"


@contextmanager
def frozen_consumer(chain: Chain) -> Iterator[None]:
    (consumer,) = (pid for pid, text in chain.kamailio.pids().items() if text.endswith("consumer"))
    os.kill(consumer, signal.SIGSTOP)
    try:
        until(lambda: is_stopped(consumer), what="the consumer to stop")
        yield
    finally:
        os.kill(consumer, signal.SIGCONT)


def test_without_nsqd_the_reason_is_no_nsqd(chain: Chain, caller: Caller) -> None:
    chain.nsqd.kill()
    started = time.monotonic()
    assert result(caller.call("nsq_query", "where {}").wait()) == (-1, "no nsqd")
    call = caller.call("nsq_query_async", "where ANSWERED {}")
    assert (call.wait().status, result(call.wait())) == (202, (1, "no nsqd"))
    assert time.monotonic() - started < 2 * LATE_S
    assert resumed(chain, call.call_id) == 1
    chain.nsqd.start()  # for the end of the chain


def test_a_frozen_nsqd_costs_no_more_than_the_deadline(chain: Chain, caller: Caller) -> None:
    chain.nsqd.freeze()
    started = time.monotonic()
    assert result(caller.call("nsq_query", "where {}", timeout="0.1").wait()) == (-1, "no nsqd")
    assert time.monotonic() - started < 0.1 + LATE_S
    chain.nsqd.thaw()


def test_a_reply_that_is_too_large_is_a_bad_reply(chain: Chain, caller: Caller) -> None:
    with Responding(chain.nsqd, "where", lambda _request: {"text": "x" * 1000}):
        assert result(caller.call("nsq_query", "where {}").wait()) == (-1, "bad reply")
        assert result(caller.call("nsq_query_async", "where ANSWERED {}").wait()) == (1, "bad reply")


def test_a_consumer_that_does_not_listen_leaves_no_transaction_behind(chain: Chain, caller: Caller) -> None:
    """Its postbox fills up; the query that is suspended already, but not taken any more, goes on in the worker."""
    with frozen_consumer(chain):  # else it would take one letter more
        # A suspended query needs two letters. The postbox takes an odd number: one query finds its second refused.
        room = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text(encoding="ascii")) + 1
        if room % 2 == 0:
            assert result(caller.call("nsq_query", "where {}", timeout="0.05").wait()) == (-1, "timeout")
        calls = [
            caller.call("nsq_query_async", "where ANSWERED {}", timeout="2", newtran=True) for _ in range(room // 2 + 3)
        ]
        until(lambda: sum(call.done for call in calls) >= 3, what="those that were not taken")
        early = [call.wait() for call in calls if call.done]
        assert {result(answer)[1] for answer in early} == {"no consumer"}
        assert 202 in {answer.status for answer in early}, "one had been suspended"
    for call in calls:
        assert call.wait().status in {200, 202}
        assert resumed(chain, call.call_id) == (call.wait().status == 202)


@pytest.mark.parametrize("method", ["MESSAGE", "INVITE"])
def test_a_frozen_consumer_costs_the_caller_no_more_than_the_deadline(
    chain: Chain, caller: Caller, method: str
) -> None:
    with frozen_consumer(chain):
        started = time.monotonic()
        call = caller.call("nsq_query_async", "where ANSWERED {}", timeout="0.5", method=method, newtran=True)
        assert call.wait().status == 408
        assert 0.5 < time.monotonic() - started < 0.5 + RESUME_S + LATE_S
    again = caller.call("nsq_query_async", "where ANSWERED {}", timeout="0.1", method=method, newtran=True)
    assert (again.wait().status, result(again.wait())) == (202, (1, "timeout"))
    assert (resumed(chain, call.call_id), chain.counter("resume_failed")) == (0, 1)


@pytest.mark.parametrize(("fr_ms", "until_s"), [("", 5), ("2000", 2)], ids=["fr_timer", "t_set_fr"])
def test_what_a_resumed_route_relays_has_the_usual_time(
    chain: Chain, caller: Caller, fr_ms: str, until_s: float
) -> None:
    """Nobody answers it; the 408 comes when tm's timer says so, and not when the query's time is over."""
    headers = [("x-call", "nsq_query_async"), ("x-timeout", "0.3"), ("x-newtran", "yes"), ("x-fr", fr_ms)]
    with silent_phone() as uri, Responding(chain.nsqd, "where", lambda _request: {}):
        started = time.monotonic()
        call = caller.send("MESSAGE", uri=uri, headers=tuple(filter(all, headers)), body=b"where RELAYED {}")
        assert call.wait().status == 408
        assert until_s - LATE_S < time.monotonic() - started < until_s + 2 * LATE_S


def test_replies_that_come_after_a_restart_resume_nothing(chain: Chain, caller: Caller) -> None:
    with Responding(chain.nsqd, "where", silent) as responding:
        calls = [caller.call("nsq_query_async", "where ANSWERED {}", timeout="30") for _ in range(3)]
        until(lambda: len({each["Msg-ID"] for each in responding.requests}) == 3, what="all questions")
        chain.kamailio.process.kill()
        chain.kamailio.stop()
        chain.kamailio.start()
        until(lambda: chain.counter("connected") == 2, what="the consumer")
        before = list(responding.requests)
        for request in before[:3]:
            responding.reply(request, reply_to(request))
        until(lambda: chain.counter("reply_dropped") >= 3, what="the replies to be dropped")
        assert chain.counter("resume_failed") == 0
        assert not any(resumed(chain, call.call_id) for call in calls)
    with Responding(chain.nsqd, "where", lambda _request: {}):
        assert caller.call("nsq_query_async", "where ANSWERED {}").wait().status == 202


@pytest.mark.parametrize("method", ["MESSAGE", "INVITE"])
def test_a_route_that_is_not_there_is_refused_before_anything_is_suspended(
    chain: Chain, caller: Caller, method: str
) -> None:
    for _ in range(2):
        answer = caller.call("nsq_query_async", "where NOSUCH {}", method=method).wait(LATE_S)
        assert (answer.status, result(answer)) == (200, (-1, "bad payload"))
    lines = chain.log_lines("(WARNING|ERROR):")
    assert len(lines) == 2
    assert all("nsq_query_async: there is no route or method 'NOSUCH' in which" in line for line in lines)
    assert chain.counter("resume_failed") == 0
    assert caller.call("nsq_query_async", "where ANSWERED {}", method=method, timeout="0.01").wait().status == 202


@pytest.mark.parametrize("kind", ["native", "kemi"])
@pytest.mark.parametrize("function", ["nsq_query where", "nsq_query_async where ANSWERED"])
def test_a_reply_for_which_kamailio_has_no_memory(kind: str, function: str, tmp_path: Path) -> None:
    name, _, rest = function.partition(" ")
    roomy = {"max_msg_size": 16_000_000, "max_body_size": 16_000_000}
    sizes = iter([9_000_000, 10])
    with (
        calls_chain(kind, tmp_path, nsqd_options=roomy, TEST_CHILDREN=1, NSQ_MAX_REPLY_SIZE=16_000_000) as chain,
        Responding(chain.nsqd, "where", lambda _request: {"text": "x" * next(sizes)}),
        Caller(chain.kamailio.sip_target) as caller,
    ):
        code, reason = result(caller.call(name, f"{rest} {{}}", timeout="10").wait())
        assert (code, reason) == (-1 if name == "nsq_query" else 1, "bad reply")
        assert result(caller.call(name, f"{rest} {{}}").wait()) == (1, "")
