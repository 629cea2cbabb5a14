# SPDX-License-Identifier: GPL-2.0-or-later
"""The parts of presence on a table, wired as the product wires them."""

from __future__ import annotations

from dataclasses import dataclass

from kemi_nsq.clock import SYSTEM, Clock
from kemi_nsq.host import Host
from kemi_nsq.nsq.publisher import Publisher
from kemi_nsq.plugin.wiring import wire_presence
from kemi_nsq.presence.expiry import Expiry
from kemi_nsq.presence.table import PresentityTable
from kemi_nsq.presence.watchers import Watchers
from kemi_nsq.presence.writer import PresenceWriter
from kemi_nsq.settings import Settings


@dataclass(frozen=True)
class Wired:
    """What stores states, tells of them and ends them."""

    writer: PresenceWriter
    watchers: Watchers
    expiry: Expiry


def wired(host: Host, settings: Settings, table: PresentityTable, clock: Clock = SYSTEM) -> Wired:
    """Build the parts."""
    made = wire_presence(host, settings, table, Publisher(settings), clock)
    assert made.writer is not None
    assert made.watchers is not None
    assert made.expiry is not None
    return Wired(writer=made.writer, watchers=made.watchers, expiry=made.expiry)
