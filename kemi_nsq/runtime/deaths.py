# SPDX-License-Identifier: GPL-2.0-or-later
"""How often a process ended while it handled a message: kept over restarts, in few bytes and for a day."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import orjson

#: Messages that are remembered, and seconds since the last death.
MOST = 1000
KEPT_S = 86400
_MOST_COUNT = 2**40


class Deaths:
    """The deaths of earlier runs.

    Args:
        data: what `as_bytes` returned at an earlier start; what is no such thing counts as nothing.
        now: seconds since the epoch.
    """

    def __init__(self, data: bytes, now: int) -> None:
        self._now = now
        self._deaths = {
            message_id: (count, last) for message_id, count, last in _entries(data) if self._now - last < KEPT_S
        }

    def add(self, message_ids: Collection[str], *, soon: bool = True) -> None:
        """Count a death.

        One of several messages may be the reason, so each is suspected, and handled by itself from now on; only a death
        of a message that was alone counts further. A third of one counts that did not come soon: somebody may have
        restarted Kamailio, in an outage, or because a route takes long. It is not possible to tell a restart from a
        crash.
        """
        for message_id in message_ids:
            count, _ = self._deaths.get(message_id, (0.0, 0))
            step = 1.0 if soon else 0.34
            self._deaths[message_id] = (count + step if len(message_ids) == 1 else max(count, step), self._now)

    def by_message(self) -> Mapping[str, float]:
        """Return message ids and deaths."""
        return {message_id: count for message_id, count, _ in self._kept()}

    def as_bytes(self) -> bytes:
        """Write them down."""
        return orjson.dumps(self._kept())

    def _kept(self) -> list[tuple[str, float, int]]:
        """Return the latest, as (message id, deaths, second of the last one)."""
        entries = [(message_id, count, last) for message_id, (count, last) in self._deaths.items()]
        return sorted(entries, key=lambda entry: entry[2])[-MOST:]


def _entries(data: bytes) -> list[tuple[str, float, int]]:
    try:
        entries = [(str(message_id), float(count), int(last)) for message_id, count, last in orjson.loads(data)]
    except (ValueError, TypeError, OverflowError):
        return []
    return [entry for entry in entries if 0 < entry[1] < _MOST_COUNT and 0 < entry[2] < _MOST_COUNT]
