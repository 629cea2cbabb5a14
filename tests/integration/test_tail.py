# SPDX-License-Identifier: GPL-2.0-or-later
"""`kemi-nsq tail` shows what comes on a topic of a real nsqd, and takes nothing from anybody."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.command import addresses, kemi_nsq
from tests.support.nsqd import Nsqd
from tests.support.until import until

TOOL = str(Path(sys.executable).with_name("kemi-nsq"))
TOPIC, CHANNEL = "events", "kamailio"


@pytest.fixture
def nsqd(tmp_path: Path) -> Iterator[Nsqd]:
    with Nsqd(tmp_path / "nsqd") as server:
        server.create_topic(TOPIC)
        server.create_channel(TOPIC, CHANNEL)
        yield server


def readers(nsqd: Nsqd) -> list[str]:
    """Return the channels of the topic that are a tail's and have their reader."""
    channels = nsqd.topic(TOPIC)["channels"]
    return [
        each["channel_name"]
        for each in channels
        if each["channel_name"].startswith("kemi-nsq-tail-") and each["client_count"]
    ]


@contextmanager
def tail(nsqd: Nsqd, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command beside the test, and end it by Ctrl-C; it listens when this returns."""
    environment = {**os.environ, **addresses(nsqd), "TZ": "UTC"}
    command = [TOOL, "tail", TOPIC, *words]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, encoding="utf-8"
    )
    with process:
        try:
            until(lambda: readers(nsqd), timeout_s=20, what="a reader")
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(10)


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    """Read so many lines of its output."""
    assert process.stdout is not None
    return [process.stdout.readline().rstrip("\n") for _ in range(count)]


def test_each_message_is_a_line_and_the_consumer_has_its_copy(nsqd: Nsqd) -> None:
    with tail(nsqd) as process:
        nsqd.publish_many(TOPIC, [b'{"a": 1}', b"evil \x1b[2J\r\nline", b"\xff"])
        shown = [each.split(" ", 4) for each in lines(process, 3)]
    assert [each[4] for each in shown] == ['{"a": 1}', "evil \\x1b[2J\\r\\nline", "\\xff"]
    assert all(each[3] == "1" and len(each[2]) == 16 for each in shown), "attempts and id"
    assert process.returncode == 0
    assert process.stderr is None or process.stderr.closed or process.stderr.read() == ""
    state = nsqd.channel(TOPIC, CHANNEL)
    assert (state.depth, state.messages) == (3, 3)


def test_ctrl_c_ends_it_and_its_channel_cleanly(nsqd: Nsqd) -> None:
    with tail(nsqd) as process:
        nsqd.publish(TOPIC, b"{}")
        lines(process, 1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
        assert (process.returncode, out, err) == (0, "", "")
    until(lambda: [each["channel_name"] for each in nsqd.topic(TOPIC)["channels"]] == [CHANNEL], what="its end")


def test_filters_must_all_match(nsqd: Nsqd) -> None:
    with tail(nsqd, "--field", "Event-Package=dialog", "--field", "A.b[1]=2", "--grep", "BOB", "--json") as process:
        nsqd.publish_many(
            TOPIC,
            [
                b"bob",
                b'{"Event-Package": "dialog", "A": {"b": [1, 2]}, "To": "alice"}',
                b'{"Event-Package": "presence", "A": {"b": [1, 2]}, "To": "bob"}',
                b'{"Event-Package": "dialog", "A": {"b": [1, 3]}, "To": "bob"}',
                b'{"Event-Package": "dialog", "A": {"b": [1, 2]}, "To": "Bob"}',
            ],
        )
        (shown,) = map(json.loads, lines(process, 1))
    assert shown["payload"] == '{"Event-Package": "dialog", "A": {"b": [1, 2]}, "To": "Bob"}'
    assert (shown["topic"], shown["nsqd"], shown["attempts"]) == (TOPIC, nsqd.tcp_address, 1)


def test_it_ends_after_as_many_as_were_wanted(nsqd: Nsqd) -> None:
    with tail(nsqd, "--count", "2", "--size", "5") as process:
        nsqd.publish_many(TOPIC, [b"123456", b"12345", b"never"])
        out, err = process.communicate(timeout=10)
    assert [each.split(" ", 4)[4] for each in out.splitlines()] == ["12345... (6 bytes)", "12345"]
    assert (process.returncode, err) == (0, "")


def test_it_ends_when_its_time_is_over(nsqd: Nsqd) -> None:
    assert kemi_nsq("tail", TOPIC, "--timeout", "0.2", environment=addresses(nsqd)) == (0, "", "")
    done = kemi_nsq("tail", TOPIC, "--timeout", "0.2", "--count", "1", environment=addresses(nsqd))
    assert done == (1, "", "kemi-nsq: 0 of 1 messages came in 0.2 s\n")


def test_a_topic_without_a_channel_is_refused_and_keeps_what_waits(nsqd: Nsqd) -> None:
    nsqd.publish("backlog", b"{}")
    done = kemi_nsq("tail", "backlog", environment=addresses(nsqd))
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"kemi-nsq: topic backlog has no channel at nsqd {nsqd.tcp_address}: the first one would take all "
        "that waits there (1), and who only looks must not\n"
    )
    assert nsqd.topic("backlog")["channels"] == []
    assert nsqd.topic("backlog")["depth"] == 1


def test_a_topic_that_nobody_has_is_refused_and_not_made(nsqd: Nsqd) -> None:
    done = kemi_nsq("tail", "nobodys", environment=addresses(nsqd))
    assert done == (2, "", "kemi-nsq: no nsqd has a topic nobodys; see NSQ_NSQD_ADDRESS\n")
    with pytest.raises(LookupError):
        nsqd.topic("nobodys")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("a b",), "'a b' is no name for a topic or channel"),
        ((TOPIC, "--field", "Call-ID"), "--field 'Call-ID' is no Name=value"),
        ((TOPIC, "--field", "a..b=1"), "'a..b' is no path"),
    ],
)
def test_wrong_input_is_one_line(words: tuple[str, ...], said: str) -> None:
    done = kemi_nsq("tail", *words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"kemi-nsq: {said}")


def test_all_nsqd_are_read_but_those_where_the_topic_has_no_channel(tmp_path: Path) -> None:
    with ExitStack() as stack:
        first, second, third, away = (stack.enter_context(Nsqd(tmp_path / name)) for name in "abcd")
        for server in (first, second, third):
            server.create_topic(TOPIC)
        for server in (first, second):
            server.create_channel(TOPIC, CHANNEL)
        away.stop()
        environment = {**os.environ, **addresses(first, second, third, away)}
        process = subprocess.Popen(
            [TOOL, "tail", TOPIC, "--count", "2", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            encoding="utf-8",
        )
        with process:
            for server in (first, second):
                until(lambda server=server: readers(server), timeout_s=20, what="a reader")  # type: ignore[misc]
                server.publish(TOPIC, b"{}")
            out, err = process.communicate(timeout=10)
        assert {json.loads(each)["nsqd"] for each in out.splitlines()} == {first.tcp_address, second.tcp_address}
        assert [third.tcp_address in err, away.http_address in err, len(err.splitlines())] == [True, True, 2]
        assert third.topic(TOPIC)["channels"] == []


def test_nsqd_that_is_away_or_goes_away_is_a_line(nsqd: Nsqd) -> None:
    with tail(nsqd) as process:
        nsqd.stop()
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (1, "")
    assert err == f"kemi-nsq: nsqd {nsqd.tcp_address}: the peer closed the connection; see NSQ_NSQD_TCP_ADDRESS\n"
    done = kemi_nsq("tail", TOPIC, environment=addresses(nsqd))
    assert done == (1, "", f"kemi-nsq: nsqd {nsqd.http_address}: Connection refused; see NSQ_NSQD_ADDRESS\n")
