# SPDX-License-Identifier: GPL-2.0-or-later
"""How much of the machine others use while something is measured (proc(5), `stat`; getrusage(2))."""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.process import descendants

#: Others may use so much: above that a figure says as much of them as of what was measured.
MOST = 0.1
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
#: In less the kernel's ticks, of 10 ms, tell nothing.
_SHORTEST_S = 1.0
_CORES = os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Look:
    """What was used until a moment, in seconds of CPU.

    Interrupts are nobody's: the kernel counts the work for loopback sockets there, whoever sends.

    Attributes:
        at_s: the moment, by the monotonic clock.
        all_s: by all processes of the machine.
        own_s: by this one, and by all that it has started and that they have.
    """

    at_s: float
    all_s: float
    own_s: float


def look() -> Look:
    """Look now."""
    words = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
    user, nice, system = map(int, words[1:4])
    return Look(time.monotonic(), (user + nice + system) / _TICKS_PER_S, _own_s())


def share_of_others(before: Look, after: Look, cores: int = _CORES) -> float:
    """Return the part of the machine that others used between two looks, 0 to 1."""
    others_s = (after.all_s - before.all_s) - (after.own_s - before.own_s)
    return max(0.0, others_s) / (max(after.at_s - before.at_s, _SHORTEST_S) * cores)


def _own_s() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used) + sum(map(_used_s, descendants(os.getpid())))


def _used_s(pid: int) -> float:
    """Return what a process has used, with its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS_PER_S
