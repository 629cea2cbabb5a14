# SPDX-License-Identifier: GPL-2.0-or-later
"""A nsqd whose clock is set back: a lamp stands still, and a line, a counter and `kemi-nsq status` say why."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from tests.support.chain import Chain, Person
from tests.support.kamailio import quoted
from tests.support.shifted import ShiftedNsqd
from tests.support.until import until

#: It looks every 10 s, give or take some.
SEEN_S = 30.0
BACK_S = 3600


def test_a_clock_that_is_set_back_is_told_while_a_lamp_stands_still(tmp_path: Path) -> None:
    with ExitStack() as stack:
        nsqd = stack.enter_context(ShiftedNsqd())
        tcp, http = quoted(nsqd.tcp_address), quoted(nsqd.http_address)
        chain = Chain("native", tmp_path, defines={"NSQ_NSQD_TCP_ADDRESS": tcp, "NSQ_NSQD_ADDRESS": http})
        nsqd.behind = chain.nsqd
        stack.enter_context(chain)
        person, watcher = Person(chain=chain), stack.enter_context(chain.watcher())
        lamp = watcher.subscribe(person.uri, "dialog")
        person.call("early")
        lamp.wait(lambda notify: notify.dialog_info.states == ("early",), what="the call")
        until(lambda: nsqd.asked, timeout_s=SEEN_S, what="a first look")
        until(lambda: chain.status()[0] == 0, what="all to be well")
        assert chain.log_lines("clock") == []

        nsqd.shift_s = -BACK_S
        stale = chain.counter("pua_stale")
        person.call("terminated")
        until(lambda: chain.counter("pua_stale") == stale + 1, what="the end of the call to be taken for older")
        (line,) = until(lambda: chain.log_lines("clock"), timeout_s=SEEN_S, what="the line")
        assert "ERROR: <core> [core/kemi.c" in line
        assert f"kemi-nsq: the clock of nsqd {nsqd.http_address} went back by about " in line
        assert chain.counter("clocks_wrong") == 1
        code, said = chain.status()
        assert (code, said["health"]) == (1, "warning")
        assert f"clocks: the clock of nsqd {nsqd.http_address} went back" in str(said)

        chain.kamailio.stop()
        chain.kamailio.start()
        until(
            lambda: chain.log_lines("presence is stored that is about 3"),
            timeout_s=SEEN_S,
            what="the same by the table",
        )
        assert chain.status()[0] == 1

        nsqd.shift_s = 0
        person.call("terminated")
        lamp.wait(lambda notify: notify.dialog_info.states == ("terminated",), what="the end of the call")
        until(lambda: chain.status()[0] == 0, timeout_s=SEEN_S, what="all to be well again")
        assert chain.log_lines("the clocks of nsqd have caught up with what is stored")
