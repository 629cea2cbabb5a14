# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever a phone sends: it is answered, and the lock NSQ_PUA_LOCK is free afterwards."""

from __future__ import annotations

import secrets

from tests.support.chain import DOMAIN, Chain, Person
from tests.support.ports import LOOPBACK
from tests.support.sip_endpoint import exchange
from tests.support.sip_message import Request
from tests.support.until import until
from tests.support.watcher import Watcher

#: What the presence module says of what it cannot handle.
EXPECTED_LINES = (r"parse_from", r"parse_uri", r"presence .*handle_subscribe0?\(\)", r"Missing event header")
#: Each SIP worker must have been there, had one stopped.
WORKERS = 4


def subscribe(**headers: str) -> Request:
    """Write a SUBSCRIBE with headers that a watcher would not send."""
    usual = {
        "from": f"<sip:bob@{DOMAIN}>;tag={secrets.token_hex(4)}",
        "to": f"<sip:alice@{DOMAIN}>",
        "call-id": secrets.token_hex(12),
        "cseq": "1 SUBSCRIBE",
        "contact": f"<sip:bob@{LOOPBACK}:5099>",
        "event": "dialog",
        "expires": "60",
    }
    return Request(method="SUBSCRIBE", uri=f"sip:alice@{DOMAIN}", headers=tuple((usual | headers).items()))


def test_a_from_that_cannot_be_read_stops_nobody_else(chain: Chain, person: Person, watcher: Watcher) -> None:
    """Kamailio's `handle_subscribe` then returns 0, which ends a native route where it stands."""
    for _ in range(WORKERS):
        answer = exchange(chain.kamailio.sip_target, subscribe(**{"from": "<nobody>;tag=1"}))
        assert answer.status == 400
    lamp = watcher.subscribe(person.uri, "dialog")
    person.call("early")
    lamp.wait(lambda notify: notify.dialog_info.states == ("early",), what="a lamp")
    assert chain.counter("request_refused") == WORKERS


def test_an_event_that_nobody_serves_is_refused(chain: Chain) -> None:
    refused = chain.counter("request_refused")
    answer = exchange(chain.kamailio.sip_target, subscribe(event="weather"))
    assert answer.status == 489
    until(lambda: chain.counter("request_refused") == refused + 1, what="the count")
