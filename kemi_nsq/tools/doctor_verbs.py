# SPDX-License-Identifier: GPL-2.0-or-later
"""The verb `doctor`: says what is wrong with a kamailio.cfg and the machine around it, and what to do."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from kemi_nsq.configuration.finding import Finding, Grade
from kemi_nsq.monitoring.health import worst
from kemi_nsq.tools.configured import chosen
from kemi_nsq.tools.doctor.kamailio import SYSTEM_FILE
from kemi_nsq.tools.doctor.scene import Scene, scene
from kemi_nsq.tools.doctor.table import HEALTH, Result, examine
from kemi_nsq.tools.output import AsJson, console, plain, progress, table, write_json

#: So many names of checks that say the same are shown.
_MOST_NAMES = 3
#: What is counted beside the grades.
_NOT_MADE = "not applicable"


def doctor(
    file: Annotated[
        Path | None, typer.Argument(help="The kamailio.cfg; the one of --config, or Debian's where left out.")
    ] = None,
    show_all: Annotated[bool, typer.Option("--all", help="Show what is well, too.")] = False,
    as_json: AsJson = False,
    define: Annotated[
        list[str] | None, typer.Option("--define", "-A", help="NAME=value, as Kamailio is started with (kamailio -A).")
    ] = None,
    user: Annotated[str, typer.Option(help="The user that Kamailio runs as; found out where left out.")] = "",
) -> None:
    """Find what breaks presence: in kamailio.cfg, on this machine, in the database, at nsqd. Nothing is changed.

    Exit codes, as monitoring plug-ins have them: 0 all is well, 1 warning, 2 error, 3 something could not be looked at.
    """
    given = {name: value for name, _, value in (each.partition("=") for each in define or ())}
    found = scene(file or chosen() or SYSTEM_FILE, given, user)
    told = [""]
    with progress(lambda: told[-1]):
        results = list(examine(found, told.append))
    health = worst(HEALTH[each.finding.grade] for each in results)
    if as_json:
        write_json(
            {"file": str(found.file), "health": health.name.lower(), "results": [each.as_json() for each in results]}
        )
    else:
        _show(found, results, show_all=show_all)
    raise typer.Exit(health)


def _show(found: Scene, results: Sequence[Result], *, show_all: bool) -> None:
    shown = [each for each in results if show_all or each.finding.grade is not Grade.OK]
    if shown:
        made = table("result", "check", "reason", "mend")
        for names, (grade, reason, mend) in _alike(shown):
            made.add_row(grade.value, names, plain(reason), plain(mend))
        console().print(made)
    sys.stdout.write(f"{plain(str(found.file))}: {summary(results, found.state)}\n")


def _alike(results: Sequence[Result]) -> Iterator[tuple[str, Finding]]:
    """Put checks together that say the same: where nsqd is away, many do."""
    by_finding: dict[Finding, list[str]] = {}
    for each in results:
        names = by_finding.setdefault(each.finding, [])
        names.append(each.check)
    for finding, names in by_finding.items():
        more = len(names) - _MOST_NAMES
        yield ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else ""), finding


def summary(results: Iterable[Result], state: str) -> str:
    """Count checks by what they have found.

    Args:
        results: of all checks.
        state: what is to be said of Kamailio; '' for nothing.
    """
    names: dict[str, set[str]] = {word: set() for word in (*(grade.value for grade in Grade), _NOT_MADE)}
    for each in results:
        names[each.finding.grade.value if each.finding.applies else _NOT_MADE].add(each.check)
    words = ", ".join(f"{len(checks)} {word}" for word, checks in names.items() if checks)
    return f"{sum(map(len, names.values()))} checks: {words}{'; ' * bool(state)}{state}"
