# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs with which an operator sees how the consumers are, and has them take nothing for a while or log more."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from kemi_nsq.errors import DeadlineExceeded, RunFolderError, UsageError
from kemi_nsq.jsontext import JsonValue
from kemi_nsq.monitoring.answers import consumers_in, running
from kemi_nsq.monitoring.health import Health, worst
from kemi_nsq.monitoring.status import Status, folders, look, numbers_of
from kemi_nsq.runtime.console import PATIENCE_S, ask
from kemi_nsq.runtime.page import Gauge
from kemi_nsq.tools import configured
from kemi_nsq.tools.board import board
from kemi_nsq.tools.configured import RunDir
from kemi_nsq.tools.output import AsJson, console, plain, progress, write_json

RunDirs = Annotated[
    list[Path] | None,
    typer.Option(
        "--run-dir",
        help="Runtime folder of a Kamailio, several times for several; all that lie beside NSQ_RUN_DIR where left out.",
    ),
]
Topic = Annotated[str | None, typer.Argument(help="One topic, or topic:channel; all that are consumed where left out.")]
#: A day.
_LONGEST_S = 86400.0
#: Seconds between two looks of a screen that lives.
_LIVE_S = 1.0
_POLL_S = 0.2


def status(
    run_dir: RunDirs = None,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option(help="Look again each second, until Ctrl-C; a line each in a pipe.")] = False,
) -> None:
    """Show how each Kamailio's consumers are, also while they are stuck.

    Exit codes, as monitoring plug-ins have them: 0 all is well, 1 warning, 2 critical, 3 nobody knows.
    """
    try:
        if watch:
            _watch(run_dir)
            return
        looked = _look(run_dir)
        if as_json:
            write_json({"health": _health(looked).name.lower(), "instances": [each.as_json() for each in looked]})
        else:
            console().print(_screen(looked))
    except RunFolderError as error:
        # Kamailio's folder goes with the machine's /run, and not with Kamailio: where there is none, it never ran.
        health = Health.UNKNOWN if _is_there(run_dir) else Health.CRITICAL
        line = f"KEMI-NSQ {health.name} - {plain(str(error))}"
        if as_json:
            write_json({"health": health.name.lower(), "line": line, "instances": []})
        else:
            sys.stdout.write(line + "\n")
        raise typer.Exit(health) from None
    raise typer.Exit(_health(looked))


def pause(topic: Topic = None, run_dir: RunDir = None, as_json: AsJson = False) -> None:
    """Have the consumers take nothing more, until `resume` or a restart. What they have is handled; nothing is lost."""
    _tell("paused", _turn("pause", topic, run_dir), as_json=as_json)


def resume(topic: Topic = None, run_dir: RunDir = None, as_json: AsJson = False) -> None:
    """Have the consumers take messages again."""
    _tell("resumed", _turn("resume", topic, run_dir), as_json=as_json)


def drain(
    topic: Topic = None,
    run_dir: RunDir = None,
    timeout: Annotated[float, typer.Option(min=0, max=_LONGEST_S, help="Seconds to wait.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Pause, then wait until nothing is in flight: after that Kamailio can be stopped, and no event comes twice."""
    paused = _turn("pause", topic, run_dir)
    if not as_json:
        _tell("paused", paused, as_json=False)
    folder, deadline = configured.run_dir(run_dir), time.monotonic() + timeout
    left = _in_flight(folder)
    with progress(lambda: f"{left:.0f} messages in flight"):
        while left:
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"{left:.0f} messages are still in flight after {timeout:g} s")
            time.sleep(_POLL_S)
            left = _in_flight(folder)
    if as_json:
        _tell("paused", paused, as_json=True)
    else:
        console().print("nothing is in flight")


def log_level(
    level: Annotated[str, typer.Argument(help="error, warning, info, debug or default; left out, say which.")] = "",
    run_dir: RunDir = None,
    as_json: AsJson = False,
) -> None:
    """Have the consumers log their lines up to a level, whatever Kamailio's debug is; default leaves it to Kamailio."""
    folder = configured.run_dir(run_dir)
    said = [(pid, ask(folder, pid, "log-level", {"level": level}, timeout_s=PATIENCE_S)) for pid in running(folder)]
    if as_json:
        write_json({"consumers": [{"pid": pid, "log_level": holds} for pid, holds in said]})
        return
    for pid, holds in said:
        console().print(f"consumer {pid}: {plain(str(holds))}")


def _look(run_dirs: Sequence[Path] | None) -> list[Status]:
    chosen = run_dirs or folders(configured.run_dir(None))
    return [look(each, time.time()) for each in chosen]


def _health(looked: Sequence[Status]) -> Health:
    return worst(each.health for each in looked)


def _watch(run_dirs: Sequence[Path] | None) -> None:
    """Look again and again, until Ctrl-C, which is how this ends."""
    screen = console()
    with suppress(KeyboardInterrupt):
        if not screen.is_terminal:
            for looked in _again(run_dirs):
                for each in looked:
                    sys.stdout.write(f"{plain(each.line)}\n")
                sys.stdout.flush()
        with Live(Text(), console=screen, screen=True, auto_refresh=False) as live:
            for looked in _again(run_dirs):
                live.update(_screen(looked), refresh=True)


def _again(run_dirs: Sequence[Path] | None) -> Iterator[list[Status]]:
    while True:
        yield _look(run_dirs)
        time.sleep(_LIVE_S)


def _screen(looked: Sequence[Status]) -> Group:
    """Return all that is shown; before several Kamailio, a line that speaks for all of them."""
    parts = [board(each) for each in looked]
    if len(looked) == 1:
        return Group(*parts)
    said = ", ".join(f"{each.run_dir} {each.health.name}" for each in looked)
    line = f"KEMI-NSQ {_health(looked).name} - {said} | {numbers_of(looked)}"
    return Group(Text(plain(line)), Text(), *parts)


def _is_there(run_dirs: Sequence[Path] | None) -> bool:
    try:
        return all(each.exists() for each in run_dirs or [configured.run_dir(None)])
    except OSError:  # the folder above it may not be entered
        return True


def _turn(verb: str, topic: str | None, run_dir: Path | None) -> list[tuple[int, JsonValue]]:
    """Have each consumer pause or resume; return what each has said: the topics."""
    if topic == "":
        raise UsageError("the topic is empty; leave it out for all topics")
    folder = configured.run_dir(run_dir)
    return [(pid, ask(folder, pid, verb, {"topic": topic or ""}, timeout_s=PATIENCE_S)) for pid in running(folder)]


def _tell(done: str, said: Sequence[tuple[int, JsonValue]], *, as_json: bool) -> None:
    if as_json:
        write_json({"consumers": [{"pid": pid, done: meant} for pid, meant in said]})
        return
    for pid, meant in said:
        console().print(f"consumer {pid}: {done} {', '.join(map(str, meant)) if isinstance(meant, list) else meant}")


def _in_flight(folder: Path) -> float:
    return sum(sheet.gauges[Gauge.IN_FLIGHT] for sheet in consumers_in(folder))
