# SPDX-License-Identifier: GPL-2.0-or-later
"""A route that takes too long, seen from outside: while a handler waits in Python, and while a native route blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.acceptance.conftest import blocking, custom_chain, with_handlers
from tests.support.chain import TOPIC, Chain
from tests.support.until import until

ROUTE_TIMEOUT_S, BLOCKED_S = 2, 6
EVENT = b'{"Event-Category": "test", "Event-Name": "stuck"}'
ROUTE = "nsq:consumer-event-test-stuck"

WAITING = """
@event_route("nsq:consumer-event-test-stuck")
def stuck(self, event):
    while not Path(__file__).with_name("release").exists():
        Never().wait(0.05)
"""


def status(chain: Chain) -> tuple[int, dict[str, Any]]:
    """Run `kemi-nsq status`; return its exit code and the consumer that it shows."""
    code, said = chain.status()
    (consumer,) = [each for each in said["processes"] if each["role"] == "consumer"]
    return code, consumer


def with_stack(chain: Chain) -> tuple[int, dict[str, Any]] | None:
    """Return the same, once it shows a stack."""
    seen = status(chain)
    return seen if seen[1]["stack"] else None


def test_a_handler_that_waits_is_shown_and_logged_while_it_does(tmp_path: Path) -> None:
    (tmp_path / "waiting.py").write_text(with_handlers(WAITING))
    with custom_chain("kemi", tmp_path, script="waiting.py", NSQ_ROUTE_TIMEOUT=ROUTE_TIMEOUT_S) as chain:
        assert until(lambda: status(chain)[0] == 0, what="all to be well")
        chain.nsqd.publish_many(TOPIC, [EVENT] * 3)
        line = f"ERROR: kemi-nsq: stuck for {ROUTE_TIMEOUT_S} s in {ROUTE} of {TOPIC}, message "
        until(lambda: chain.log_lines(line), timeout_s=10, what="the line in the log")
        until(
            lambda: chain.log_lines(r'ERROR: kemi-nsq:   File ".*/waiting\.py", line \d+, in stuck'), what="the stack"
        )
        code, consumer = status(chain)
        assert (code, consumer["state"]) == (2, "stuck")
        assert f"s in {ROUTE} of {TOPIC}, message " in consumer["problems"][0]["text"]
        assert "in stuck\n" in consumer["stack"]
        assert (consumer["counters"]["route_timeout"], consumer["counters"]["stuck"]) == (1, 1)
        until(lambda: status(chain)[1]["counters"].get("given_back", 0) >= 2, what="the others to be given back")
        assert chain.counter("route_timeout") == 0, "the main thread cannot write the table now"
        (tmp_path / "release").touch()
        chain.drain(timeout_s=15)
        until(lambda: status(chain)[0] == 0, what="all to be well again")
        until(lambda: chain.counter("route_timeout") == 1, what="the table to have it, too")
        assert chain.counter("given_back") == 2
    expected = (r"ERROR: kemi-nsq: (stuck for| )", "no message was answered for 2 s", "stuck no more: ")
    assert chain.complaints(expected) == []
    assert len(chain.log_lines("stuck no more: ")) == 1


def test_a_native_route_that_blocks_is_shown_with_the_stack_that_a_timer_wrote(tmp_path: Path) -> None:
    """It keeps Python's lock: nothing of ours runs, and what is seen follows from the page alone."""
    config = blocking(tmp_path, "stuck", BLOCKED_S, "stuck")
    with Chain("native", tmp_path, config=config, defines={"NSQ_ROUTE_TIMEOUT": ROUTE_TIMEOUT_S}) as chain:
        until(lambda: status(chain)[0] == 0, what="all to be well")
        chain.publish(EVENT)
        until(lambda: status(chain)[1]["state"] == "works", what="the route to run")
        code, consumer = until(lambda: with_stack(chain), timeout_s=BLOCKED_S, what="the stack")
        assert (code, consumer["state"]) == (2, "stuck")
        assert f"s in {ROUTE} of {TOPIC}, message " in consumer["problems"][0]["text"]
        assert "ksr.py" in consumer["stack"], "where the C code was called from"
        assert list(chain.kamailio.pages_folder.glob("*.stack"))
        until(lambda: status(chain)[0] == 0, timeout_s=BLOCKED_S + 5, what="all to be well again")
        chain.drain()


def test_a_consumer_without_work_never_leaves_a_stack(tmp_path: Path) -> None:
    with Chain("native", tmp_path, defines={"NSQ_ROUTE_TIMEOUT": ROUTE_TIMEOUT_S}) as chain:
        chain.publish(b'{"Event-Category": "test"}')
        chain.drain()
        turn = until(lambda: status(chain)[1]["gauges"]["io_turn"], what="a turn")
        until(lambda: status(chain)[1]["gauges"]["io_turn"] > turn + 2 * ROUTE_TIMEOUT_S, what="twice that limit")
        (file,) = chain.kamailio.pages_folder.glob("*.stack")
        assert file.read_text() == ""
