# SPDX-License-Identifier: GPL-2.0-or-later
"""What changes states: an event, which any consumer takes; or a question to one consumer, which answers what it did."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from kemi_nsq import names
from kemi_nsq.errors import ConnectionLost, NsqError, TransientError
from kemi_nsq.jsontext import JsonObject, JsonValue, encode
from kemi_nsq.monitoring.answers import asked, running
from kemi_nsq.nsq import httpapi
from kemi_nsq.runtime.console import PATIENCE_S, ask
from kemi_nsq.tools.presence.source import ResetSaid, where_said

#: Seconds for a publish.
HTTP_TIMEOUT_S = 5.0


class Published(NamedTuple):
    """Where an event was published, and its fields."""

    topic: str
    nsqd: str
    event: JsonObject


def publish(fields: JsonObject, name: str, topic: str, nsqd: str, run_dir: Path | None) -> Published:
    """Publish an event of the category `presence`.

    Args:
        fields: of the event, without those that name its route.
        name: `update` or `reset`.
        topic: where to, '' for the first topic that a consumer takes.
        nsqd: its HTTP address, '' for the one that a consumer has.
        run_dir: the runtime folder of that consumer; None for NSQ_RUN_DIR.

    Returns:
        What was published, and where.

    Raises:
        NsqError: no consumer answers whom that is to be asked of, or nsqd does not take it.
    """
    keys = "Event-Category", "Event-Name"
    if not (topic and nsqd):
        said = where_said(run_dir)
        topic, nsqd, keys = topic or said.listen_topic, nsqd or said.nsqd_address, (said.event_key, said.event_subkey)
    event: JsonObject = {keys[0]: "presence", keys[1]: name, **fields}
    httpapi.publish(names.address(nsqd), names.topic_name(topic), encode(event), timeout_s=HTTP_TIMEOUT_S)
    return Published(topic, nsqd, event)


def reset(folder: Path, scope: str) -> int:
    """Have a consumer end the states of a scope, a piece at a time, so that events go on in between.

    Returns:
        How many states it has ended.

    Raises:
        UsageError: there is no such scope.
        TransientError: no consumer runs, or none did it to the end.
    """
    last: NsqError | None = None
    for pid in running(folder):
        ended, position, below = 0, "", ""
        try:
            while True:
                arguments: dict[str, JsonValue] = {"scope": scope, "position": position, "below": below}
                said = asked(ResetSaid, folder, pid, "reset", arguments)
                ended, position, below = ended + said.ended, said.position, said.below
                if not below:
                    return ended
        except TransientError as error:
            if ended:
                raise ConnectionLost(f"{error}; {ended} states had ended, so do it again") from error
            last = error
    assert last is not None
    raise last


def log_events(folder: Path, *, on: bool) -> list[int]:
    """Have all consumers log a line for each step of an event, or no more; return their process ids.

    Raises:
        NsqError: none runs, or one does not answer.
    """
    consumers = running(folder)
    for pid in consumers:
        ask(folder, pid, "log-events", {"on": on}, timeout_s=PATIENCE_S)
    return consumers
