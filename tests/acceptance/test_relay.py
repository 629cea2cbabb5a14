# SPDX-License-Identifier: GPL-2.0-or-later
"""nsq_publish_async in a real Kamailio: workers, the relay, nsqd away and back, the outbox, the end and a crash."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kemi_nsq.monitoring.health import Health
from kemi_nsq.monitoring.status import look
from kemi_nsq.names import Subscription, address
from kemi_nsq.runtime.page import RELAY
from kemi_nsq.tools.reader import Reader
from tests.acceptance.conftest import custom_chain, with_handlers
from tests.support.calls import Caller, calls_chain, result
from tests.support.chain import Chain
from tests.support.kamailio import quoted
from tests.support.process import is_running
from tests.support.until import until

MESSAGES = 50
MAX_SIZE = 5_000
SLOW = """
@event_route("nsq:consumer-event-test-slow")
def slow(self, event):
    KSR.notice("test: begins\\n")
    Never().wait(0.5)
    code = self.nsq_publish_async("t", {"n": 1})
    KSR.notice(f"test: published {code}\\n")
"""


@pytest.fixture(scope="module")
def chain(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """One SIP worker, whose messages have an order."""
    folder = tmp_path_factory.mktemp(kind)
    with calls_chain(kind, folder, TEST_CHILDREN=1, NSQ_MAX_MESSAGE_SIZE=MAX_SIZE) as chain:
        yield chain


@pytest.fixture
def caller(chain: Chain) -> Iterator[Caller]:
    with caller_of(chain) as caller:
        yield caller


def caller_of(chain: Chain) -> Caller:
    return Caller(chain.kamailio.sip_target)


def publish(caller: Caller, topic: str, count: int = MESSAGES, function: str = "nsq_publish_async") -> None:
    """Call the function, again and again, and see that each message is taken."""
    for number in range(count):
        assert result(caller.call(function, f'{topic} {{"n":{number}}}').wait())[0] == 1


def bodies(chain: Chain, topic: str, count: int = MESSAGES) -> list[Any]:
    """Return what came on a topic, which is that many messages and no more; nsqd may have been started anew."""
    with closing(Reader(address(chain.nsqd.tcp_address), Subscription(topic, "test"))) as reader:
        found = [reader.next_message(20) for _ in range(count)]
    assert chain.nsqd.channel(topic, "test").depth == 0
    # In the order in which nsqd took them: what it had on its disk it delivers in between.
    return [json.loads(each.body) for each in sorted(found, key=lambda each: each.timestamp_ns)]


def numbers(chain: Chain, topic: str, count: int = MESSAGES) -> list[int]:
    return [body["n"] for body in bodies(chain, topic, count)]


def relay_of(chain: Chain) -> tuple[str, float]:
    """Return what `kemi-nsq status` says of the relay: what is wrong with it, and how many messages it holds."""
    (relay,) = (each for each in look(chain.kamailio.pages_folder, time.time()).processes if each.role == RELAY)
    assert relay.alive
    return " ".join(problem.text for problem in relay.problems), relay.gauges["relay_messages"]


def test_it_arrives_in_the_order_in_which_a_worker_gave_it(chain: Chain, caller: Caller) -> None:
    before = {name: chain.counter(name) for name in ("queued", "published")}
    publish(caller, "ordered")
    assert numbers(chain, "ordered") == list(range(MESSAGES))
    for name, count in before.items():
        until(lambda name=name, count=count: chain.counter(name) - count >= MESSAGES, what=name)  # type: ignore[misc]
    assert relay_of(chain) == ("", 0)


BAD = {
    "no JSON": ("t hello", "the payload is not JSON"),
    "no payload": ("t", "the payload is ''|the payload is not JSON"),
    "a bad topic": ("a/b {}", "a/b"),
    "too large": ('t {"a": "' + "x" * MAX_SIZE + '"}', f"NSQ_MAX_MESSAGE_SIZE allows {MAX_SIZE}"),
}


@pytest.mark.parametrize(("text", "said"), BAD.values(), ids=BAD)
def test_what_cannot_be_published_is_refused_at_once(chain: Chain, caller: Caller, text: str, said: str) -> None:
    failed, queued = chain.counter("publish_failed"), chain.counter("queued")
    assert result(caller.call("nsq_publish_async", text).wait())[0] == -1
    assert chain.counter("publish_failed") - failed == 1
    assert chain.log_lines(f"nsq_publish_async: .*({said})")
    assert chain.counter("queued") == queued


def test_nsqd_away_and_back(chain: Chain, caller: Caller) -> None:
    publish(caller, "away", 1)
    until(lambda: chain.nsqd.topic("away")["message_count"] == 1, what="the first")
    chain.nsqd.stop()
    for number in range(1, MESSAGES):
        assert result(caller.call("nsq_publish_async", f'away {{"n":{number}}}').wait())[0] == 1
    until(lambda: relay_of(chain)[1] == MESSAGES - 1, what="the relay to hold them")
    problem, _ = relay_of(chain)
    assert "relay: since " in problem
    assert "nobody takes what the relay holds" in problem
    assert look(chain.kamailio.pages_folder, time.time()).health is Health.CRITICAL, "nsqd is away"
    chain.nsqd.start()
    until(lambda: relay_of(chain) == ("", 0), timeout_s=20, what="an empty relay")
    assert numbers(chain, "away") == list(range(MESSAGES))
    lines = chain.log_lines("what the relay holds")
    assert ["nobody takes" in line for line in lines] == [True, False]


def test_with_publish_wait_0_it_is_what_nsq_publish_does(kind: str, tmp_path: Path) -> None:
    with calls_chain(kind, tmp_path, NSQ_PUBLISH_WAIT=0, TEST_CHILDREN=1) as chain, caller_of(chain) as caller:
        queued = chain.counter("queued")
        publish(caller, "t", function="nsq_publish")
        assert numbers(chain, "t") == list(range(MESSAGES))
        assert chain.counter("queued") - queued >= MESSAGES


def test_without_a_relay_the_call_fails_and_says_what_to_do(tmp_path: Path) -> None:
    with calls_chain("native", tmp_path, TEST_CHILDREN=1) as chain, caller_of(chain) as caller:
        (relay,) = (each for each in look(chain.kamailio.pages_folder, time.time()).processes if each.role == RELAY)
        (chain.kamailio.pages_folder / "relay.sock").unlink()
        os.kill(relay.pid, signal.SIGSTOP)  # so that it does not make it again
        assert result(caller.call("nsq_publish_async", "t {}").wait())[0] == -1
        os.kill(relay.pid, signal.SIGCONT)
        assert chain.log_lines(r"nsq_publish_async: no relay runs: nsq\.cfg starts it")
        until(lambda: result(caller.call("nsq_publish_async", "t {}").wait())[0] == 1, what="the socket again")


def test_a_folder_that_somebody_removes_is_made_again_and_workers_find_it(tmp_path: Path) -> None:
    with calls_chain("native", tmp_path, TEST_CHILDREN=1) as chain, caller_of(chain) as caller:
        shutil.rmtree(chain.kamailio.pages_folder)
        until((chain.kamailio.pages_folder / "relay.sock").exists, what="the socket again")
        publish(caller, "t")
        assert numbers(chain, "t") == list(range(MESSAGES))


# The outbox


def test_the_outbox_takes_what_nsqd_does_not_and_the_order_stays(kind: str, tmp_path: Path) -> None:
    outbox = quoted(tmp_path / "outbox.db")
    with calls_chain(kind, tmp_path, TEST_CHILDREN=1, NSQ_OUTBOX=outbox) as chain, caller_of(chain) as caller:
        publish(caller, "t", 1)
        until(lambda: chain.counter("published") >= 1, what="the first")
        chain.nsqd.stop()
        for number in range(1, MESSAGES):
            assert result(caller.call("nsq_publish_async", f't {{"n":{number}}}').wait())[0] == 1
        until(lambda: chain.counter("outbox_kept") >= MESSAGES - 1, what="the outbox to have them")
        chain.nsqd.start()
        number = MESSAGES
        while chain.counter("outbox_sent") < chain.counter("outbox_kept"):
            assert result(caller.call("nsq_publish_async", f't {{"n":{number}}}').wait())[0] == 1
            number += 1
        assert numbers(chain, "t", number) == list(range(number))


# The end


def pids_of(chain: Chain) -> list[int]:
    return list(chain.kamailio.pids())


def test_what_was_handed_over_is_sent_before_kamailio_ends(tmp_path: Path) -> None:
    with calls_chain("native", tmp_path, TEST_CHILDREN=1) as chain:
        with caller_of(chain) as caller:
            publish(caller, "t", 1)
            chain.nsqd.freeze()
            for number in range(1, MESSAGES):
                assert result(caller.call("nsq_publish_async", f't {{"n":{number}}}').wait())[0] == 1
            os.kill(chain.kamailio.process.pid, signal.SIGTERM)
            chain.nsqd.thaw()
            chain.kamailio.process.wait_exit(timeout_s=20)
        until(lambda: chain.nsqd.topic("t")["message_count"] >= MESSAGES, what="all messages")
        with closing(Reader(address(chain.nsqd.tcp_address), Subscription("t", "test"))) as reader:
            came = {json.loads(reader.next_message(10).body)["n"] for _ in range(MESSAGES)}
        assert came == set(range(MESSAGES))
        assert not chain.log_lines("messages of the relay are lost")
        chain.kamailio.start()


def test_what_nobody_takes_until_the_end_is_told(tmp_path: Path) -> None:
    with calls_chain("native", tmp_path, TEST_CHILDREN=1) as chain:
        with caller_of(chain) as caller:
            chain.nsqd.stop()
            publish(caller, "t")
            os.kill(chain.kamailio.process.pid, signal.SIGTERM)
            chain.kamailio.process.wait_exit(timeout_s=20)
        assert len(chain.log_lines(f"{MESSAGES} messages of the relay are lost: it ends, and nobody took them")) == 1
        chain.nsqd.start()
        chain.kamailio.start()


def test_a_handler_that_is_finished_at_the_end_can_still_publish(tmp_path: Path) -> None:
    """A consumer has begun it before the signal; the relay waits for consumers."""
    (tmp_path / "slow.py").write_text(with_handlers(SLOW))
    with custom_chain("kemi", tmp_path, script="slow.py") as chain:
        chain.publish(b'{"Event-Category": "test", "Event-Name": "slow"}')
        until(lambda: chain.log_lines("test: begins"), what="the handler")
        for pid in chain.kamailio.process.members():
            os.kill(pid, signal.SIGTERM)
        chain.kamailio.process.wait_exit(timeout_s=20)
        assert chain.log_lines("test: published 1")
        until(lambda: chain.nsqd.topic("t")["message_count"] == 1, what="the message")
        chain.kamailio.start()


def test_a_crash_costs_what_the_relay_had_not_sent_and_doubles_nothing(tmp_path: Path) -> None:
    with calls_chain("native", tmp_path, TEST_CHILDREN=1) as chain:
        with caller_of(chain) as caller:
            publish(caller, "t")
            until(lambda: chain.nsqd.topic("t")["message_count"] >= MESSAGES, what="the first")
            pids = pids_of(chain)
            publish(caller, "t", 1)
            chain.kamailio.process.kill()
        until(lambda: not any(map(is_running, pids)), what="the end of all")
        assert chain.nsqd.topic("t")["message_count"] in {MESSAGES, MESSAGES + 1}
        chain.kamailio.start()
