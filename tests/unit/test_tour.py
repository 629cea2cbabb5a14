# SPDX-License-Identifier: GPL-2.0-or-later
"""The lines that the demo prints name every verb of the command."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import typer

from kemi_nsq.tools.cli import app
from tests.support.tour import LIVE, ONCE

#: The demo runs the script that kemi-nsq ships, which has no handlers of an operator's to reload, and is refused.
NOT_ON_A_DEMO = {("reload",)}


def verbs(command: object, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of each verb."""
    groups = getattr(command, "commands", None)
    if groups is None:
        yield before
        return
    for name, each in groups.items():
        yield from verbs(each, (*before, name))


def test_each_verb_has_a_line() -> None:
    lines = [*LIVE, *(line for some in ONCE.values() for line in some)]
    words = [tuple(shlex.split(line)) for line in lines]
    missing = [
        verb for verb in verbs(typer.main.get_command(app)) if not any(verb == each[: len(verb)] for each in words)
    ]
    assert set(missing) == NOT_ON_A_DEMO
    assert len(set(lines)) == len(lines)
