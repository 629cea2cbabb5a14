# SPDX-License-Identifier: GPL-2.0-or-later
"""Event routes for what happens besides events, native and in Python."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance.conftest import custom_chain, with_handlers
from tests.support.chain import CHANNEL, SHIPPED, TOPIC, Chain
from tests.support.until import until

NAMES = ("mod-init", "connected", "disconnected", "stuck")
SLOW = b'{"Event-Category": "test", "Event-Name": "slow"}'

BLOCKS = "\n".join(
    f'event_route[nsq:{name}] {{ xlog("L_WARN", "told $var(nqE)\\n"); $var(nqAck) = "requeue"; }}' for name in NAMES
)
NATIVE = f"""include_file "{SHIPPED}/kamailio.cfg"
{BLOCKS}
event_route[nsq:consumer-event-test-slow] {{ sleep("2"); }}
"""
METHODS = "\n".join(
    f"""
@event_route("nsq:{name}")
def told_{name.replace("-", "_")}(self, event):
    KSR.warn(f"told {{event.payload}}\\n")
    raise ValueError("nothing comes of it")
"""
    for name in NAMES
)
PYTHON = f"""
{METHODS}
@event_route("nsq:consumer-event-test-slow")
def slow(self, event):
    Never().wait(2)
"""
EXPECTED = (
    "told ",
    "stuck",
    "lost ",
    "cannot connect",
    "consuming .* again",
    "raised ValueError",
    "kemi-nsq:  ",
    "Python's lock",
)


@pytest.fixture(scope="module", params=["native", "kemi"])
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("notices")
    if request.param == "native":
        config = folder / "notices.cfg"
        config.write_text(NATIVE)
        made = Chain("native", folder, config=config, defines={"NSQ_ROUTE_TIMEOUT": 1})
    else:
        (folder / "notices.py").write_text(with_handlers(PYTHON))
        made = custom_chain("kemi", folder, script="notices.py", NSQ_ROUTE_TIMEOUT=1)
    with made:
        yield made
    assert made.complaints(EXPECTED) == []


def told(chain: Chain, name: str) -> list[dict[str, Any]]:
    """Return what the route of a name was told."""
    said = [json.loads(line.partition("told ")[2]) for line in chain.log_lines(r"\btold \{")]
    return [each for each in said if each["Event-Name"] == name]


def test_the_begin_is_told_once(chain: Chain) -> None:
    (said,) = until(lambda: told(chain, "mod-init"), what="it to be told")
    assert said.keys() == {"Event-Category", "Event-Name", "Node"}


def test_a_connection_that_comes_goes_and_comes_again_is_told_each_time(chain: Chain) -> None:
    (said,) = until(lambda: told(chain, "connected"), what="it to be told")
    assert (said["Nsqd"], said["Topic"], said["Channel"]) == (chain.nsqd.tcp_address, TOPIC, CHANNEL)
    chain.nsqd.stop()
    (said,) = until(lambda: told(chain, "disconnected"), what="the loss to be told")
    assert (said["Nsqd"], said["Topic"]) == (chain.nsqd.tcp_address, TOPIC)
    assert said["Reason"]
    chain.nsqd.start()
    until(lambda: len(told(chain, "connected")) == 2, timeout_s=20, what="the return to be told")
    assert len(chain.log_lines(f"WARNING: .*consuming {TOPIC}:{CHANNEL} at {chain.nsqd.tcp_address} again")) == 1


def test_a_route_that_took_too_long_is_told_afterwards(chain: Chain) -> None:
    chain.publish(SLOW)
    route = f"nsq:consumer-event-test-slow of {TOPIC}"

    def of_route() -> list[dict[str, Any]]:  # on a busy machine other things may take a second, too
        return [each for each in told(chain, "stuck") if each["What"] == route]

    (said,) = until(of_route, timeout_s=10, what="it to be told")
    assert 1 <= said["Seconds"] < 10
