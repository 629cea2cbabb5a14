# SPDX-License-Identifier: GPL-2.0-or-later
"""When producers are asked to say everything again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kemi_nsq.consumer import chores as chores_module
from kemi_nsq.consumer.chores import Chores
from kemi_nsq.counters import Counter
from kemi_nsq.errors import ConnectionLost
from kemi_nsq.nsq.publisher import Publisher
from kemi_nsq.presence import probe as probe_module
from kemi_nsq.presence.probe import Probe
from kemi_nsq.testing import FakeHost
from tests.support.doubles import FakePublisher
from tests.support.gates import TestedGate
from tests.support.settings import settings
from tests.support.until import until


def chores(publisher: Publisher, host: FakeHost) -> Chores:
    wanted = settings(probe_topic="probes")
    probe = Probe(wanted, publisher, None)
    return Chores(host, watchers=None, expiry=None, probe=probe, gate=TestedGate(host))


def tick_until(tested: Chores, fact: Callable[[], bool]) -> None:
    def tick() -> bool:
        tested.tick()
        return fact()

    until(tick, what="the probe")


def test_a_second_connect_within_the_interval_is_followed_by_a_probe_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was lost in a short outage must be asked for as well, only not at once."""
    monkeypatch.setattr(probe_module, "INTERVAL_S", 0.3)
    publisher = FakePublisher()
    tested = chores(publisher, FakeHost())
    for _ in range(3):
        tested.connected()
        tested.tick()
    assert len(publisher.sent) == 1
    assert tested.next_due() is not None
    tick_until(tested, lambda: len(publisher.sent) == 2)
    assert tested.next_due() is None


def test_a_probe_that_no_nsqd_took_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chores_module, "PROBE_RETRY_S", 0.05)
    publisher, host = FakePublisher(ConnectionLost("no nsqd"), times=2), FakeHost()
    tested = chores(publisher, host)
    tested.connected()
    tick_until(tested, lambda: len(publisher.sent) == 1)
    assert host.counters[Counter.PROBED] == 1
    assert [text for _, text in host.lines] == ["no probe: no nsqd; trying again in 0.05 s"] * 2
