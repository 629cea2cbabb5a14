# SPDX-License-Identifier: GPL-2.0-or-later
"""Which process is which: an id is given again when its process has ended, so its start belongs to it."""

from __future__ import annotations

from pathlib import Path

#: Fields of proc(5)'s `stat` after the name, which may hold blanks and brackets: state is field 3, starttime field 22.
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
