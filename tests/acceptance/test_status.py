# SPDX-License-Identifier: GPL-2.0-or-later
"""`kemi-nsq status`, `pause`, `resume` and `drain` beside a Kamailio that works, and beside what does not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.chain import CHANNEL, TOPIC, Chain, Person
from tests.support.until import until

TOOL = str(Path(sys.executable).with_name("kemi-nsq"))


@pytest.fixture(scope="module", params=["native", "kemi"])
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with Chain(request.param, tmp_path_factory.mktemp("status")) as chain:
        until(lambda: chain.status()[0] == 0, what="all to be well")
        yield chain


def run(chain: Chain, *words: str) -> tuple[int, str, str]:
    """Run `kemi-nsq` on the runtime folder of a Kamailio; return its exit code and what it says."""
    command = [TOOL, *words, "--run-dir", str(chain.kamailio.pages_folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return done.returncode, done.stdout, done.stderr


def consumer(chain: Chain) -> dict[str, Any]:
    """Return what `kemi-nsq status --json` says of the one consumer."""
    (found,) = [each for each in chain.status()[1]["processes"] if each["role"] == "consumer"]
    return dict(found)


def test_what_came_and_what_its_route_took_is_shown(chain: Chain) -> None:
    before = consumer(chain)["said"]["topics"]
    received = before[0]["received"] if before else 0
    for _ in range(3):
        Person(chain=chain).call("early")
    until(lambda: consumer(chain)["said"]["topics"][0]["received"] == received + 3, what="the events")
    said = consumer(chain)["said"]
    (route,) = [each for each in said["routes"] if each["route"].endswith("presence-update")]
    assert (route["topic"], sum(route["counts"]), route["done"]) == (TOPIC, received + 3, received + 3)
    assert 0 < route["total_s"] < 60
    connected = [each for each in said["connections"] if not each["replies"]]
    assert [(each["topic"], each["channel"], each["subscribed"], each["ready"]) for each in connected] == [
        (TOPIC, CHANNEL, True, 5)
    ]
    assert said["settings"]["NSQ_DB_URL"].startswith("sqlite:")
    assert said["versions"]["kamailio"][0] in "56"


def test_each_stage_of_the_way_has_its_times(chain: Chain) -> None:
    with chain.watcher() as watcher:
        person = Person(chain=chain)
        watcher.subscribe(person.uri, "dialog")
        before = consumer(chain)["stages"]
        person.call("early")
        chain.drain()
    stages = consumer(chain)["stages"]
    for stage in ("nsq", "commit", "notify"):
        assert sum(stages[stage]["counts"]) == sum(before[stage]["counts"]) + 1, stage
        assert 0 < stages[stage]["total_s"] - before[stage]["total_s"] < 10, stage


def test_who_pauses_lets_events_wait_at_nsqd_and_sees_how_many(chain: Chain) -> None:
    code, out, _ = run(chain, "drain")
    assert (code, out.splitlines()[-1]) == (0, "nothing is in flight")
    received = chain.counter("received")
    for _ in range(7):
        Person(chain=chain).call("early")
    code, said = chain.status()
    assert (code, said["health"]) == (1, "warning")
    assert said["line"].startswith("KEMI-NSQ WARNING - ")
    assert f"paused: {TOPIC}:{CHANNEL}" in said["line"]
    assert said["line"].endswith(" in_flight=0 lag=7")
    assert [(each["messages"], each["in_flight"]) for each in said["depths"]] == [(7, 0)]
    assert chain.counter("received") == received, "nothing was taken"
    assert run(chain, "resume", TOPIC)[0] == 0
    until(lambda: chain.counter("received") == received + 7, what="them to be handled")
    assert chain.status()[0] == 0
    assert chain.log_lines(f"paused by the operator: {TOPIC}:{CHANNEL}")
    assert chain.log_lines(f"resumed by the operator: {TOPIC}:{CHANNEL}")


def test_a_topic_of_nobody_cannot_be_paused(chain: Chain) -> None:
    code, out, err = run(chain, "pause", "nobodys")
    assert (code, out) == (2, "")
    assert err == ("kemi-nsq: topic 'nobodys' is not consumed here; see NSQ_LISTEN_TOPIC and NSQ_TOPIC_CHANNEL\n")


def test_nsqd_that_is_away_is_critical_and_named(chain: Chain) -> None:
    chain.nsqd.stop()
    try:
        _, said = until(lambda: found if (found := chain.status())[0] == 2 else None, what="it to be noticed")
        assert f"no nsqd gives {TOPIC}:{CHANNEL}; see NSQ_NSQD_TCP_ADDRESS" in said["line"]
        assert "the lag is not known: nsqd " in said["line"]
    finally:
        chain.nsqd.start()
    until(lambda: chain.status()[0] == 0, timeout_s=20, what="all to be well again")


def test_a_socket_that_somebody_removed_is_there_again(chain: Chain) -> None:
    (pid,) = [each["pid"] for each in chain.status()[1]["processes"] if each["role"] == "consumer"]
    socket = chain.kamailio.pages_folder / f"console-{pid}.sock"
    socket.unlink()
    until(lambda: consumer(chain)["said"], what="an answer")
    assert socket.stat().st_mode & 0o777 == 0o600


def test_the_live_view_prints_a_line_a_second_in_a_pipe(chain: Chain) -> None:
    command = [TOOL, "status", "--watch", "--run-dir", str(chain.kamailio.pages_folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process, closing(process.stdout or sys.stdin) as lines:
        assert lines.readline().startswith("KEMI-NSQ ")
        assert lines.readline().startswith("KEMI-NSQ ")
        process.send_signal(2)
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_database_that_fails_is_critical(tmp_path: Path) -> None:
    with Chain("native", tmp_path) as chain:
        until(lambda: chain.status()[0] == 0, what="all to be well")
        chain.database.rename(tmp_path / "away.db")
        Person(chain=chain).call("early")
        _, said = until(lambda: found if (found := chain.status())[0] == 2 else None, what="the outage")
        assert "database: since " in said["line"]
