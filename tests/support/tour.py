# SPDX-License-Identifier: GPL-2.0-or-later
"""A line for each verb of `kemi-nsq`, to be tried on a chain that runs, and the configuration by which it finds it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.chain import DOMAIN, SHIPPED, TOPIC, Chain, event
from tests.support.kamailio import quoted
from tests.support.until import until

ALICE = f"sip:alice@{DOMAIN}"
BOB = f"sip:bob@{DOMAIN}"
DEAD_TOPIC, REPLAY_TOPIC = "dead", "replays"
PROGRAM = Path(sys.executable).with_name("kemi-nsq")

#: What they show changes until Ctrl-C, or they serve until then.
LIVE: Sequence[str] = (
    "status --watch",
    "presence watch",
    f"tail {TOPIC}",
    f"""respond --topic routes --reply '{{"Contact":"{BOB}"}}'""",
)
#: What they are about, and their words; `{letter}` is the id of a message that became a dead letter.
ONCE: Mapping[str, Sequence[str]] = {
    "How it does, and what it is set to": ("status", "doctor", "settings", "log-level", "files nsq.cfg", "reference"),
    "Publish; and query, while respond runs": (
        f"""publish {TOPIC} '{{"Event-Category":"presence","Event-Name":"update","Event-Package":"presence","""
        f""""From":"{ALICE}","State":"away"}}'""",
        """query routes '{"User":"bob"}'""",
    ),
    "Lamps": (
        "presence list",
        f"presence set {ALICE} --state busy",
        f"presence show {ALICE}",
        f"presence explain {ALICE}",
        f"presence watchers {ALICE}",
        "presence log-events on",
        f"presence reset user {ALICE}",
    ),
    "A message that could not be used": (
        "dead-letters list",
        "dead-letters show {letter}",
        "dead-letters replay {letter}",
        "dead-letters drop {letter}",
    ),
    "Take nothing for a while": ("pause", "drain", "resume"),
}


class Tour:
    """A chain that `kemi-nsq --config FILE` finds.

    Attributes:
        chain: not started yet.
        config: the file.
        run_folder: its NSQ_RUN_DIR.
    """

    def __init__(self, folder: Path, base: Path = SHIPPED / "kamailio.cfg", **settings: str) -> None:
        """Prepare the chain.

        Args:
            folder: where its logs and data go.
            base: the configuration that Kamailio runs; the file sets what it leaves open.
            settings: more settings, as NSQ_NODE="sip1".
        """
        self.config = folder / "kamailio.cfg"
        self.run_folder = folder / "run"
        shown = quoted(self.run_folder)
        self.chain = Chain(
            "native",
            folder,
            config=self.config,
            defines={
                # These are in the file.
                **dict.fromkeys(("NSQ_SCRIPT", "NSQ_DB_URL", "NSQ_NSQD_TCP_ADDRESS", "NSQ_NSQD_ADDRESS")),
                "NSQ_RUN_DIR": shown,
            },
        )
        defines = {
            "NSQ_SCRIPT": quoted(SHIPPED / "nsq.py"),
            "NSQ_DB_URL": quoted(f"sqlite:///{self.chain.database}"),
            "NSQ_NSQD_TCP_ADDRESS": quoted(self.chain.nsqd.tcp_address),
            "NSQ_NSQD_ADDRESS": quoted(self.chain.nsqd.http_address),
            "NSQ_DEAD_LETTER_TOPIC": quoted(DEAD_TOPIC),
            "NSQ_REPLAY_TOPIC": quoted(REPLAY_TOPIC),
            **{name: quoted(value) for name, value in settings.items()},
        }
        lines = [f"#!define {name} {value}" for name, value in defines.items()]
        # The command line of Kamailio says this one already; the file says it to whoever else reads it.
        lines += ["#!ifndef NSQ_RUN_DIR", f"#!define NSQ_RUN_DIR {shown}", "#!endif"]
        self.config.write_text("\n".join(["#!KAMAILIO", *lines, f'include_file "{base}"', ""]), encoding="utf-8")
        self.config.chmod(0o640)

    def bury(self) -> str:
        """Publish an event that cannot be used; return its id when it is a dead letter.

        Raises:
            AssertionError: it did not become one.
        """
        self.chain.publish(event("dialog", "bob", To=ALICE, Call_ID="no-state"))
        return str(until(self._letters, timeout_s=10, what="the dead letter")[-1]["message_id"])

    def _letters(self) -> list[Mapping[str, object]]:
        command = [str(PROGRAM), "--config", str(self.config), "dead-letters", "list", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        found: list[Mapping[str, object]] = json.loads(done.stdout)["letters"] if done.stdout else []
        return found
