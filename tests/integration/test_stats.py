# SPDX-License-Identifier: GPL-2.0-or-later
"""Who reads a topic: what real nsqd and nsqlookupd say, and what is none of that."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kemi_nsq.errors import ProtocolError
from kemi_nsq.names import Subscription, address
from kemi_nsq.nsq import stats
from kemi_nsq.tools.reader import Reader
from tests.integration.test_httpapi import http_answer
from tests.support.nsqd import Nsqd
from tests.support.ports import LOOPBACK
from tests.support.scripted_nsqd import ScriptedNsqd

TIMEOUT_S = 5.0


@pytest.fixture
def nsqd(tmp_path: Path) -> Iterator[Nsqd]:
    with Nsqd(tmp_path / "nsqd") as server:
        server.create_topic("events")
        server.create_channel("events", "kamailio")
        yield server


def test_nsqd_says_who_reads_a_topic_on_which_channel(nsqd: Nsqd) -> None:
    topic = "kamailio-0.n1.abcdefgh.replies#ephemeral"
    subscription = Subscription(topic, "replies#ephemeral")
    assert stats.ask(address(nsqd.http_address), topic, timeout_s=TIMEOUT_S).readers == []
    with closing(Reader(address(nsqd.tcp_address), subscription)):
        nsqd.create_channel(topic, "spy")
        spy, ours = sorted(stats.ask(address(nsqd.http_address), topic, timeout_s=TIMEOUT_S).readers)[::-1]
    assert spy == ("spy", "", "", "", 0.0)
    assert (ours.channel, ours.client_id) == ("replies#ephemeral", "kemi-nsq")
    assert ours.remote_address.startswith(f"{LOOPBACK}:")
    assert abs(ours.connected_at - time.time()) < 60
    assert stats.ask(address(nsqd.http_address), "events", timeout_s=TIMEOUT_S).readers == [
        ("kamailio", "", "", "", 0.0)
    ]


NO_STATS = {
    "no JSON": b"hello",
    "no topics": b"{}",
    "topics are a number": b'{"topics": 5}',
    "no channels": b'{"topics": [{}]}',
    "no client": b'{"topics": [{"channels": [{"channel_name": "c", "clients": [5]}]}]}',
    "a name that is none": b'{"topics": [{"channels": [{"channel_name": "c", "clients": [{"client_id": '
    + b"[" * 500
    + b"]" * 500
    + b', "hostname": "", "remote_address": "", "connect_ts": 1}]}]}]}',
    "no time": b'{"topics": [{"channels": [{"channel_name": "c", "clients": [{"client_id": "", "hostname": "",'
    b' "remote_address": "", "connect_ts": {}}]}]}]}',
}


@pytest.mark.parametrize("body", NO_STATS.values(), ids=NO_STATS)
def test_what_are_no_statistics_is_said(body: bytes) -> None:
    with (
        ScriptedNsqd(http_answer(body)) as server,
        pytest.raises(ProtocolError, match="/stats answered without any"),
    ):
        stats.ask(address(server.address), "t", timeout_s=TIMEOUT_S)


def test_an_answer_that_is_an_error_is_said() -> None:
    with (
        ScriptedNsqd(http_answer(b"{}", "500 Oh")) as server,
        pytest.raises(ProtocolError, match="/stats answered HTTP 500"),
    ):
        stats.ask(address(server.address), "t", timeout_s=TIMEOUT_S)
