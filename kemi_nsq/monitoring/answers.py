# SPDX-License-Identifier: GPL-2.0-or-later
"""Which consumer processes run, and what each says when it is asked (`consumer.console`), of its status above all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from kemi_nsq.errors import ConnectionLost, ProtocolError
from kemi_nsq.jsontext import JsonValue
from kemi_nsq.runtime.console import PATIENCE_S, ask
from kemi_nsq.runtime.folder import sheets
from kemi_nsq.runtime.page import CONSUMER, Sheet
from kemi_nsq.runtime.place import SETTING

Answer = TypeVar("Answer", bound=BaseModel)


class ConnectionSaid(BaseModel):
    """A connection to a nsqd, as `Intake.describe` has it."""

    nsqd: str
    topic: str
    channel: str
    replies: bool
    subscribed: bool
    ready: int
    in_flight: int
    silent_s: float


class TopicSaid(BaseModel):
    """What came of a topic and channel, as `Tally` has it; `last` in epoch seconds."""

    topic: str
    channel: str
    received: int
    last: float


class RouteSaid(BaseModel):
    """Events that a route had, by how they ended, and the seconds that it took (`page.BUCKETS_S`)."""

    route: str
    topic: str
    done: int
    again: int
    refused: int
    counts: Sequence[int]
    total_s: float
    longest_s: float


class ScriptSaid(BaseModel):
    """The operator's Python script, as `plugin.script` has it: its event routes, and since when, in epoch seconds."""

    file: str
    version: str
    loaded: float
    handlers: Sequence[str]


class Said(BaseModel):
    """All of it. Settings are texts, by their names; `subscriptions` are pairs `topic:channel`."""

    node: str
    versions: Mapping[str, str]
    settings: Mapping[str, str]
    subscriptions: Sequence[str]
    log_level: str = "default"
    log_events: bool = False
    connections: Sequence[ConnectionSaid]
    topics: Sequence[TopicSaid]
    routes: Sequence[RouteSaid]
    script: ScriptSaid


def consumers_in(folder: Path) -> list[Sheet]:
    """Return the pages of the consumers that run and have this runtime folder.

    Raises:
        RunFolderError: it is not there, or may not be read.
    """
    return [sheet for sheet, alive in sheets(folder) if alive and sheet.role == CONSUMER]


def nobody(folder: Path) -> ConnectionLost:
    """Say that no consumer runs."""
    return ConnectionLost(f"no consumer runs; is {SETTING} {folder} the folder of that Kamailio?")


def running(folder: Path) -> list[int]:
    """Return the process ids of the consumers of a Kamailio.

    Raises:
        RunFolderError: the runtime folder is not there, or may not be read.
        ConnectionLost: none runs.
    """
    consumers = [sheet.pid for sheet in consumers_in(folder)]
    if not consumers:
        raise nobody(folder)
    return consumers


def asked(  # noqa: PLR0913  # what is asked of whom, and how
    kind: type[Answer],
    folder: Path,
    pid: int,
    verb: str,
    arguments: dict[str, JsonValue] | None = None,
    *,
    timeout_s: float = PATIENCE_S,
) -> Answer:
    """Ask a consumer process.

    Raises:
        NsqError: it does not answer, or not so.
    """
    answer = ask(folder, pid, verb, arguments, timeout_s=timeout_s)
    try:
        return kind.model_validate(answer)
    except ValidationError as error:
        raise ProtocolError(f"consumer {pid} is of another release: restart Kamailio") from error


def sums_of_routes(said: Iterable[Said]) -> list[RouteSaid]:
    """Return what all of them together say of each route and topic."""
    sums: dict[tuple[str, str], RouteSaid] = {}
    for route in (route for each in said for route in each.routes):
        name = route.route, route.topic
        sums[name] = _sum(sums[name], route) if name in sums else route
    return list(sums.values())


def sums_of_topics(said: Iterable[Said]) -> dict[str, TopicSaid]:
    """Return what all of them together say of each topic and channel, by `topic:channel`."""
    sums: dict[str, TopicSaid] = {}
    for topic in (topic for each in said for topic in each.topics):
        name = f"{topic.topic}:{topic.channel}"
        if before := sums.get(name):
            received, last = before.received + topic.received, max(before.last, topic.last)
            sums[name] = topic.model_copy(update={"received": received, "last": last})
        else:
            sums[name] = topic
    return sums


def _sum(one: RouteSaid, other: RouteSaid) -> RouteSaid:
    return RouteSaid(
        route=one.route,
        topic=one.topic,
        done=one.done + other.done,
        again=one.again + other.again,
        refused=one.refused + other.refused,
        counts=[a + b for a, b in zip(one.counts, other.counts, strict=True)],
        total_s=one.total_s + other.total_s,
        longest_s=max(one.longest_s, other.longest_s),
    )
