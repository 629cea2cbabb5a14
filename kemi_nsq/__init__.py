# SPDX-License-Identifier: GPL-2.0-or-later
"""kemi-nsq: NSQ events, publishing and presence for Kamailio, loaded through app_python3 (KEMI)."""

from __future__ import annotations

from kemi_nsq.consumer.routes import event_route
from kemi_nsq.event import Event
from kemi_nsq.plugin.kemi import KemiNsq
from kemi_nsq.plugin.native import NativeNsq

__all__ = ["Event", "KemiNsq", "NativeNsq", "event_route"]
