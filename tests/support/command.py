# SPDX-License-Identifier: GPL-2.0-or-later
"""The command `kemi-nsq` as a user types it, run in the process of the test."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, NamedTuple

import pytest

from kemi_nsq.tools import cli
from tests.support.nsqd import Nsqd
from tests.support.settings import wipe_environment


class Done(NamedTuple):
    """How a command ended: its exit code, and what it wrote to standard output and to standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """What it wrote, as JSON."""
        return dict(json.loads(self.out))


def kemi_nsq(*words: str, environment: Mapping[str, str] | None = None) -> Done:
    """Run the command with these words, and with these settings as its only ones."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        wipe_environment(patch)
        for name, value in (environment or {}).items():
            patch.setenv(name, value)
        try:
            code = cli.run(lambda: cli.app(list(words), prog_name="kemi-nsq"))
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


def addresses(*servers: Nsqd) -> dict[str, str]:
    """Return the settings that name some nsqd."""
    return {
        "NSQ_NSQD_TCP_ADDRESS": ",".join(each.tcp_address for each in servers),
        "NSQ_NSQD_ADDRESS": ",".join(each.http_address for each in servers),
    }
