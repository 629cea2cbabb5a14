# SPDX-License-Identifier: GPL-2.0-or-later
"""A set-up of Kamailio in a folder of its own, for `kemi-nsq doctor`: a configuration, a database, a nsqd."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kemi_nsq.tools.cli import app
from tests.support.chain import SHIPPED
from tests.support.database import create_database
from tests.support.kamailio import quoted
from tests.support.nsqd import Nsqd
from tests.support.ports import free_udp_port
from tests.support.settings import wipe_environment


@dataclass(kw_only=True)
class SetUp:
    """A set-up that is good, until a test changes it.

    Attributes:
        folder: everything of it; nobody else can read it.
        nsqd: answers.
        defines: `#!define` lines before the include; None for one that is not written.
        before: lines before the include of kamailio.cfg.
        after: lines after it.
        base: the configuration that is included.
        options: more of the command line of the doctor.
        environment: of the doctor, besides PATH.
    """

    folder: Path
    nsqd: Nsqd
    defines: dict[str, str | None] = field(default_factory=dict)
    before: str = ""
    after: str = ""
    base: Path = SHIPPED / "kamailio.cfg"
    options: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        create_database(self.database)
        self.database.chmod(0o640)
        self.defines |= {
            "SIP_LISTEN": f"udp:127.0.0.1:{free_udp_port()}",
            "CTL_SOCKET": quoted(f"unix:{self.folder}/ctl"),
            "NSQ_SCRIPT": quoted(SHIPPED / "nsq.py"),
            "NSQ_DB_URL": quoted(f"sqlite:///{self.database}"),
            "NSQ_RUN_DIR": quoted(self.folder / "run"),
            "NSQ_NSQD_ADDRESS": quoted(self.nsqd.http_address),
            "NSQ_NSQD_TCP_ADDRESS": quoted(self.nsqd.tcp_address),
        }

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.folder / "kamailio.db"

    @property
    def file(self) -> Path:
        """The configuration."""
        return self.folder / "kamailio.cfg"

    def write(self) -> Path:
        """Write the configuration."""
        lines = [f"#!define {name} {value}" for name, value in self.defines.items() if value is not None]
        self.file.write_text(
            "\n".join(["#!KAMAILIO", *lines, self.before, f'include_file "{self.base}"', self.after]) + "\n"
        )
        self.file.chmod(0o640)
        return self.file


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What the doctor said.

    Attributes:
        code: its exit code.
        found: what is not well: the check to how bad it is; the worst where it found several things.
        results: all of it.
    """

    code: int
    found: Mapping[str, str]
    results: list[dict[str, str]]

    def reasons(self, check: str) -> list[str]:
        """Return what a check has found."""
        return [each["reason"] for each in self.results if each["check"] == check]


def examine(file: Path, *options: str, environment: Mapping[str, str] | None = None) -> Examined:
    """Run the doctor on a configuration, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        wipe_environment(patch)
        done = CliRunner().invoke(app, ["doctor", str(file), "--json", *options], env=dict(environment or {}))
    assert done.stdout, done.stderr
    results = json.loads(done.stdout)["results"]
    order = ("ok", "warning", "unknown", "error")
    found: dict[str, str] = {}
    for each in results:
        before = found.get(each["check"], "ok")
        found[each["check"]] = max(before, each["result"], key=order.index)
    return Examined(
        code=done.exit_code, found={name: how for name, how in found.items() if how != "ok"}, results=results
    )
