# SPDX-License-Identifier: GPL-2.0-or-later
"""Takes out of a screen what differs from run to run, with something of the same form in its place.

What happens in a scene happens at the begin of steps of `STEP_S` seconds. So a time is that of its step, and its
milliseconds only say whether it is nsqd's or a consumer's. Ids and processes are numbered as they are seen first.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

#: Seconds between two things that happen: what takes longer than that makes another screen.
STEP_S = 3
#: So long before its step somebody's clock may have read a time, by rounding.
_EARLY_S = 0.5
#: What is so long after the last step has not been: it is when something expires.
_FUTURE_S = 120.0
#: When a scene begins, as the screens have it.
BEGIN = datetime(2026, 11, 29, 21, 22, 54)
_BEGIN_NS = int(BEGIN.replace(tzinfo=UTC).timestamp()) * 10**9
#: Fractions of a second: of nsqd's timestamps, and of what a consumer does then.
_SENT, _DONE = "303722572", "315401886"
_DAY_S = 86400

_TIME = re.compile(
    r"(?P<before>sent |took at )?(?P<date>\d{4}-\d\d-\d\d )?\b(?P<time>\d\d:\d\d:\d\d)(?P<fraction>\.\d+)?"
    r"(?:(?=(?P<after> [0-9a-f]{16} \d)))?"
)
_DATE = re.compile(r"\b\d{4}-\d\d-\d\d\b(?! \d\d:)")
_NANOSECONDS = re.compile(r"\b1\d{18}\b")
_NUMBER = re.compile(r"(?<![\w.:])\d+(?![\w.])")
_ID = re.compile(r"\b[0-9a-f]{16}\b")
#: When a board was looked at, which is no step.
_NOW = re.compile(r"^\S+ \S+(?=  \d+ states  Ctrl-C ends)", re.MULTILINE)
_FIRST_ID, _FIRST_PID = 0x18AD60C2B2A69000, 4711
#: Columns of tables that are as wide as what stands in them, and what stands there instead; None for what it is.
_COLUMNS: Mapping[str, str | None] = {
    "pid": None,
    "waiting at nsqd": None,
    "of all processes": None,
    "version": "0.1.0",
    "heard": "0.4 s ago",
    "mean": "1.8 ms",
    "95 % within": "2.5 ms",
    "longest": "2.3 ms",
}


class Steady:
    """Makes the screens of one scene steady, in the order in which they were seen.

    Args:
        began_s: epoch second at which the first step began.
        begun: numbers of the steps in which something happened.
        names: texts that differ, such as addresses and folders, to those that stand for them.
        pids: processes.
    """

    def __init__(self, began_s: float, begun: Sequence[int], names: Mapping[str, str], pids: Sequence[int]) -> None:
        self._began = datetime.fromtimestamp(began_s, UTC).replace(tzinfo=None) + timedelta(seconds=east_s(began_s))
        self._began_ns = int(began_s * 1e9)
        self._begun, self._names = begun, names
        self._pids = {str(pid) for pid in pids}
        self._seen_pids: dict[str, str] = {}
        self._seen_ids: dict[str, str] = {}

    def screen(self, text: str) -> str:
        """Return a screen as it would be seen each time."""
        text = "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")
        return "\n\n".join(self._part(part) for part in text.split("\n\n"))

    def _part(self, part: str) -> str:
        """Return a paragraph; a table of numbers has columns as wide as its steady cells, any other as it is."""
        head, *rows = part.splitlines() or [""]
        starts = [found.start() for found in re.finditer(r"(?:^|(?<=  ))\S", head)]
        spans = [slice(*each) for each in pairwise([*starts, None])]
        names = [head[span].strip() for span in spans]
        if not rows or not _COLUMNS.keys() & set(names):
            return self._text(part)
        cells = [[self._cell(name, row[span].strip()) for name, span in zip(names, spans, strict=True)] for row in rows]
        if "heard" in names:  # connections are in the order in which nsqd happened to accept them
            cells.sort()
        widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
        padded = (map(str.ljust, row, widths) for row in (names, *cells))
        return "\n".join("  ".join(row).rstrip() for row in padded)

    def _cell(self, column: str, text: str) -> str:
        """Return a cell; what is nothing stays nothing."""
        return self._text(text) if text in ("", "-") else _COLUMNS.get(column) or self._text(text)

    def _text(self, text: str) -> str:
        for found, name in self._names.items():
            text = text.replace(found, name)
        text = _TIME.sub(self._time, text)
        text = _DATE.sub(self._date, text)
        text = _NOW.sub(str(BEGIN + timedelta(minutes=1)), text)
        text = _NANOSECONDS.sub(self._nanoseconds, text)
        text = _ID.sub(self._id, text)
        return _NUMBER.sub(self._pid, text)

    def _time(self, found: re.Match[str]) -> str:
        day, fraction = found["date"] or self._began.strftime("%Y-%m-%d "), found["fraction"] or ""
        offset_s = (datetime.strptime(day + found["time"], "%Y-%m-%d %H:%M:%S") - self._began).total_seconds()
        if not found["date"]:  # it may be of the day before, or of the next
            offset_s = (offset_s + _DAY_S / 2) % _DAY_S - _DAY_S / 2
        moment = BEGIN + timedelta(seconds=step(offset_s, self._begun))
        sent = found["before"] or found["after"] or len(fraction) > len(".000")
        digits = f".{_SENT if sent else _DONE}"[: len(fraction)]
        date = moment.strftime("%Y-%m-%d ") if found["date"] else ""
        return f"{found['before'] or ''}{date}{moment:%H:%M:%S}{digits}"

    def _date(self, found: re.Match[str]) -> str:
        """Return a date whose time a column was too narrow for."""
        days = datetime.fromisoformat(found[0]).date() - self._began.date()
        return (BEGIN + days).strftime("%Y-%m-%d")

    def _nanoseconds(self, found: re.Match[str]) -> str:
        offset_s = (int(found[0]) - self._began_ns) / 1e9
        return str(_BEGIN_NS + step(offset_s, self._begun) * 10**9 + int(_SENT))

    def _id(self, found: re.Match[str]) -> str:
        return self._seen_ids.setdefault(found[0], f"{_FIRST_ID + 0x1000 * len(self._seen_ids):016x}")

    def _pid(self, found: re.Match[str]) -> str:
        if found[0] not in self._pids:
            return found[0]
        return self._seen_pids.setdefault(found[0], str(_FIRST_PID + len(self._seen_pids)))


def east_s(began_s: float) -> int:
    """Return how far east of Greenwich, in seconds, it is the time of `BEGIN` at an epoch second."""
    begin_s = BEGIN.hour * 3600 + BEGIN.minute * 60 + BEGIN.second
    return (begin_s - int(began_s) + _DAY_S // 2) % _DAY_S - _DAY_S // 2


def zone(began_s: float) -> str:
    """Return TZ for whatever prints times of a scene (tzset(3)): then midnight is in each run where it is in all."""
    east = east_s(began_s)
    minutes, seconds = divmod(abs(east), 60)
    return f"RUN{'-' if east >= 0 else '+'}{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}"


def step(offset_s: float, begun: Sequence[int]) -> int:
    """Return the seconds from the begin of a scene to the step in which something was, or will be.

    Args:
        offset_s: seconds from the begin.
        begun: numbers of the steps in which something happened; others were passed by on a slow machine, and count for
            nothing.
    """
    number = int((offset_s + _EARLY_S) // STEP_S)
    if offset_s < begun[-1] * STEP_S + _FUTURE_S:
        number = max(0, bisect(begun, number) - 1)
    return number * STEP_S
