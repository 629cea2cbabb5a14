# SPDX-License-Identifier: GPL-2.0-or-later
"""How the commands print: tables that a pipe does not wrap, text without control characters, JSON."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from kemi_nsq.clock import local_time

#: The option of a verb that can answer a program.
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
#: Columns where standard output is no terminal: what reads it may cut, but nothing is wrapped or left out here.
_WIDE = 10_000


def console() -> Console:
    """Return where a command prints: as wide as the terminal, or as wide as anything where there is none."""
    return Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False, markup=False, emoji=False)


def table(*columns: str) -> Table:
    """Return an empty table, as all of ours look. Where it is too wide for a terminal, text is folded and never cut."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def plain(text: str) -> str:
    """Show control characters instead of sending them to a terminal; ends of lines stay."""
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)


def line(text: str) -> str:
    """Show text in one line, as `plain`, and ends of lines too."""
    return plain(text).replace("\n", "\\n")


def moment(epoch: float) -> str:
    """Write an epoch second for people; `?` for nonsense."""
    try:
        return local_time(epoch)
    except (ValueError, OverflowError, OSError):
        return "?"


def write_json(value: object) -> None:
    """Print JSON."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
