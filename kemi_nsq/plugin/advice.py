# SPDX-License-Identifier: GPL-2.0-or-later
"""What the start says of a kamailio.cfg that Kamailio is content with, and that breaks presence all the same.

Made are the checks of `kemi-nsq doctor` that look at nothing but the text, and of these the ones that matter most. They
never keep Kamailio from starting.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from kemi_nsq.configuration import file_checks, presence_checks, route_checks
from kemi_nsq.configuration.finding import Grade, Text, made
from kemi_nsq.configuration.model import Configuration
from kemi_nsq.configuration.reader import read
from kemi_nsq.host import Host, Level
from kemi_nsq.settings import Settings

#: What is read at a start, of all files together: 40 ms at most on the machine that this was measured on.
MOST_BYTES = 96 * 1024
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
        configuration = read(Path(file), host.defined_before(), most_bytes=MOST_BYTES)
        if not configuration.whole:
            host.log(Level.INFO, f"{file} is too large to be checked at a start: see kemi-nsq doctor")
            return
        for line in _advice(configuration, host, settings, wrong_function):
            host.log(Level.WARNING, line)
    except Exception as error:  # Kamailio starts, whatever somebody has written there
        host.log(Level.WARNING, f"{file} was not checked: {type(error).__name__}: {error}; please report this")


def _advice(
    configuration: Configuration, host: Host, settings: Settings, wrong_function: Callable[[str], str]
) -> Iterator[str]:
    release = _RELEASE.search(host.version())
    text = Text(
        configuration=configuration,
        settings=settings,
        release=tuple(map(int, release.groups())) if release else (),
        wrong_function=wrong_function,
    )
    for check in _CHECKS:
        for grade, *sentences in made(check, text):
            if grade in (Grade.WARNING, Grade.ERROR):
                yield "; ".join(filter(None, sentences))
