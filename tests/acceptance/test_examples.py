# SPDX-License-Identifier: GPL-2.0-or-later
"""The shipped examples, driven by sipp: a redirect server, native and in Python, and a registrar that publishes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kemi_nsq.names import Subscription, address
from kemi_nsq.tools.reader import Reader
from tests.support.chain import SHIPPED, Chain
from tests.support.responding import Request, Responding
from tests.support.sipp import sipp
from tests.support.until import until

#: A publisher keeps its connections as long as its process lives, so the responder's has no `close`.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

EXAMPLES = SHIPPED / "examples"
REDIRECT = {
    "native": (EXAMPLES / "redirect.cfg", SHIPPED / "nsq.py"),
    "kemi": (EXAMPLES / "redirect_kemi.cfg", EXAMPLES / "redirect.py"),
}


@contextmanager
def running(kind: str, folder: Path, config: Path, script: Path) -> Iterator[Chain]:
    with Chain(kind, folder, config=config, script=script, defines={"NSQ_QUERY_TIMEOUT": "1"}) as chain:
        until(lambda: chain.counter("connected") == 2, what="the consumer's topic and its reply topic")
        yield chain
    log = chain.kamailio.log_text()
    assert "Unhandled exception" not in log, log
    assert "ERROR" not in log, log


@pytest.fixture(scope="module", params=REDIRECT)
def redirect(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    config, script = REDIRECT[request.param]
    with running(request.param, tmp_path_factory.mktemp(request.param), config, script) as chain:
        yield chain


def test_an_invite_goes_where_the_responder_says(redirect: Chain) -> None:
    with Responding(redirect.nsqd, "routes", lambda _request: {"Contact": "sip:bob@192.0.2.7"}) as responding:
        sipp("redirect", redirect.kamailio.sip_target, redirect.folder, calls=50)
    assert len(responding.requests) == 50
    assert {(request["User"], request["From-User"]) for request in responding.requests} == {("bob", "alice")}


def test_whom_nobody_knows_is_not_found(redirect: Chain) -> None:
    def unknown(_request: Request) -> Request:
        return {"Contact": None}

    with Responding(redirect.nsqd, "routes", unknown):
        sipp("not_found", redirect.kamailio.sip_target, redirect.folder)


def test_without_a_reply_the_caller_hears_of_it(redirect: Chain) -> None:
    sipp("no_reply", redirect.kamailio.sip_target, redirect.folder)
    assert redirect.log_lines("no route for bob: timeout")


def test_a_registration_is_published(tmp_path: Path) -> None:
    with running("native", tmp_path, EXAMPLES / "registrations.cfg", SHIPPED / "nsq.py") as chain:
        sipp("register", chain.kamailio.sip_target, tmp_path, calls=5)
        reader = Reader(address(chain.nsqd.tcp_address), Subscription("registrations", "test"))
        published = [json.loads(reader.next_message(5).body) for _ in range(5)]
        reader.close()
        assert chain.nsqd.topic("registrations")["message_count"] == 5
        # nsqd has the message before the worker has its answer, and counts.
        until(lambda: chain.counter("published") == 5, what="the count")
    assert len({each["Call-ID"] for each in published}) == 5
    for each in published:
        assert (each["Event-Category"], each["Event-Name"]) == ("directory", "reg_success")
        assert (each["Username"], each["Realm"], each["Network-IP"]) == ("bob", "example.com", "127.0.0.1")
        assert each["User-Agent"] == 'Phone "7" (sipp)'
