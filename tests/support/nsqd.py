# SPDX-License-Identifier: GPL-2.0-or-later
"""Real nsqd and nsqlookupd on free ports of loopback.

Each has its ports from when it is made, and takes them again when it starts again.
"""

from __future__ import annotations

import http.client
import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict, cast
from urllib.parse import urlencode

from tests.support.ports import LOOPBACK, free_tcp_port
from tests.support.process import ChildProcess, find_program
from tests.support.until import until

HTTP_TIMEOUT_S = 10.0

Option = str | int | bool | Sequence[str]


class ChannelStats(TypedDict):
    """What nsqd's `/stats` says of a channel (nsqd/stats.go, `ChannelStats`), as far as tests use it."""

    channel_name: str
    depth: int
    in_flight_count: int
    deferred_count: int
    message_count: int
    requeue_count: int
    timeout_count: int
    client_count: int
    paused: bool


class TopicStats(TypedDict):
    """What nsqd's `/stats` says of a topic (nsqd/stats.go, `TopicStats`), as far as tests use it."""

    topic_name: str
    channels: list[ChannelStats]
    depth: int
    message_count: int
    message_bytes: int
    paused: bool


class NsqdStats(TypedDict):
    """What nsqd's `/stats` says (nsqd/http.go, `doStats`), as far as tests use it."""

    version: str
    health: str
    start_time: int
    topics: list[TopicStats]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelState:
    """The counters of a channel.

    Attributes:
        depth: messages that wait.
        in_flight: messages handed to a consumer that has not answered yet.
        deferred: messages requeued with a delay that is not over.
        messages: messages that ever came in.
        requeued: REQ commands received.
        timed_out: messages that no consumer answered in time.
        clients: consumers connected.
    """

    depth: int
    in_flight: int
    deferred: int
    messages: int
    requeued: int
    timed_out: int
    clients: int

    @property
    def drained(self) -> bool:
        """Whether every message has been finished."""
        return self.depth == self.in_flight == self.deferred == 0


