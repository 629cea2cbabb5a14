# SPDX-License-Identifier: GPL-2.0-or-later
"""`kemi-nsq presence watch`: a board of lamps that lives; in a pipe, a line for each change."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from kemi_nsq.errors import DatabaseError
from kemi_nsq.presence.change import Who
from kemi_nsq.presence.look import Look
from kemi_nsq.presence.row import Key
from kemi_nsq.tools.output import console, line
from kemi_nsq.tools.presence.explain import presentity
from kemi_nsq.tools.presence.pages import states_table
from kemi_nsq.tools.presence.words import State, moment, state_of

#: Seconds between two looks, and looks between two counts of all subscriptions, which may be many.
_LIVE_S = 1.0
_COUNT_EVERY = 5
#: Lines above the lamps of a board.
_HEAD = 3
#: Lamps on a board.
MOST = 500

#: What tells one state of a presentity from its others: URI, package, etag.
_Lamp = tuple[str, str, str]


class _Change(NamedTuple):
    """What a lamp shows now, None for nothing any more; or why nobody knows."""

    uri: str
    package: str
    state: State | None
    problem: str = ""


def watch(look: Look, uris: Sequence[str], package: str, *, as_json: bool) -> None:
    """Show lamps until Ctrl-C, which is how this ends.

    Args:
        look: looks into the database.
        uris: of presentities; none for all.
        package: event package, '' for all.
        as_json: print a JSON object on a line for each change, in a terminal too.

    Raises:
        PayloadError: an URI is none.
        DatabaseError: the table could not be read at the first look; later that is shown, and it is tried again.
    """
    lamps = _Lamps(look, [presentity(uri)[1] for uri in uris], package)
    lamps.look()
    screen = console()
    with suppress(KeyboardInterrupt):
        if screen.is_terminal and not as_json:
            _show_board(screen, lamps)
        else:
            _print_changes(lamps, _json_line if as_json else _text_line)


class _Lamps:
    """What watchers are shown.

    Args:
        look: looks into the database.
        whom: users and domains; none for all.
        package: event package, '' for all.

    Attributes:
        states: as of the last look that succeeded.
        watched: how many watch each presentity and package; None where nobody knows.
        problem: why the last look did not succeed, or ''.
    """

    def __init__(self, look: Look, whom: Sequence[Who], package: str) -> None:
        self._look = look
        self._whom: Sequence[Who | None] = whom or [None]
        self._package = package
        self._looks = 0
        self.states: list[State] = []
        self.watched: dict[Key, int] | None = None
        self.problem = ""

    def look(self) -> None:
        """Look once.

        Raises:
            DatabaseError: the table could not be read.
        """
        now = time.time()
        rows = [
            row
            for who in self._whom
            for row in self._look.rows(who=who, package=self._package, hidden=False, most=MOST)
        ]
        self.states = [state for row in rows[:MOST] if (state := state_of(row, now)).shown]
        if self._looks % _COUNT_EVERY == 0:
            try:
                self.watched = self._look.watched()
            except DatabaseError:  # a Kamailio that keeps subscriptions in memory may have no such table
                self.watched = None
        self._looks += 1

    def again(self) -> Iterator[None]:
        """Look again and again; begin with what there is."""
        while True:
            yield
            time.sleep(_LIVE_S)
            try:
                self.look()
                self.problem = ""
            except DatabaseError as error:
                self.problem = str(error)


def _show_board(screen: Console, lamps: _Lamps) -> None:
    with Live(Text(), console=screen, screen=True, auto_refresh=False) as live:
        for _ in lamps.again():
            shown = lamps.states[: max(1, screen.height - _HEAD)]
            states = f"{len(lamps.states)} states"
            if len(shown) < len(lamps.states):
                states += f", the first {len(shown)} here: name whom to watch"
            head = f"{moment(time.time())}  {states}  Ctrl-C ends  {line(lamps.problem)}"
            live.update(Group(Text(head), Text(), states_table(shown, lamps.watched)), refresh=True)


def _print_changes(lamps: _Lamps, written: Callable[[_Change], str]) -> None:
    before: dict[_Lamp, State] = {}
    for _ in lamps.again():
        now = {(each.uri, each.package, each.etag): each for each in lamps.states}
        changes = [_Change(*lamp[:2], state) for lamp, state in now.items() if _news(before.get(lamp), state)]
        changes += [_Change(*lamp[:2], None) for lamp in sorted(before.keys() - now.keys())]
        for change in [_Change("", "", None, lamps.problem)] if lamps.problem else changes:
            sys.stdout.write(written(change) + "\n")
        sys.stdout.flush()
        before = now


def _news(before: State | None, now: State) -> bool:
    return before is None or (before.state, before.about) != (now.state, now.about)


def _text_line(change: _Change) -> str:
    when = moment(time.time())
    if change.problem:
        return f"{when} problem: {line(change.problem)}"
    state = change.state
    words = "gone" if state is None else f"{state.state} ({state.about})" if state.about else state.state
    return f"{when} {line(f'{change.uri} {change.package} {words}')}"


def _json_line(change: _Change) -> str:
    state = change.state.as_json() if change.state else None
    return json.dumps({"at": time.time(), **change._asdict(), "state": state})
