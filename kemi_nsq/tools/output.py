# SPDX-License-Identifier: GPL-2.0-or-later
"""How the commands print: tables that a pipe does not wrap, text without control characters, JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from kemi_nsq.clock import local_time

#: The option of a verb that can answer a program.
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
#: Columns where standard output is no terminal: what reads it may cut, but nothing is wrapped or left out here.
_WIDE = 10_000
#: How often a second a line of progress is written anew.
_REFRESHES = 4


def console() -> Console:
    """Return where a command prints: as wide as the terminal, or as wide as anything where there is none."""
    return Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False, markup=False, emoji=False)


@contextmanager
def progress(line: Callable[[], str]) -> Iterator[None]:
    """Show on standard error how far long work is, in one line that is rewritten in place; nothing in a pipe.

    Args:
        line: returns what the line says now; another thread asks for it again and again.
    """
    if not sys.stderr.isatty():
        yield
        return
    spinner = Spinner("dots")

    def shown() -> RenderableType:
        made = Table.grid(padding=(0, 1))
        made.add_column()
        made.add_column(no_wrap=True, overflow="ellipsis")  # one that went on in the next line could not be rewritten
        made.add_row(spinner, Text(plain(line())))
        return made

    # What is printed meanwhile goes above the line; into a file it goes as it is.
    with Live(
        console=Console(stderr=True),
        get_renderable=shown,
        refresh_per_second=_REFRESHES,
        redirect_stdout=sys.stdout.isatty(),
        transient=True,
    ) as live:
        live.refresh()  # else short work would show nothing
        yield


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
