# SPDX-License-Identifier: GPL-2.0-or-later
"""SIP load: builds and runs `sipgen`, a closed-loop generator in Go; and the Kamailio that it is aimed at."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TypedDict

from tests.bench.figures import Spoiled
from tests.support.kamailio import Kamailio, quoted
from tests.support.nsqd import Nsqd
from tests.support.process import TOOLS
from tests.support.until import until

_HERE = Path(__file__).parent
_CONFIG, _SCRIPT = _HERE / "bench.cfg", _HERE / "worker.py"
_MODULE_FOLDERS = ("usr/lib/*/kamailio/modules", "usr/lib*/kamailio/modules", "usr/local/lib*/kamailio/modules")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Load(TypedDict):
    """What sipgen says of a run."""

    answered: int
    failed: int
    retransmitted: int
    elapsed_s: float
    rate: float
    p50_ms: float
    p99_ms: float


def build() -> str:
    """Compile sipgen, if it has changed, and return the path of the program."""
    TOOLS.mkdir(parents=True, exist_ok=True)
    program = TOOLS / "sipgen"
    subprocess.run(["go", "build", "-o", str(program), "."], cwd=_HERE / "sipgen", check=True)
    return str(program)


def run(program: str, kamailio: Kamailio, method: str, count: int, **options: int | str) -> Load:
    """Send `count` requests and wait for their answers.

    Args:
        program: sipgen.
        kamailio: where to send.
        method: SIP method.
        count: how many requests.
        options: more options of sipgen.

    Raises:
        Spoiled: a request was not answered, or was sent twice: the server was asked for more than it did.
    """
    host, port = kamailio.sip_target
    given = {"target": f"{host}:{port}", "method": method, "count": count} | options
    command = [program, *(f"-{name}={value}" for name, value in given.items())]
    load: Load = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    if load["failed"] or load["retransmitted"]:
        raise Spoiled(f"{load['failed']} {method} failed, {load['retransmitted']} sent again\n{_tail(kamailio)}")
    return load


def module(name: str) -> Path | None:
    """Return the file of a module of Kamailio; None where it is not installed."""
    return next((path for each in _MODULE_FOLDERS for path in Path("/").glob(f"{each}/{name}.so")), None)


def server(
    folder: Path, nsqd: Nsqd, workers: int, environment: dict[str, str] | None = None, **defines: int | str
) -> Kamailio:
    """Prepare a Kamailio with `bench.cfg`.

    Args:
        folder: where its log goes.
        nsqd: what it publishes to and consumes from.
        workers: SIP worker processes.
        environment: variables for the script in the workers.
        defines: more values for `#!define`.
    """
    made: dict[str, int | str] = {
        "BENCH_WORKERS": workers,
        "NSQ_SCRIPT": quoted(_SCRIPT),
        "NSQ_NSQD_TCP_ADDRESS": quoted(nsqd.tcp_address),
        "NSQ_NODE": "bench",
        "NSQ_QUERY_TIMEOUT": 10,
        **defines,
    }
    return Kamailio(_CONFIG, folder, defines=made, environment=environment)


def wait_for_consumer(kamailio: Kamailio) -> None:
    """Wait until the consumer process has subscribed to its event topic and its reply topic."""
    until(lambda: counter(kamailio, "connected") == 2, what="the subscriptions")


def counter(kamailio: Kamailio, name: str, table: str = "nsq") -> int:
    """Return one of kemi-nsq's counters, or of another table of numbers."""
    try:
        lines = kamailio.rpc("htable.get", table, name).splitlines()
    except AssertionError:
        return 0  # not counted yet
    return int(next(line for line in lines if "value" in line).split()[-1])


def cpu_s(kamailio: Kamailio) -> float:
    """Return the seconds of CPU that all processes of a Kamailio have used."""
    return sum(map(cpu_of_s, kamailio.process.members()))


def cpu_of_s(pid: int) -> float:
    """Return the seconds of CPU that a process has used (proc(5), `stat`, fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _tail(kamailio: Kamailio) -> str:
    return "\n".join(kamailio.log_text().splitlines()[-10:])
