# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole chain on loopback: nsqd, a database, and Kamailio with one of the shipped configurations."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.database import create_database
from tests.support.kamailio import Kamailio, quoted
from tests.support.nsqd import Nsqd, Option
from tests.support.until import until
from tests.support.watcher import Watcher

SHIPPED = Path(__file__).parents[2] / "kamailio"
#: Name to configuration and to the script that app_python3 loads.
CONFIGURATIONS = {
    "native": (SHIPPED / "kamailio.cfg", SHIPPED / "nsq.py"),
    "kemi": (SHIPPED / "kemi.cfg", SHIPPED / "kemi_routes.py"),
}
DOMAIN = "example.com"
TOPIC = CHANNEL = "kamailio"

#: What Kamailio's TCP process may say while the others end.
_SHUTDOWN = "receive_fd.*: EOF on "
#: Levels of Kamailio's log that an operator must look at.
_COMPLAINT = r"\b(WARNING|ERROR|CRITICAL|ALERT|BUG):"

JsonField = str | int | float | bool | list[str] | None

#: An item of an htable, as kamcmd prints it.
_ITEM = re.compile(r"name: (\S+)\s+value: (-?\d+)")


def event(package: str | None, user: str, /, **fields: JsonField) -> bytes:
    """Write an event about a user's call, presence or mailbox.

    Args:
        package: Event-Package.
        user: whose state it is.
        fields: more fields, with `_` for `-`; they win over those that this makes.
    """
    made: dict[str, JsonField] = {
        "Event-Category": "presence",
        "Event-Name": "update",
        "Event-Package": package,
        "From": f"sip:{user}@{DOMAIN}",
    }
    return json.dumps(made | {name.replace("_", "-"): value for name, value in fields.items()}).encode()


class Chain:
    """nsqd, a database and a Kamailio that consumes from the one and writes to the other.

    Attributes:
        nsqd: takes the events.
        kamailio: serves the watchers.
        database: file of the SQLite database.
    """

    def __init__(  # noqa: PLR0913  # each is one thing that a test may want to be different
        self,
        kind: str,
        folder: Path,
        *,
        config: Path | None = None,
        script: Path | None = None,
        defines: Mapping[str, str | int | None] | None = None,
        environment: Mapping[str, str] | None = None,
        nsqd_options: Mapping[str, Option] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        """Prepare it; entering the context starts all of it.

        Args:
            kind: a key of `CONFIGURATIONS`.
            folder: where logs and data go.
            config: a configuration instead of the shipped one.
            script: a script instead of the shipped one.
            defines: more values for `#!define`; None for one of ours that is not to be defined.
            environment: the environment of Kamailio, besides PATH.
            nsqd_options: options of nsqd.
            options: more options of Kamailio.
        """
        shipped_config, shipped_script = CONFIGURATIONS[kind]
        self.kind = kind
        self.folder = folder
        self.nsqd = Nsqd(folder / "nsqd", **(nsqd_options or {}))
        self.database = folder / "kamailio.db"
        self._config = config or shipped_config
        self._script = script or shipped_script
        self._defines = dict(defines or {})
        self._environment = environment
        self._options = options
        self._kamailio: Kamailio | None = None

    def __enter__(self) -> Self:
        self.nsqd.__enter__()
        try:
            create_database(self.database)
            self._announce_channel()
            self.kamailio.start()
        except BaseException:
            self.nsqd.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kamailio.stop()
        self.nsqd.stop()

    def _announce_channel(self) -> None:
        """Let nsqd know the channel from its start: deferred messages of a new one wait up to 5 s (queueScanLoop)."""
        self.nsqd.create_topic(TOPIC)
        self.nsqd.create_channel(TOPIC, CHANNEL)
        self.nsqd.stop()
        self.nsqd.start()

    @property
    def kamailio(self) -> Kamailio:
        """Kamailio; its settings name the ports of nsqd, so that must have been started before."""
        if self._kamailio is None:
            defines = {
                "NSQ_SCRIPT": quoted(self._script),
                "NSQ_DB_URL": quoted(f"sqlite:///{self.database}"),
                "NSQ_NSQD_TCP_ADDRESS": quoted(self.nsqd.tcp_address),
                "NSQ_NSQD_ADDRESS": quoted(self.nsqd.http_address),
            } | self._defines
            self._kamailio = Kamailio(
                self._config,
                self.folder / "kamailio",
                defines={name: value for name, value in defines.items() if value is not None},
                environment=self._environment,
                options=self._options,
            )
        return self._kamailio

    def watcher(self) -> Watcher:
        """Return a watcher whose SUBSCRIBEs go to this Kamailio."""
        return Watcher(self.kamailio.sip_target)

    def publish(self, body: bytes, *, topic: str = TOPIC) -> None:
        """Publish one message."""
        self.nsqd.publish(topic, body)

    def counters(self) -> dict[str, int]:
        """Return the counters, as `kamcmd htable.dump nsq` shows them; an absent one is 0."""
        return {name: int(value) for name, value in _ITEM.findall(self.kamailio.rpc("htable.dump", "nsq"))}

    def counter(self, name: str) -> int:
        """Return one counter."""
        return self.counters().get(name, 0)

    def status(self) -> tuple[int, dict[str, Any]]:
        """Return the exit code of `kemi-nsq status`, and what it says."""
        command = [str(Path(sys.executable).with_name("kemi-nsq")), "status", "--json"]
        command += ["--run-dir", str(self.kamailio.pages_folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        (instance,) = json.loads(done.stdout)["instances"]
        return done.returncode, instance

    def drain(self, *, topic: str = TOPIC, channel: str = CHANNEL, timeout_s: float = 10.0) -> None:
        """Wait until every message has been finished; raises AssertionError when that takes too long."""
        until(lambda: self._drained(topic, channel), timeout_s=timeout_s, what=f"{topic}:{channel} to be drained")

    def _drained(self, topic: str, channel: str) -> bool:
        # Between the queues of topic and channel a message is in nsqd's hand, and in neither.
        published = self.nsqd.topic(topic)["message_count"]
        found = self.nsqd.channel(topic, channel)
        return found.messages >= published and found.drained

    def log_lines(self, pattern: str) -> list[str]:
        """Return the lines of Kamailio's log that match a regular expression."""
        return [line for line in self.kamailio.log_text().splitlines() if re.search(pattern, line)]

    def complaints(self, expected: Iterable[str] = ()) -> list[str]:
        """Return the warnings and errors of Kamailio's log, without those that match a regular expression."""
        known = re.compile("|".join((_SHUTDOWN, *expected)))
        return [line for line in self.log_lines(_COMPLAINT) if not known.search(line)]


_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A presentity of a chain, with a name that no other test uses.

    Attributes:
        chain: where it is published and watched.
        user: the user part of its URI.
    """

    chain: Chain
    user: str = field(default_factory=lambda: f"user{next(_numbers)}")

    @property
    def uri(self) -> str:
        """What a watcher subscribes to."""
        return f"sip:{self.user}@{DOMAIN}"

    def call(self, state: str, **fields: JsonField) -> None:
        """Publish a state of a call from this person to Bob."""
        self.publish("dialog", **self.call_fields(state, **fields))

    def call_fields(self, state: str, **fields: JsonField) -> dict[str, JsonField]:
        """Return the fields of `call`."""
        to = {"To": f"sip:bob@{DOMAIN}", "Call_ID": f"{self.user}-call", "Direction": "inbound"}
        return {**to, "State": state, **fields}

    def publish(self, package: str, **fields: JsonField) -> None:
        """Publish an event about this person."""
        self.chain.publish(event(package, self.user, **fields))
