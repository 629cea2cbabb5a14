# SPDX-License-Identifier: GPL-2.0-or-later
"""What is seen of a consumer from outside while it consumes from a real nsqd: by tools, and by Prometheus."""

from __future__ import annotations

import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from kemi_nsq.consumer.metrics import Metrics, warning
from kemi_nsq.errors import UsageError
from kemi_nsq.host import Level, Report
from kemi_nsq.monitoring.health import Health
from kemi_nsq.monitoring.status import Status, look
from kemi_nsq.names import Address, address
from kemi_nsq.nsq.nodes import PATH as NODES
from kemi_nsq.runtime.console import ask
from kemi_nsq.runtime.folder import RunFolder
from kemi_nsq.testing import FakeHost
from kemi_nsq.tools import cli, status_verbs
from tests.support.consuming import Consuming, numbered
from tests.support.nsqd import Nsqd, Nsqlookupd
from tests.support.ports import LOOPBACK, free_tcp_port
from tests.support.until import until

TOPIC, CHANNEL = "seen", "here"
PAIR = f"{TOPIC}:{CHANNEL}"


class Seen(Consuming):
    """A consumer that shows itself in a runtime folder, and answers there."""

    def __init__(self, nsqd: Nsqd | None, path: Path, **values: str) -> None:
        self._path = path
        super().__init__(nsqd, lambda _: None, topic_channel=PAIR, **values)

    def new_host(self) -> FakeHost:
        folder = RunFolder(self._path, uid=os.geteuid(), gid=os.getegid())
        host = FakeHost()
        host.place, host.page = folder.place, folder.page
        return host


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def nsqd(tmp_path: Path) -> Iterator[Nsqd]:
    with Nsqd(tmp_path / "nsqd") as nsqd:
        yield nsqd


@pytest.fixture
def metrics_at() -> str:
    return f"{LOOPBACK}:{free_tcp_port()}"


@pytest.fixture
def seen(nsqd: Nsqd, path: Path, metrics_at: str) -> Iterator[Seen]:
    nsqd.create_topic(TOPIC)
    nsqd.create_channel(TOPIC, CHANNEL)
    with Seen(nsqd, path, nsqd_address=nsqd.http_address, metrics_address=metrics_at) as seen:
        until(lambda: now(path).health is Health.OK, timeout_s=10, what="all to be well")
        yield seen


def now(path: Path) -> Status:
    return look(path, time.time())


def run(*words: str, path: Path) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, [*words, "--run-dir", str(path)], catch_exceptions=False)
    return done.exit_code, done.output


def test_events_connections_and_the_lag_are_seen(seen: Seen, nsqd: Nsqd, path: Path) -> None:
    nsqd.publish_many(TOPIC, map(numbered, range(3)))
    seen.wait_for(range(3))
    found = until(
        lambda: each if (each := now(path)).counters.get("received") == 3 and not each.depths[0].in_flight else None,
        what="all to be answered",
    )
    (process,) = found.processes
    assert process.said is not None
    (topic,), (route,) = process.said.topics, process.said.routes
    assert (topic.topic, topic.channel, topic.received) == (TOPIC, CHANNEL, 3)
    assert (route.route, route.topic, route.done, sum(route.counts)) == ("nsq:consumer-event", TOPIC, 3, 3)
    assert [each.subscribed for each in process.said.connections if not each.replies] == [True]
    assert [(each.topic, each.messages, each.in_flight) for each in found.depths] == [(TOPIC, 0, 0)]
    assert "nsq:consumer-event" in run("status", path=path)[1]


def test_pause_and_resume_reach_the_main_thread(seen: Seen, nsqd: Nsqd, path: Path) -> None:
    pid = os.getpid()
    assert run("drain", path=path) == (0, f"consumer {pid}: paused {PAIR}\nnothing is in flight\n")
    nsqd.publish_many(TOPIC, map(numbered, range(2)))
    until(lambda: now(path).depths[0].messages == 2, what="them to wait")
    assert now(path).health is Health.WARNING
    assert run("resume", PAIR, path=path) == (0, f"consumer {pid}: resumed {PAIR}\n")
    seen.wait_for(range(2))
    with pytest.raises(UsageError, match="topic 'other' is not consumed here"):
        run("pause", "other", path=path)
    with pytest.raises(UsageError, match="cannot be asked for 'nothing'"):
        ask(path, pid, "nothing", timeout_s=2)


def test_the_log_level_is_that_of_the_operator_until_he_leaves_it_to_kamailio(seen: Seen, path: Path) -> None:
    pid = os.getpid()
    assert run("log-level", "error", path=path) == (0, f"consumer {pid}: error\n")
    assert run("pause", path=path)[0] == run("resume", path=path)[0] == 0
    assert run("log-level", "default", path=path) == (0, f"consumer {pid}: default\n")
    assert run("pause", path=path)[0] == run("resume", path=path)[0] == 0
    operators = [line for line in seen.lines if "by the operator" in line]
    assert operators == [
        "log level set by the operator: error",
        "log level set by the operator: default",
        f"paused by the operator: {PAIR}",
        f"resumed by the operator: {PAIR}",
    ], "above error there was nothing"
    with pytest.raises(UsageError, match="'loud' is no level; allowed: default, error, warning, info, debug"):
        run("log-level", "loud", path=path)


