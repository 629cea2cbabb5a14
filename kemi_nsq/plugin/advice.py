# SPDX-License-Identifier: GPL-2.0-or-later
"""What the start says of a kamailio.cfg that Kamailio is content with, and that breaks presence all the same.

Made are the checks of `kemi-nsq doctor` that look at nothing but the text, and of these the ones that matter most. They
never keep Kamailio from starting.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from kemi_nsq.configuration import file_checks, presence_checks, route_checks
from kemi_nsq.configuration.finding import Grade, Text, made
from kemi_nsq.configuration.reader import read
from kemi_nsq.host import Host, Level
from kemi_nsq.settings import Settings

#: What is read at a start, of all files together: some 40 ms.
MOST_BYTES = 192 * 1024
_CHECKS = tuple(
    check
    for checks in (file_checks.CHECKS, presence_checks.CHECKS, route_checks.CHECKS)
    for check in checks
    if check.at_start
)
_RELEASE = re.compile(r"kamailio (\d+)\.(\d+)\.(\d+)")


def advise(host: Host, settings: Settings, wrong_function: Callable[[str], str]) -> None:
    """Log a line of level WARNING for each thing that is wrong with the configuration.

    Args:
        host: the SIP server, which knows where the configuration is.
        settings: those that hold.
        wrong_function: says what is wrong with a name that a route gives to `python_exec`, '' for nothing.
    """
    file, _ = host.configuration()
    if not file:
        return
    try:
        for line in _advice(Path(file), host, settings, wrong_function):
            host.log(Level.WARNING, line)
    except Exception as error:  # Kamailio starts, whatever somebody has written there
        host.log(Level.WARNING, f"{file} was not checked: {type(error).__name__}: {error}; please report this")


def _advice(file: Path, host: Host, settings: Settings, wrong_function: Callable[[str], str]) -> list[str]:
    configuration = read(file, host.defined_before(), most_bytes=MOST_BYTES)
    release = _RELEASE.search(host.version())
    text = Text(
        configuration=configuration,
        settings=settings,
        release=tuple(map(int, release.groups())) if release else (),
        wrong_function=wrong_function,
    )
    findings = (finding for check in _CHECKS for finding in made(check, text))
    lines = ["; ".join(filter(None, each[1:])) for each in findings if each.grade in (Grade.WARNING, Grade.ERROR)]
    if not configuration.whole:
        lines.append(f"{file} is too large to be checked at a start: see kemi-nsq doctor")
    return lines
