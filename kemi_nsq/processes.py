# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a process is the one that it was: its id together with its start (proc(5), `stat`)."""

from __future__ import annotations

from pathlib import Path

#: Fields after the name, which may hold blanks and brackets: state is field 3, starttime field 22.
_STATE, _START = 0, 19


def start_of(pid: int) -> int | None:
    """Return the start of a process, in clock ticks since the boot; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[_STATE] in "ZX" else int(fields[_START])


def is_running(pid: int, started: int | None = None) -> bool:
    """Whether there is such a process, and it started then."""
    start = start_of(pid)
    return start is not None and started in (None, start)
