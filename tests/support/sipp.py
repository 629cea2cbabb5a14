# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs sipp, an independent SIP client, with a scenario of tests/acceptance/sipp."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.ports import LOOPBACK, free_udp_port
from tests.support.process import find_program
from tests.support.sip_endpoint import Target

SCENARIOS = Path(__file__).parents[1] / "acceptance/sipp"


def sipp(scenario: str, server: Target, folder: Path, *, calls: int = 1, timeout_s: int = 20) -> None:
    """Run calls at 50 a second; each must go as the scenario says.

    Args:
        scenario: name of the file, without `.xml`.
        server: host and port of the SIP server.
        folder: where sipp writes what went wrong.
        calls: how many.
        timeout_s: seconds for all of them.

    Raises:
        AssertionError: a call went another way; the message says how.
    """
    host, port = server
    errors = folder / f"{scenario}.errors"
    command = [find_program("sipp"), f"{host}:{port}", "-sf", str(SCENARIOS / f"{scenario}.xml"), "-nostdin"]
    command += ["-i", LOOPBACK, "-p", str(free_udp_port()), "-m", str(calls), "-r", "50"]
    command += ["-timeout", f"{timeout_s}s", "-timeout_error", "-trace_err", "-error_file", str(errors)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, timeout=timeout_s + 10)
    found = errors.read_text(encoding="utf-8", errors="replace") if errors.exists() else ""
    assert done.returncode == 0, (
        f"sipp {scenario}: code {done.returncode}\n{found}\n{done.stderr}\n{done.stdout[-3000:]}"
    )
