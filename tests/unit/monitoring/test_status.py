# SPDX-License-Identifier: GPL-2.0-or-later
"""`kemi-nsq status`: what the pages of a runtime folder and the answers of consumers mean, and the exit code for it."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kemi_nsq.counters import Counter
from kemi_nsq.errors import ConnectionLost, DeadlineExceeded, UsageError
from kemi_nsq.jsontext import JsonObject, JsonValue
from kemi_nsq.loading import in_force
from kemi_nsq.monitoring.health import Health
from kemi_nsq.monitoring.status import Process, Status, clock_text, look
from kemi_nsq.runtime.folder import RunFolder
from kemi_nsq.runtime.page import BUCKETS_S, RELAY, Fact, Gauge, Page, Stage
from kemi_nsq.tools import cli
from tests.support.answering import answering
from tests.support.ports import free_tcp_port
from tests.support.settings import settings

NOW = 1_700_000_000.0


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "kemi-nsq", uid=os.geteuid(), gid=os.getegid())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kemi-nsq"


@pytest.fixture
def page(folder: RunFolder) -> Page:
    """Return the page of a consumer that waits, as of NOW; it is this process."""
    page = folder.page
    page.role("consumer")
    page.set(Gauge.ROUTE_TIMEOUT, 30)
    page.set(Gauge.IO_TURN, NOW - 0.4)
    return page


class Consumer:
    """What a consumer says of itself: it consumes t:c from a nsqd."""

    def __init__(self) -> None:
        self.subscribed = True
        self.version = "1b2c3d4e"
        self.log_level = "default"
        self.asked: list[tuple[str, JsonObject]] = []
        #: Nobody listens there, so the lag is not known.
        self.http = f"127.0.0.1:{free_tcp_port()}"

    def answer(self, verb: str, arguments: JsonObject) -> JsonValue:
        self.asked.append((verb, arguments))
        if verb == "reload":
            return {"file": "/x.py", "version": self.version, "loaded": NOW, "handlers": ["nsq:x", "nsq:y"]}
        if verb == "log-level":
            self.log_level = str(arguments["level"]) or self.log_level
            return self.log_level
        if verb != "status":
            if arguments["topic"] not in ("", "t"):
                raise UsageError("topic 'x' is not consumed here")
            return ["t:c"]
        connection: JsonObject = {
            "nsqd": "127.0.0.1:4150", "topic": "t", "channel": "c", "replies": False, "subscribed": self.subscribed,
            "ready": 5, "in_flight": 1, "silent_s": 0.1,
        }  # fmt: skip
        route: JsonObject = {
            "route": "nsq:x", "topic": "t", "done": 19, "again": 1, "refused": 0,
            "counts": [19, *[0] * (len(BUCKETS_S) - 1), 1], "total_s": 20.0, "longest_s": 19.9,
        }  # fmt: skip
        return {
            "node": "proxy1", "versions": {"kemi-nsq": "9.9"},
            "settings": {**in_force(settings(nsqd_address=self.http))},
            "subscriptions": ["t:c"], "connections": [dict(connection)], "routes": [dict(route)],
            "script": {"file": "/x.py", "version": self.version, "loaded": NOW, "handlers": ["nsq:x", "nsq:y"]},
            "topics": [{"topic": "t", "channel": "c", "received": 20, "last": NOW}],
            "log_level": self.log_level, "log_events": self.log_level == "debug",
        }  # fmt: skip


@pytest.fixture
def consumer(folder: RunFolder) -> Iterator[Consumer]:
    """A consumer in whose name this process answers."""
    consumer = Consumer()
    with answering(folder.place, consumer.answer):
        yield consumer


def wrong(process: Process) -> list[str]:
    """Return what is wrong, without what follows from that nobody answers here: there is no thread for it."""
    return [each.text for each in process.problems if "cannot be asked" not in each.text]


def the_process(path: Path, now: float = NOW) -> tuple[Process, Status]:
    found = look(path, now)
    (process,) = found.processes
    return process, found


def test_a_consumer_that_waits_is_well(page: Page, path: Path) -> None:
    page.show(Fact.DOING, "what it did last")
    process, found = the_process(path)
    assert (process.pid, process.role, process.state, wrong(process)) == (os.getpid(), "consumer", "waits", [])
    assert process.facts == {}
    assert found.health is Health.WARNING, "nobody answers"


def test_a_consumer_that_works_is_well_even_if_a_route_keeps_the_lock_for_some_time(page: Page, path: Path) -> None:
    page.show(Fact.DOING, "nsq:x, message 1 of t")
    page.set(Gauge.BUSY_SINCE, NOW - 29)
    page.set(Gauge.IO_TURN, NOW - 29)
    process, _ = the_process(path)
    assert (process.state, wrong(process)) == ("works", [])


def test_a_route_that_takes_too_long_is_stuck_although_nobody_says_so(page: Page, path: Path) -> None:
    page.show(Fact.DOING, "nsq:x, message 1 of t")
    page.set(Gauge.BUSY_SINCE, NOW - 31)
    page.set(Gauge.IO_TURN, NOW - 31)
    (path / f"{os.getpid()}.stack").write_text("File routes.py")
    process, found = the_process(path)
    assert (process.state, wrong(process)) == ("stuck", ["stuck for 31 s in nsq:x, message 1 of t"])
    assert process.stack == "File routes.py"
    assert found.health is Health.CRITICAL


def test_a_consumer_that_waits_and_does_not_turn_stands_still(page: Page, path: Path) -> None:
    process, found = the_process(path, NOW + 60)
    assert process.state == "stopped"
    assert wrong(process)[0].startswith("it stands still since ")
    assert found.health is Health.CRITICAL


@pytest.mark.parametrize(
    ("fact", "health"),
    [
        (Fact.DATABASE, Health.CRITICAL),
        (Fact.DATABASE_FILE, Health.CRITICAL),
        (Fact.DEAD_LETTERS, Health.CRITICAL),
        (Fact.FAILED, Health.CRITICAL),
        (Fact.OUTBOX, Health.WARNING),
        (Fact.BACKOFF, Health.WARNING),
        (Fact.PAUSED, Health.WARNING),
        (Fact.DISCOVERY, Health.WARNING),
        (Fact.STRANGERS, Health.WARNING),
        (Fact.CLOCKS, Health.WARNING),
    ],
)
def test_a_fact_is_wrong(page: Page, path: Path, fact: Fact, health: Health) -> None:
    page.show(fact, "since noon")
    process, found = the_process(path)
    assert (wrong(process), found.health) == ([f"{fact}: since noon"], health)


def test_what_the_outbox_holds_is_told_in_words(page: Page, path: Path) -> None:
    assert the_process(path)[0].outbox == ""
    for gauge, value in ((Gauge.OUTBOX_MESSAGES, 12), (Gauge.OUTBOX_BYTES, 345), (Gauge.OUTBOX_OLDEST, NOW - 61)):
        page.set(gauge, value)
    process, found = the_process(path)
    assert process.outbox == "12 messages (345 bytes), the oldest for 61 s"
    assert wrong(process) == [], "they are being sent, unless the fact says why not"
    assert found.health is Health.WARNING


def test_a_consumer_that_ended_is_wrong_and_a_worker_is_not(folder: RunFolder, path: Path) -> None:
    for role in ("consumer", ""):
        child = os.fork()
        if child == 0:
            folder.page.role(role)
            folder.page.count(Counter.PUBLISHED)
            os._exit(0)
        os.waitpid(child, 0)
    found = look(path, NOW)
    assert {(each.role, each.state, *wrong(each)) for each in found.processes} == {
        ("consumer", "ended", "the consumer has ended"),
        ("", "ended"),
    }
    assert found.counters == {Counter.PUBLISHED: 2}
    assert found.health is Health.CRITICAL


# What a consumer says


def test_a_topic_that_no_nsqd_gives_is_critical(page: Page, path: Path, consumer: Consumer) -> None:
    consumer.subscribed = False
    process, found = the_process(path)
    assert wrong(process) == ["no nsqd gives t:c; see NSQ_NSQD_TCP_ADDRESS"]
    assert found.health is Health.CRITICAL


def test_a_lag_that_is_not_known_is_a_warning(page: Page, path: Path, consumer: Consumer) -> None:
    _, found = the_process(path)
    assert [each.text for each in found.problems] == [
        f"the lag is not known: nsqd {consumer.http}: Connection refused; see NSQ_NSQD_ADDRESS"
    ]
    assert found.health is Health.WARNING


def test_a_consumer_of_another_release_is_told(page: Page, path: Path, folder: RunFolder) -> None:
    with answering(folder.place, lambda _verb, _arguments: {"node": 1}):
        process, found = the_process(path)
    assert wrong(process) == [f"consumer {os.getpid()} is of another release: restart Kamailio"]
    assert found.health is Health.WARNING


# The command


@pytest.fixture
def _now(page: Page) -> None:
    page.set(Gauge.IO_TURN, time.time())
    page.count(Counter.RECEIVED)
    page.observe(Stage.COMMIT, 0.0004)


def run(*words: str, **environment: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, [*words], env=environment)
    return done.exit_code, done.output


@pytest.mark.usefixtures("_now")
def test_the_first_line_is_that_of_a_monitoring_plug_in(path: Path, consumer: Consumer) -> None:
    code, output = run("status", "--run-dir", str(path))
    assert code == 1
    assert output.splitlines()[0] == (
        f"KEMI-NSQ WARNING - the lag is not known: nsqd {consumer.http}: Connection refused; see NSQ_NSQD_ADDRESS"
        " | received=1c in_flight=0 lag=U"
    )


@pytest.mark.usefixtures("_now", "consumer")
def test_the_tables_have_all_that_is_known(path: Path) -> None:
    _, output = run("status", "--run-dir", str(path))
    lines = [line.split() for line in output.splitlines()]
    assert [str(os.getpid()), "consumer", "waits", "0", "0", "0", "-", "9.9", "proxy1"] in lines
    assert [str(os.getpid()), "127.0.0.1:4150", "t:c", "yes", "5", "1", "0.1", "s", "ago"] in lines
    assert ["nsq:x", "t", "19", "1", "0", "1.0", "s", "0.5", "ms", "19.9", "s"] in lines
    assert ["commit", "1", "0.4", "ms", "0.5", "ms"] in lines
    assert [str(os.getpid()), "/x.py", "1b2c3d4e", clock_text(NOW), "2"] in lines
    assert lines[-2] == ["received", "1"]


@pytest.mark.usefixtures("_now", "consumer")
def test_json_says_the_same(path: Path) -> None:
    code, output = run("status", "--json", NSQ_RUN_DIR=str(path))
    said = json.loads(output)
    (found,) = said["instances"]
    assert (code, said["health"], found["health"], found["counters"]) == (1, "warning", "warning", {"received": 1})
    (process,) = found["processes"]
    assert process["gauges"]["route_timeout"] == 30
    assert process["stages"]["commit"]["counts"][0] == 1
    assert process["said"]["settings"]["NSQ_LISTEN_TOPIC"] == "kamailio"


@pytest.mark.usefixtures("_now")
def test_an_outage_is_exit_code_2(path: Path, page: Page) -> None:
    page.show(Fact.DATABASE, "since noon [gone]|\x1b[2J")
    code, output = run("status", "--run-dir", str(path))
    assert code == 2
    assert f"{os.getpid()}: critical: database: since noon [gone]|\\x1b[2J" in output
    assert "[gone]/" in output.splitlines()[0], "what comes after | are numbers"


@pytest.mark.usefixtures("_now")
def test_the_outbox_has_a_line_and_no_column(path: Path, page: Page) -> None:
    page.set(Gauge.OUTBOX_MESSAGES, 3)
    page.set(Gauge.OUTBOX_OLDEST, time.time())
    output = run("status", "--run-dir", str(path))[1]
    assert f"{os.getpid()}: the outbox holds 3 messages (0 bytes), the oldest for" in output
    assert "outbox messages" not in output


@pytest.mark.usefixtures("_now")
def test_a_relay_says_what_it_holds_and_why(path: Path, page: Page) -> None:
    page.role(RELAY)
    page.wait()
    page.set(Gauge.RELAY_MESSAGES, 3)
    page.set(Gauge.RELAY_BYTES, 45)
    page.show(Fact.RELAY, "since noon: nobody takes what the relay holds: gone")
    process, _ = the_process(path, time.time())
    assert (process.role, process.state, process.relaying) == (RELAY, "waits", True)
    assert [(each.health, each.text) for each in process.problems] == [
        (Health.WARNING, "relay: since noon: nobody takes what the relay holds: gone")
    ]
    assert f"{os.getpid()}: the relay holds 3 messages (45 bytes)" in run("status", "--run-dir", str(path))[1]


@pytest.mark.usefixtures("_now")
def test_a_relay_that_stands_still_is_critical(path: Path, page: Page) -> None:
    page.role(RELAY)
    page.set(Gauge.MAIN_TURN, time.time() - 60)
    process, _ = the_process(path, time.time())
    assert process.state == "stopped"
    assert [each.health for each in process.problems] == [Health.CRITICAL]


def test_no_consumer_is_exit_code_2(folder: RunFolder, path: Path) -> None:
    code, output = run("status", "--run-dir", str(path))
    assert (code, output.splitlines()[0]) == (
        2,
        "KEMI-NSQ CRITICAL - no consumer runs | received=0c in_flight=0 lag=U",
    )


def test_no_folder_is_critical(tmp_path: Path) -> None:
    code, output = run("status", "--run-dir", str(tmp_path / "none"))
    assert (code, output) == (
        2,
        f"KEMI-NSQ CRITICAL - NSQ_RUN_DIR {tmp_path}/none is not there: no Kamailio has begun there; see --run-dir\n",
    )
    code, output = run("status", "--json", "--run-dir", str(tmp_path / "none"))
    assert (code, json.loads(output)["health"]) == (2, "critical")


def test_a_folder_in_one_that_may_not_be_entered_is_exit_code_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "exists", closed)
    code, output = run("status", "--run-dir", str(tmp_path / "none"))
    assert (code, output.startswith("KEMI-NSQ UNKNOWN - ")) == (3, True)


def test_what_is_no_folder_is_exit_code_3(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, output = run("status", "--run-dir", str(tmp_path / "file"))
    assert (code, output) == (
        3,
        f"KEMI-NSQ UNKNOWN - NSQ_RUN_DIR {tmp_path}/file cannot be read: Not a directory; see --run-dir\n",
    )


@pytest.mark.usefixtures("_now", "consumer")
def test_instances_that_lie_side_by_side_are_shown_together(path: Path, tmp_path: Path) -> None:
    RunFolder(tmp_path / "two", uid=os.geteuid(), gid=os.getegid())
    code, output = run("status", "--json", NSQ_RUN_DIR=str(path))
    said = json.loads(output)
    assert [Path(each["run_dir"]).name for each in said["instances"]] == ["kemi-nsq", "two"]
    assert (code, said["health"]) == (2, "critical"), "in the second one no consumer runs"
    first = run("status", NSQ_RUN_DIR=str(path))[1].splitlines()[0]
    assert first == f"KEMI-NSQ CRITICAL - {path} WARNING, {tmp_path}/two CRITICAL | received=1c in_flight=0 lag=U"


# Reload


@pytest.mark.usefixtures("page")
def test_each_consumer_loads_the_script_anew(path: Path, consumer: Consumer) -> None:
    code, output = run("reload", "--run-dir", str(path))
    assert (code, output) == (0, f"consumer {os.getpid()}: /x.py, version 1b2c3d4e: nsq:x, nsq:y\n")
    assert ("reload", {}) in consumer.asked
    said = json.loads(run("reload", "--run-dir", str(path), "--json")[1])
    assert [(each["pid"], each["version"]) for each in said["consumers"]] == [(os.getpid(), "1b2c3d4e")]


@pytest.mark.usefixtures("page")
def test_a_script_that_cannot_be_loaded_is_told(folder: RunFolder, path: Path) -> None:
    def fail(_verb: str, _arguments: JsonObject) -> JsonValue:
        raise ConnectionLost("SyntaxError: invalid syntax (x.py:3)")

    with answering(folder.place, fail), pytest.raises(ConnectionLost, match=r"consumer \d+: SyntaxError"):
        cli.app(["reload", "--run-dir", str(path)], standalone_mode=False)


# Pause


@pytest.mark.usefixtures("_now")
@pytest.mark.parametrize(("verb", "said"), [("pause", "paused"), ("resume", "resumed")])
def test_each_consumer_is_asked_to_pause_and_to_resume(path: Path, consumer: Consumer, verb: str, said: str) -> None:
    code, output = run(verb, "t", "--run-dir", str(path))
    assert (code, output) == (0, f"consumer {os.getpid()}: {said} t:c\n")
    assert (verb, {"topic": "t"}) in consumer.asked
    output = run(verb, "t", "--run-dir", str(path), "--json")[1]
    assert json.loads(output) == {"consumers": [{"pid": os.getpid(), said: ["t:c"]}]}


@pytest.mark.usefixtures("_now")
def test_each_consumer_is_asked_for_its_log_level_and_status_shows_another_than_the_default(
    path: Path, consumer: Consumer
) -> None:
    pid, where = os.getpid(), ("--run-dir", str(path))
    assert run("log-level", *where) == (0, f"consumer {pid}: default\n")
    assert "log" not in run("status", *where)[1]
    assert run("log-level", "debug", *where) == (0, f"consumer {pid}: debug\n")
    assert ("log-level", {"level": "debug"}) in consumer.asked
    shown = run("status", *where)[1]
    assert f"{pid}: log level debug (kemi-nsq log-level default leaves it to Kamailio)" in shown
    assert f"{pid}: logs each step of an event (kemi-nsq presence log-events off)" in shown
    code, output = run("log-level", "--json", *where)
    assert (code, json.loads(output)) == (0, {"consumers": [{"pid": pid, "log_level": "debug"}]})


@pytest.mark.usefixtures("_now", "consumer")
def test_drain_waits_until_nothing_is_in_flight(path: Path, page: Page) -> None:
    code, output = run("drain", "--run-dir", str(path))
    assert (code, output.splitlines()[-1]) == (0, "nothing is in flight")
    output = run("drain", "--run-dir", str(path), "--json")[1]
    assert json.loads(output) == {"consumers": [{"pid": os.getpid(), "paused": ["t:c"]}]}
    page.set(Gauge.IN_FLIGHT, 2)
    with pytest.raises(DeadlineExceeded, match="2 messages are still in flight"):
        CliRunner().invoke(cli.app, ["drain", "--timeout", "0.1", "--run-dir", str(path)], catch_exceptions=False)


@pytest.mark.usefixtures("consumer")
def test_a_topic_that_is_not_consumed_is_refused(path: Path, page: Page) -> None:
    with pytest.raises(UsageError, match="topic 'x' is not consumed here"):
        CliRunner().invoke(cli.app, ["pause", "x", "--run-dir", str(path)], catch_exceptions=False)


@pytest.mark.usefixtures("consumer")
def test_an_empty_topic_is_no_topic(path: Path, page: Page) -> None:
    with pytest.raises(UsageError, match="the topic is empty"):
        CliRunner().invoke(cli.app, ["pause", "", "--run-dir", str(path)], catch_exceptions=False)


def test_nobody_to_be_asked_is_told(folder: RunFolder, path: Path) -> None:
    with pytest.raises(ConnectionLost, match="no consumer runs; is NSQ_RUN_DIR "):
        CliRunner().invoke(cli.app, ["pause", "--run-dir", str(path)], catch_exceptions=False)
