# SPDX-License-Identifier: GPL-2.0-or-later
"""What becomes of events when Kamailio is told to end: what a handler has begun is finished, the rest is given back."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from tests.acceptance.conftest import blocking, custom_chain, with_handlers
from tests.support.chain import CHANNEL, TOPIC, Chain, Person
from tests.support.database import BUSY_TIMEOUT_S
from tests.support.until import until

EVENT = b'{"Event-Category": "test", "Event-Name": "finish"}'
#: What Kamailio says of a process that has heard of the end before it has itself.
ENDED = r"ALERT: .* child process \d+ exited normally, status=0"
#: It writes down each message that it has finished; nothing else holds it than a file.
FINISHING = """
@event_route("nsq:consumer-event-test-finish")
def finish(self, event):
    here = Path(__file__).parent
    (here / "begun").touch()
    while not (here / "release").exists():
        Never().wait(0.01)
    with (here / "done").open("a") as done:
        done.write(event.message_id + "\\n")
"""
#: So long that only a death in the midst of it explains that it does not end.
BLOCKED_S = 20


def finishing(folder: Path, *, ack: str = "processed") -> Chain:
    """Return a chain whose handler finishes when the file `release` is there."""
    (folder / "finishing.py").write_text(with_handlers(FINISHING))
    return custom_chain("kemi", folder, script="finishing.py", NSQ_ACK=ack)


def end(chain: Chain) -> None:
    """Tell Kamailio to end, as `systemctl stop` does, and all of its processes."""
    for pid in [chain.kamailio.process.pid, *chain.kamailio.pids()]:  # all of them are known before the first one ends
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def waiting(chain: Chain) -> tuple[int, int]:
    """Return how many messages nsqd still believes with a consumer, and how many wait for one."""
    channel = chain.nsqd.channel(TOPIC, CHANNEL)
    return channel.in_flight, channel.depth + channel.deferred


def doing(chain: Chain) -> str:
    """Return what the consumer's main thread does, as its page says."""
    _, status = chain.status()
    (consumer,) = (each for each in status["processes"] if each["role"] == "consumer")
    return str(consumer["facts"].get("doing", ""))


def done(folder: Path) -> list[str]:
    """Return the messages that were finished, in their order."""
    file = folder / "done"
    return file.read_text().split() if file.exists() else []


def test_what_a_handler_has_begun_is_finished_and_the_rest_given_back(tmp_path: Path) -> None:
    """No event is handled twice, none waits for its timeout at nsqd, which is a minute here."""
    with finishing(tmp_path) as chain:
        chain.nsqd.publish_many(TOPIC, [EVENT] * 3)
        until((tmp_path / "begun").exists, what="the handler to begin")
        until(lambda: waiting(chain) == (3, 0), what="three in flight")
        end(chain)
        (tmp_path / "release").touch()
        assert chain.kamailio.process.wait_exit() == 0
        assert len(done(tmp_path)) == 1
        until(lambda: waiting(chain) == (0, 2), what="two to be nsqd's again")
        chain.kamailio.start()
        chain.drain()
        assert len(done(tmp_path)) == len({*done(tmp_path)}) == 3
    assert chain.complaints([ENDED]) == []


def test_nothing_that_was_finished_on_receipt_is_lost(tmp_path: Path) -> None:
    with finishing(tmp_path, ack="received") as chain:
        chain.nsqd.publish_many(TOPIC, [EVENT] * 3)
        until((tmp_path / "begun").exists, what="the handler to begin")
        end(chain)
        (tmp_path / "release").touch()
        assert chain.kamailio.process.wait_exit() == 0
        until(lambda: waiting(chain)[0] == 0, what="nothing in flight")
        assert len(done(tmp_path)) + waiting(chain)[1] == 3
        chain.kamailio.start()
        chain.drain()
        assert len(done(tmp_path)) == len({*done(tmp_path)}) == 3


def test_a_handler_that_does_not_end_delays_nothing_for_long(tmp_path: Path) -> None:
    """Its event is nsqd's again at once."""
    with finishing(tmp_path) as chain:
        chain.publish(EVENT)
        until((tmp_path / "begun").exists, what="the handler to begin")
        end(chain)
        assert chain.kamailio.process.wait_exit() == 0
        assert done(tmp_path) == []
        until(lambda: waiting(chain) == (0, 1), what="it to be nsqd's again")


def test_a_locked_database_delays_nothing_for_long(kind: str, tmp_path: Path) -> None:
    """SQLite waits in C for NSQ_DB_TIMEOUT, and no step of Python's comes meanwhile in the thread that does."""
    with Chain(kind, tmp_path, defines={"NSQ_DB_TIMEOUT": 30}) as chain:
        until(lambda: chain.nsqd.channel(TOPIC, CHANNEL).clients == 1, what="the consumer")
        with closing(sqlite3.connect(chain.database, timeout=BUSY_TIMEOUT_S, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            Person(chain=chain).call("early")
            until(lambda: "presence-update" in doing(chain), what="the commit to wait")
            end(chain)
            assert chain.kamailio.process.wait_exit() == 0
        until(lambda: waiting(chain) == (0, 1), what="it to be nsqd's again")


def test_native_code_is_ended_as_ever(tmp_path: Path) -> None:
    """Nothing of Python's runs meanwhile: it would keep Kamailio from ending until it is done."""
    config = blocking(tmp_path, "finish", BLOCKED_S, "finish")
    with Chain("native", tmp_path, config=config) as chain:
        chain.publish(EVENT)
        chain.kamailio.process.wait_for_log("test: finish begins")
        end(chain)
        assert chain.kamailio.process.wait_exit() == 0
        assert chain.log_lines("test: finish ends") == []


def test_a_consumer_without_work_ends_at_once(kind: str, tmp_path: Path) -> None:
    with Chain(kind, tmp_path) as chain:
        until(lambda: chain.nsqd.channel(TOPIC, CHANNEL).clients == 1, what="the consumer")
        end(chain)
        assert chain.kamailio.process.wait_exit() == 0
        until(lambda: chain.nsqd.channel(TOPIC, CHANNEL).clients == 0, what="it to be gone")
    assert chain.complaints([ENDED]) == []