class NsqServer:
    """What nsqd and nsqlookupd have in common: two ports, a data folder, HTTP, and outages on demand.

    Attributes:
        tcp_port: the port of the NSQ protocol.
        http_port: the port of the HTTP interface.
    """

    #: Name of the program and of the log.
    PROGRAM: str

    def __init__(self, folder: Path, **options: Option) -> None:
        """Prepare the server; entering the context starts it.

        Args:
            folder: where its log and data go; made when missing.
            options: its command line options, with `_` for `-`. A list gives the option several times.
        """
        self.folder = folder
        self.tcp_port, self.http_port = free_tcp_port(), free_tcp_port()
        self._options = options
        self._process: ChildProcess | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self.start()
        except BaseException:  # Ctrl-C, say
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def tcp_address(self) -> str:
        """`host:port` of the NSQ protocol."""
        return f"{LOOPBACK}:{self.tcp_port}"

    @property
    def http_address(self) -> str:
        """`host:port` of the HTTP interface."""
        return f"{LOOPBACK}:{self.http_port}"

    @property
    def process(self) -> ChildProcess:
        """The process of the last start.

        Raises:
            AssertionError: the server was never started.
        """
        assert self._process is not None, f"{self.PROGRAM} was not started"
        return self._process

    def start(self) -> None:
        """Start it, on the ports and data that it had before, and wait until it listens."""
        addresses: dict[str, Option] = {"tcp_address": self.tcp_address, "http_address": self.http_address}
        options = self._defaults() | addresses | self._options
        command = [find_program(self.PROGRAM), *_flags(options)]
        process = self._process = ChildProcess(self.PROGRAM, command, folder=self.folder)
        for interface in ("TCP", "HTTP"):
            process.wait_for_log(f"{interface}: listening on ")
        until(lambda: self.http("GET", "/ping") == b"OK", what=f"{self.PROGRAM} to answer /ping")

    def stop(self) -> None:
        """End it as an operator would (SIGTERM): nsqd writes what is in memory to its data folder."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """End it as a crash would (SIGKILL): what is in memory is lost."""
        self.process.kill()

    def freeze(self) -> None:
        """Make it silent without closing a connection (SIGSTOP)."""
        self.process.freeze()

    def thaw(self) -> None:
        """Let it run on (SIGCONT)."""
        self.process.thaw()

    def log_text(self) -> str:
        """Return its log, of all starts."""
        return self.process.log_text()

    def http(self, method: str, path: str, *, body: bytes = b"", **query: str) -> bytes:
        """Send one HTTP request and return the body of the answer.

        Raises:
            AssertionError: the answer is an error.
            OSError: the server cannot be reached.
        """
        connection = http.client.HTTPConnection(LOOPBACK, self.http_port, timeout=HTTP_TIMEOUT_S)
        try:
            connection.request(method, f"{path}?{urlencode(query)}", body)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        assert response.status == http.HTTPStatus.OK, f"{method} {path} {query}: {response.status} {answer!r}"
        return answer

    def _defaults(self) -> dict[str, Option]:
        """Options that the server gets unless the caller says otherwise."""
        return {"broadcast_address": LOOPBACK}


class Nsqlookupd(NsqServer):
    """A real nsqlookupd."""

    PROGRAM = "nsqlookupd"

    def producers(self, topic: str) -> list[str]:
        """List the nsqd that have a topic, as `host:port` of the NSQ protocol.

        Raises:
            AssertionError: nobody has announced the topic.
        """
        answer = json.loads(self.http("GET", "/lookup", topic=topic))
        return [f"{producer['broadcast_address']}:{producer['tcp_port']}" for producer in answer["producers"]]


class Nsqd(NsqServer):
    """A real nsqd.

    Options are nsqd's own: `Nsqd(folder, msg_timeout="2s", lookupd_tcp_address=lookupd.tcp_address)`.
    """

    PROGRAM = "nsqd"

    def publish(self, topic: str, body: bytes) -> None:
        """Publish one message (`POST /pub`)."""
        self.http("POST", "/pub", body=body, topic=topic)

    def publish_many(self, topic: str, bodies: Iterable[bytes]) -> None:
        """Publish several messages at once (`POST /mpub` in its binary form, which allows every byte in a body)."""
        messages = list(bodies)
        sized = (struct.pack(">l", len(body)) + body for body in messages)
        self.http("POST", "/mpub", body=struct.pack(">l", len(messages)) + b"".join(sized), topic=topic, binary="true")

    def create_topic(self, topic: str) -> None:
        """Create a topic; harmless when it exists."""
        self.http("POST", "/topic/create", topic=topic)

    def create_channel(self, topic: str, channel: str) -> None:
        """Create a channel of an existing topic; harmless when it exists."""
        self.http("POST", "/channel/create", topic=topic, channel=channel)

    def stats(self) -> NsqdStats:
        """Return nsqd's own statistics."""
        return cast(NsqdStats, json.loads(self.http("GET", "/stats", format="json")))

    def topic(self, topic: str) -> TopicStats:
        """Return the statistics of a topic.

        Raises:
            LookupError: there is no such topic.
        """
        for stats in self.stats()["topics"]:
            if stats["topic_name"] == topic:
                return stats
        raise LookupError(f"nsqd has no topic {topic}")

    def channel(self, topic: str, channel: str) -> ChannelState:
        """Return the counters of a channel.

        Raises:
            LookupError: there is no such topic or channel.
        """
        for stats in self.topic(topic)["channels"]:
            if stats["channel_name"] == channel:
                return _channel_state(stats)
        raise LookupError(f"nsqd has no channel {channel} of topic {topic}")

    def reply_topics(self) -> list[str]:
        """List the topics on which consumer processes, or the command line, wait for replies to queries."""
        names = [topic["topic_name"] for topic in self.stats()["topics"]]
        return sorted(name for name in names if name.endswith(".replies#ephemeral"))

    def _defaults(self) -> dict[str, Option]:
        return super()._defaults() | {"data_path": str(self.folder)}


def _channel_state(stats: ChannelStats) -> ChannelState:
    return ChannelState(
        depth=stats["depth"],
        in_flight=stats["in_flight_count"],
        deferred=stats["deferred_count"],
        messages=stats["message_count"],
        requeued=stats["requeue_count"],
        timed_out=stats["timeout_count"],
        clients=stats["client_count"],
    )


def _flags(options: dict[str, Option]) -> list[str]:
    """Write options as nsqd's command line wants them: `--mem-queue-size=0`."""
    flags = []
    for name, value in options.items():
        values = [value] if isinstance(value, str | int) else value
        flags += [f"--{name.replace('_', '-')}={_flag_value(each)}" for each in values]
    return flags


def _flag_value(value: str | int) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
