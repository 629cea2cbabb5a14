# SPDX-License-Identifier: GPL-2.0-or-later
"""The memory of our processes, beside that of a SIP worker of the same presence server without us.

What several processes share counts for each of them in part (proc(5), `smaps_rollup`, Pss), so that all together have
the sum.
"""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path
from statistics import median

from kemi_nsq.runtime.page import CONSUMER, RELAY
from tests.bench import load
from tests.bench.calls import PRESENTITIES, STATES, rounds
from tests.bench.figures import Figure
from tests.bench.served import SHARED_MEMORY_MB, Database, database, served
from tests.support.kamailio import Kamailio, quoted

_CONFIG = Path(__file__).with_name("alone.cfg")
#: Each SIP worker has answered some when it is looked at.
_OPTIONS, _OPEN = 2_000, 32


def measure(folder: Path, *, quick: bool) -> list[Figure]:
    """Look at the processes of both servers, and at the consumer once more after a backlog."""
    count = 10_000 if quick else 100_000
    program = load.build()
    with database("sqlite", folder / "alone-database") as stored, _alone(stored, folder / "alone") as kamailio:
        baseline = _of_workers(program, kamailio)
    with database("sqlite", folder / "memory-database") as stored, served(stored, folder / "memory") as server:
        found = {"a SIP worker": _of_workers(program, server.kamailio)}
        consumer = server.process(CONSUMER)
        found |= {"the relay": _of(server.process(RELAY)), "a consumer": _of(consumer)}
        server.consume([*islice(rounds(count // (len(STATES) * PRESENTITIES) + 1), count)])
        server.check_stored(count)
        found[f"a consumer after {count} events"] = _of(consumer)
    return [Figure(measure=f"memory of {name}", value=mb, unit="MB", baseline=baseline) for name, mb in found.items()]


def _alone(stored: Database, folder: Path) -> Kamailio:
    defines = {"NSQ_DB_URL": quoted(stored.kamailio_url)}
    return Kamailio(_CONFIG, folder, defines=defines, shared_memory_mb=SHARED_MEMORY_MB)


def _of_workers(program: str, kamailio: Kamailio) -> float:
    """Return the median of all SIP workers, which have answered requests before."""
    load.run(program, kamailio, "OPTIONS", _OPTIONS, open=_OPEN)
    return median(_of(pid) for pid, text in kamailio.pids().items() if text.startswith("udp receiver"))


def _of(pid: int) -> float:
    return pss_mb(Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8"))


def pss_mb(rollup: str) -> float:
    """Return the megabytes of the field Pss, which is in KiB."""
    found = re.search(r"^Pss: +(\d+) kB$", rollup, re.MULTILINE)
    assert found is not None, rollup
    return int(found[1]) * 1024 / 1e6
