# SPDX-License-Identifier: GPL-2.0-or-later
"""All checks of `kemi-nsq doctor`, by what they look at, and how they are made."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from kemi_nsq.configuration import file_checks, presence_checks, route_checks
from kemi_nsq.configuration.finding import Check, Finding, Grade, Text, made
from kemi_nsq.monitoring.health import Health
from kemi_nsq.tools.doctor import database, machine, network, running, script
from kemi_nsq.tools.doctor.scene import Scene

OF_TEXT: Mapping[str, tuple[Check[Text], ...]] = {
    "configuration": file_checks.CHECKS,
    "presence": presence_checks.CHECKS,
    "routes": route_checks.CHECKS,
}
OF_SCENE: Mapping[str, tuple[Check[Scene], ...]] = {
    "Kamailio": running.CHECKS,
    "script": script.CHECKS,
    "machine": machine.CHECKS,
    "database": database.CHECKS,
    "NSQ": network.CHECKS,
}
_PASSWORD = re.compile(r"(://[^\s/:@]*:)[^\s]*@")
#: Marks what the start does, too, in Markdown.
STAR = r" \*"
HEALTH: Mapping[Grade, Health] = {
    Grade.OK: Health.OK,
    Grade.WARNING: Health.WARNING,
    Grade.ERROR: Health.CRITICAL,
    Grade.UNKNOWN: Health.UNKNOWN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One finding of one check."""

    group: str
    check: str
    finding: Finding

    def as_json(self) -> dict[str, str]:
        """Return it as JSON."""
        grade, reason, mend = self.finding
        return {"group": self.group, "check": self.check, "result": grade.value, "reason": reason, "mend": mend}


def examine(scene: Scene, tell: Callable[[str], None]) -> Iterator[Result]:
    """Make all checks.

    Args:
        scene: what they look at.
        tell: is told the name of each check before it is made.
    """
    for group, of_text in OF_TEXT.items():
        for check in of_text:
            tell(check.name)
            yield from (Result(group=group, check=check.name, finding=_shown(each)) for each in made(check, scene.text))
    for group, of_scene in OF_SCENE.items():
        for one in of_scene:
            tell(one.name)
            yield from (Result(group=group, check=one.name, finding=_shown(each)) for each in made(one, scene))


def _shown(finding: Finding) -> Finding:
    """Hide the password of a URL, which Kamailio or a driver may have put into what it says."""
    return Finding(finding.grade, *(_PASSWORD.sub(r"\1***@", text) for text in finding[1:]))


def markdown() -> str:
    """Write the table of checks for docs/doctor.md."""
    lines = ["| about | check | looks whether |", "| --- | --- | --- |"]
    for group, of_text in OF_TEXT.items():
        lines += [f"| {group} | `{check.name}`{STAR * check.at_start} | {check.looks_at} |" for check in of_text]
    for group, of_scene in OF_SCENE.items():
        lines += [f"| {group} | `{check.name}` | {check.looks_at} |" for check in of_scene]
    return "\n".join(lines) + "\n"
