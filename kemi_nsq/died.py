# SPDX-License-Identifier: GPL-2.0-or-later
"""How often a process ended while it handled a message: kept over restarts, in few bytes and for a day."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import orjson

#: Messages that are remembered, and seconds since the last death.
MOST = 1000
KEPT_S = 86400


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

    def add(self, message_ids: Collection[str]) -> None:
        """Count a death.

        One of several messages may be the reason, so each is suspected, and handled by itself from now on; only a death
        of a message that was alone counts further.
        """
        for message_id in message_ids:
            count, _ = self._deaths.get(message_id, (0, 0))
            self._deaths[message_id] = (count + 1 if len(message_ids) == 1 else max(count, 1), self._now)

    def by_message(self) -> Mapping[str, int]:
        """Return message ids and deaths."""
        return {message_id: count for message_id, count, _ in self._kept()}

    def as_bytes(self) -> bytes:
        """Write them down."""
        return orjson.dumps(self._kept())

    def _kept(self) -> list[tuple[str, int, int]]:
        """Return the latest, as (message id, deaths, second of the last one)."""
        entries = [(message_id, count, last) for message_id, (count, last) in self._deaths.items()]
        return sorted(entries, key=lambda entry: entry[2])[-MOST:]


def _entries(data: bytes) -> list[tuple[str, int, int]]:
    try:
        return [(str(message_id), int(count), int(last)) for message_id, count, last in orjson.loads(data)]
    except (ValueError, TypeError):
        return []