def test_a_folder_that_is_removed_is_made_again_and_consumers_answer_there(seen: Seen, path: Path) -> None:
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
    until(lambda: ask(path, os.getpid(), "status", timeout_s=1), timeout_s=10, what="an answer")


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.usefixtures("seen")
def test_the_live_view_looks_again_until_ctrl_c(path: Path, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    def sleep(_seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("kemi_nsq.tools.status_verbs.time.sleep", sleep)
    monkeypatch.setattr(status_verbs, "console", lambda: Console(force_terminal=terminal, width=200))
    code, output = run("status", "--watch", path=path)
    assert (code, looks) == (0, 2)
    assert output.count("KEMI-NSQ ") >= 2


# Where nsqlookupd knows


def test_the_lag_is_that_of_all_nsqd_that_nsqlookupd_names(tmp_path: Path, path: Path) -> None:
    with Nsqlookupd(tmp_path / "lookupd") as lookupd:
        options = {"lookupd_tcp_address": lookupd.tcp_address}
        with Nsqd(tmp_path / "nsqd", **options) as nsqd:
            nsqd.create_topic(TOPIC)
            nsqd.create_channel(TOPIC, CHANNEL)
            until(lambda: TOPIC in lookupd.http("GET", "/topics").decode(), what="the topic to be announced")
            with Seen(None, path, lookupd_address=lookupd.http_address):
                until(lambda: now(path).health is Health.OK, timeout_s=15, what="all to be well")
                run("pause", path=path)
                nsqd.publish_many(TOPIC, map(numbered, range(4)))
                until(lambda: now(path).depths[0].messages == 4, what="the lag")
                assert b"producers" in lookupd.http("GET", NODES)
                lookupd.stop()
                found = until(lambda: each if not (each := now(path)).depths_known else None, what="nobody to know")
                assert any(each.text.startswith("the lag is not known: nsqlookupd") for each in found.problems)


# Prometheus


def get(at: str, path: str = "/metrics") -> str:
    with urllib.request.urlopen(f"http://{at}{path}", timeout=10) as answer:
        return str(answer.read().decode())


def exchange(at: str, data: bytes) -> bytes:
    """Send bytes, and return what is answered until the end."""
    host, _, port = at.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as asking:
        asking.sendall(data)
        return b"".join(iter(lambda: asking.recv(65536), b""))


@pytest.mark.usefixtures("seen")
def test_metrics_are_served_to_who_asks_rightly(metrics_at: str) -> None:
    assert "\nkemi_nsq_consumers 1.0\n" in until(lambda: get(metrics_at), timeout_s=10, what="metrics")
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(metrics_at, "/")
    assert caught.value.code == 404
    assert exchange(metrics_at, b"POST /metrics HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 405 ")
    assert exchange(metrics_at, b"HEAD /metrics HTTP/1.1\r\n\r\n").partition(b"\r\n\r\n")[2] == b""


@pytest.mark.usefixtures("seen")
def test_who_sends_nothing_or_too_much_costs_others_little(metrics_at: str) -> None:
    until(lambda: get(metrics_at), timeout_s=10, what="metrics")
    host, _, port = metrics_at.rpartition(":")
    with ExitStack() as stack:
        for data in (b"GET /met", b"x" * 100_000):
            hostile = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            hostile.sendall(data)
        assert "kemi_nsq_consumers 1.0" in get(metrics_at)


def test_an_address_that_is_taken_is_told_once_and_taken_when_it_is_free(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kemi_nsq.consumer.metrics.RETRY_S", 0.05)
    RunFolder(path, uid=os.geteuid(), gid=os.getegid())
    said: list[object] = []
    with socket.create_server((LOOPBACK, 0)) as taken:
        at = f"{LOOPBACK}:{taken.getsockname()[1]}"
        threads = [Metrics(address(at), path, first=first, emit=said.append) for first in (True, False)]
        threads[0].start()
        until(lambda: said, what="the line")
    try:
        until(lambda: len(said) == 2, what="the other line")
        threads[1].start()  # before, it might have been the one that listens, and it says nothing
        assert "kemi_nsq_consumers 0.0" in get(at)
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
        assert get(at).startswith("# NSQ_RUN_DIR ")
    finally:
        for thread in threads:
            thread.stop()
            thread.join(10)
    assert [(each.level, each.text.partition(":")[0]) for each in said if isinstance(each, Report)] == [
        (Level.WARNING, "no metrics"),
        (Level.WARNING, "metrics are at http"),
    ]


@pytest.mark.parametrize(
    ("host", "told"),
    [("127.0.0.1", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("10.1.2.3", True), ("box", True)],
)
def test_an_address_that_others_reach_is_warned_of(host: str, told: bool) -> None:
    assert bool(warning(Address(host, 9151))) == told
