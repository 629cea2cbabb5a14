# SPDX-License-Identifier: GPL-2.0-or-later
"""What the benchmark's presence server loads: kemi-nsq, a counting handler, and the presence module alone."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import TextIO

_CHECKOUT = Path(__file__).parents[2]
sys.path[:0] = [str(_CHECKOUT / "kamailio"), str(_CHECKOUT)]

import KSR  # noqa: E402
import nsq  # noqa: E402, F401  # makes the package known

# isort: split
from kemi_nsq import Event, NativeNsq, event_route  # noqa: E402


class Lamps(NativeNsq):
    """kemi-nsq for a native configuration, and what is measured beside it."""

    _seen: TextIO | None = None

    @event_route("nsq:consumer-event-bench-python")
    def count(self, _event: Event) -> None:
        """Count, as a native route does by `$shtinc`."""
        KSR.htable.sht_inc("bench", "python")

    @event_route("nsq:consumer-event-bench-python-update")
    def store(self, _event: Event) -> None:
        """Store an update, as `event_route[nsq:consumer-event-bench-native-update]` does."""
        self.nsq_pua_publish(None)

    def bench_seen(self, _msg: object) -> int:
        """Write to $BENCH_SEEN how many microseconds ago the current event was published."""
        now_ns = time.monotonic_ns()
        event = self._parts.current.event
        assert event is not None
        if self._seen is None:
            self._seen = Path(os.environ["BENCH_SEEN"]).open("a", encoding="utf-8")  # noqa: SIM115  # until the process ends
        print((now_ns - int(str(event.fields["Sent"]))) / 1000, file=self._seen, flush=True)
        return 1

    def bench_refresh(self, _msg: object, text: str) -> int:
        """Refresh watchers by the presence module alone.

        Args:
            text: a JSON object: `uris`; `count` of refreshes, which go round over them; `every_s` from one to the
                next, 0 for a loop; `result`, the file that takes the monotonic nanosecond at which each began.
        """
        wanted = json.loads(text)
        nobody_sets_this, began_ns = threading.Event(), []
        next_s = time.monotonic()
        for number in range(wanted["count"]):
            began_ns.append(time.monotonic_ns())
            with self.presence_lock():  # a consumer looks for expired states meanwhile
                KSR.presence.pres_refresh_watchers(wanted["uris"][number % len(wanted["uris"])], "dialog", 1)
            next_s += wanted["every_s"]
            if wanted["every_s"]:
                nobody_sets_this.wait(max(0, next_s - time.monotonic()))
        Path(wanted["result"]).write_text(json.dumps(began_ns), encoding="utf-8")
        return 1


def mod_init() -> Lamps:
    """Return the object that `python_exec` calls."""
    return Lamps()
