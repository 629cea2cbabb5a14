# SPDX-License-Identifier: GPL-2.0-or-later
"""What an operator's own route may have done before it has a SUBSCRIBE handled: each is answered, and once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chain import DOMAIN, SHIPPED, Chain, Person
from tests.support.ports import LOOPBACK
from tests.support.sip_endpoint import exchange
from tests.support.sip_message import Request

#: nsq.cfg is included twice, as by an include of an include. There is one worker, which remembers what it has met.
CONFIG = """
include_file "{shipped}/presence.cfg"
include_file "{shipped}/nsq.cfg"
include_file "{shipped}/nsq.cfg"
children=1
debug=2

request_route {{
    if (is_method("OPTIONS")) {{
        sl_send_reply("200", "OK");
        exit;
    }}
    if ($rU == "locked") {{
        t_newtran();
        lock("presence");
        python_exec("nsq_pua_handle");
        unlock("presence");
        t_release();
        exit;
    }}
    if ($rU == "transaction") {{
        t_newtran();
    }}
    route(NSQ_PRESENCE);
}}

event_route[nsq:consumer-event-presence-update] {{
    python_exec("nsq_pua_publish");
}}
"""
SCRIPT = """
import KSR
import nsq
from kemi_nsq import NativeNsq

class Operator(NativeNsq):
    def nsq_pua_handle(self, msg):
        if KSR.pv.get("$rU") == "broken":
            raise TypeError("of the operator")
        return super().nsq_pua_handle(msg)

def mod_init():
    return Operator()
"""
OVER_S = 20.0
HANDLED_WITHOUT = "ERROR.*: nsq_pua_handle goes on without the lock 'presence'"


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Run a server with such routes."""
    folder = tmp_path_factory.mktemp("own")
    config, script = folder / "kamailio.cfg", folder / "own_routes.py"
    config.write_text(CONFIG.format(shipped=SHIPPED))
    script.write_text(SCRIPT)
    Path(folder / "nsq.py").symlink_to(SHIPPED / "nsq.py")
    with Chain("native", folder, config=config, script=script) as chain:
        yield chain


def test_a_transaction_of_its_own_is_used(chain: Chain) -> None:
    with chain.watcher() as watcher:
        watcher.subscribe(f"sip:transaction@{DOMAIN}", "dialog").wait(lambda _: True, what="a NOTIFY")
        watcher.subscribe(f"sip:none@{DOMAIN}", "dialog").wait(lambda _: True, what="a NOTIFY")
    assert chain.log_lines("already in process") == []


@pytest.mark.parametrize(("user", "package", "status"), [("none", "nonsense", 489), ("broken", "dialog", 500)])
def test_what_fails_is_answered_once(chain: Chain, user: str, package: str, status: int) -> None:
    uri = f"sip:{user}@{DOMAIN}"
    headers = {
        "from": f"<sip:watcher@{DOMAIN}>;tag=1",
        "to": f"<{uri}>",
        "call-id": user,
        "cseq": "1 SUBSCRIBE",
        "contact": f"<sip:watcher@{LOOPBACK}>",
        "event": package,
    }
    sent = Request(method="SUBSCRIBE", uri=uri, headers=tuple(headers.items()))
    assert exchange(chain.kamailio.sip_target, sent).status == status
    assert chain.log_lines("can't generate") == []


def test_a_lock_of_its_own_delays_the_first_request_and_is_told(chain: Chain) -> None:
    (warned,) = chain.log_lines("WARNING.*NSQ_PUA_LOCK is this lock")
    assert f'{chain.folder}/kamailio.cfg, line 15: lock("presence"): ' in warned
    person = Person(chain=chain, user="locked")
    with chain.watcher() as watcher:
        lamp = watcher.subscribe(person.uri, "dialog", timeout_s=OVER_S)
        (line,) = chain.log_lines(HANDLED_WITHOUT)  # a consumer that wanted it at the same moment may say so, too
        assert 'The usual cause is lock("presence") in kamailio.cfg around' in line
        person.call("confirmed")
        lamp.wait(lambda notify: notify.dialog_info.states == ("confirmed",), what="a lit lamp")
        before = time.monotonic()
        watcher.subscribe(person.uri, "dialog")
        assert time.monotonic() - before < 1
    assert len(chain.log_lines(HANDLED_WITHOUT)) == 2
    assert chain.counter("lock_failed") >= 2
