# SPDX-License-Identifier: GPL-2.0-or-later
"""Presence without an event route: the shipped configurations have none, and what an operator adds does not change it.

What becomes of messages is in test_dead_letters.py, test_delivery.py and test_outages.py, whose Kamailio has no route
for presence either.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.acceptance.conftest import custom_chain, with_handlers
from tests.support.chain import CONFIGURATIONS, SHIPPED, Chain, Person
from tests.support.until import until

UPDATE = "nsq:consumer-event-presence-update"
#: Routes that would see every event of presence, the general ones last.
BLOCKS = "".join(
    f'event_route[{name}] {{ xlog("L_NOTICE", "test: {name} sees $var(nqE)\\n"); python_exec("nsq_pua_publish"); }}\n'
    for name in (UPDATE, "nsq:consumer-event-presence", "nsq:consumer-event")
)
HANDLERS = f"""
@event_route("{UPDATE}")
def own(self, event):
    KSR.notice(f"test: {UPDATE} sees {{event.payload}}\\n")
    return self.nsq_pua_publish()

@event_route("nsq:consumer-event")
def general(self, event):
    KSR.notice(f"test: nsq:consumer-event sees {{event.payload}}\\n")
"""


def with_blocks(folder: Path, **defines: str | int) -> Chain:
    """Return a chain whose native configuration has all of BLOCKS."""
    config = folder / "blocks.cfg"
    config.write_text(f'include_file "{CONFIGURATIONS["native"][0]}"\ndebug=1\n{BLOCKS}', encoding="utf-8")
    return Chain("native", folder, config=config, defines=defines)


def lamp_goes_on(chain: Chain) -> None:
    """Announce a call, and have its watcher see it."""
    person = Person(chain=chain)
    with chain.watcher() as watcher:
        lamp = watcher.subscribe(person.uri, "dialog")
        person.call("confirmed")
        lamp.wait(lambda notify: notify.dialog_info.states == ("confirmed",), what="a call")


def test_the_shipped_configurations_have_no_route_for_presence(kind: str) -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (*CONFIGURATIONS[kind], SHIPPED / "nsq.cfg"))
    assert not re.search(r"event_route\W+nsq:consumer-event", text)


def test_an_update_and_a_reset_need_no_route(chain: Chain) -> None:
    lamp_goes_on(chain)
    ended = chain.counter("pua_ended")
    person = Person(chain=chain)
    sender = f"sip:{person.user}-switch@example.com"
    with chain.watcher() as watcher:
        lamp = watcher.subscribe(person.uri, "dialog")
        person.call("early", Sender_URI=sender)
        lamp.wait(lambda notify: notify.dialog_info.states == ("early",), what="a call")
        chain.publish(json.dumps({"Event-Category": "presence", "Event-Name": "reset", "Sender-URI": sender}).encode())
        lamp.wait(lambda notify: notify.dialog_info.states == ("terminated",), what="its end")
    until(lambda: chain.counter("pua_ended") == ended + 1, what="the counter of ends")


def test_native_routes_do_not_see_such_events_and_the_start_says_which_never_runs(tmp_path: Path) -> None:
    with with_blocks(tmp_path) as chain:
        lamp_goes_on(chain)
        chain.publish(b'{"Event-Category": "presence", "Event-Name": "update-all"}')
        chain.kamailio.process.wait_for_log("test: nsq:consumer-event-presence sees .*update-all")
        chain.drain()
        assert len(chain.log_lines("test: ")) == 1
    lines = chain.complaints([r"nsq_pua_publish: Event-Package is missing", r"nsq_pua_publish: Event-Name is "])
    assert [line.partition("kemi-nsq: ")[2] for line in lines] == [
        f"event_route[{UPDATE}] never runs: NSQ_PUA_BUILTIN is 1; remove one of the two"
    ]


def test_who_wants_a_native_route_there_sets_it_to_0(tmp_path: Path) -> None:
    with with_blocks(tmp_path, NSQ_PUA_BUILTIN=0) as chain:
        lamp_goes_on(chain)
        assert len(chain.log_lines(f"test: {UPDATE} sees")) == len(chain.log_lines("test: ")) > 0
    assert chain.complaints() == []


def test_a_python_handler_of_that_name_goes_before_and_a_general_one_has_no_part(tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text(with_handlers(HANDLERS), encoding="utf-8")
    with custom_chain("kemi", tmp_path, script="handlers.py") as chain:
        lamp_goes_on(chain)
        assert len(chain.log_lines(f"test: {UPDATE} sees")) == len(chain.log_lines("test: ")) > 0
        reset = {"Event-Category": "presence", "Event-Name": "reset", "Sender-URI": "sip:nobody@example.com"}
        received = chain.counter("received")
        chain.publish(json.dumps(reset).encode())
        until(lambda: chain.counter("received") == received + 1, what="the reset")
        chain.drain()
        assert not chain.log_lines("test: .*reset")
    assert chain.complaints() == []
