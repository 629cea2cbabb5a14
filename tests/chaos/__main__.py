# SPDX-License-Identifier: GPL-2.0-or-later
"""Let the faults that are named happen, or all: `python -m tests.chaos [--seconds N] [--faults NAME,NAME] [--seed S]`.

Exit code 0: nothing was lost, and every row and every lamp is right. 130: ended by Ctrl-C.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event

from rich.console import Console

from kemi_nsq.tools.output import progress
from tests.chaos.drill import Drill
from tests.chaos.faults import FAULTS
from tests.chaos.outcome import Outcome, failed, page_with, read_json, show, write_json
from tests.chaos.stage import stage
from tests.support.interrupt import INTERRUPTED, times

_ROOT = Path(__file__).parents[2]
_SECONDS, _RATE = 600.0, 30.0
#: Of the table, where the output is no terminal.
_WIDTH = 140

#: Set by Ctrl-C and SIGTERM.
_ending = Event()


def main(arguments: Sequence[str]) -> int:
    """Run the faults, print the table and return the exit code."""
    options = _parser().parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _signal, _frame: _ending.set())
    outcomes: list[Outcome] = []
    measured, interrupted = _measured(options), ""
    try:
        if options.read:
            outcomes, measured = read_json(options.read)
        else:
            _run(options, outcomes)
    except KeyboardInterrupt:
        interrupted = f"Incomplete: {len(outcomes)} of {len(options.faults)} faults."
        measured = f"{measured} {interrupted}"
    if outcomes:
        show(outcomes, Console(width=max(Console().width, _WIDTH)))
    if interrupted:
        print(interrupted)
    if options.json:
        write_json(outcomes, measured, options.json)
    if interrupted:
        return INTERRUPTED
    if options.write:
        page = options.write.read_text(encoding="utf-8")
        options.write.write_text(page_with(page, outcomes, measured), encoding="utf-8")
    return 0 if all(outcome.right for outcome in outcomes) else 1


def _measured(options: argparse.Namespace) -> str:
    """Say on which code this is measured: the last commit that changed what Kamailio loads."""
    command = ["git", "log", "-1", "--date=short", "--format=%h of %ad", "--", "kemi_nsq", "kamailio"]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    code = f"commit {done.stdout.strip()}" if done.stdout else f"version {version('kemi-nsq')}"
    set_to = "".join(f", {name}={value}" for name, value in options.define)
    return f"Measured on {code}: {options.rate:g} events a second, seed {options.seed}{set_to}."


class Progress:
    """How far it is.

    Args:
        faults: those that are to happen.
        seconds: how long one takes, about.
        outcomes: of those that have happened; it grows.
    """

    def __init__(self, faults: Sequence[str], seconds: float, outcomes: Sequence[Outcome]) -> None:
        self._faults, self._seconds, self._outcomes = faults, seconds, outcomes
        self._began_s = time.monotonic()
        self._since_s: float | None = None
        self._said = "starting the servers"

    def say(self, text: str) -> None:
        """Say what happens in the fault that is on."""
        self._said = text

    def begin(self) -> None:
        """Begin the next fault."""
        self._since_s = time.monotonic()

    def line(self) -> str:
        """Say it while it goes on."""
        now = time.monotonic()
        said = "ending the servers" if _ending.is_set() else self._said
        if self._since_s is None or len(self._outcomes) == len(self._faults):
            return f"{said}, {times(now - self._began_s, None)}"
        done, count = len(self._outcomes), len(self._faults)
        left_s = self._seconds * (count - done) - (now - self._since_s)
        return f"{said}, {done + 1} of {count}, {times(now - self._began_s, left_s)}"


def _run(options: argparse.Namespace, outcomes: list[Outcome]) -> None:
    seconds = options.seconds / len(options.faults)
    far = Progress(options.faults, seconds, outcomes)
    with progress(far.line), ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(TemporaryDirectory(prefix="kemi-nsq-chaos-")))
        servers = stack.enter_context(stage(folder, dict(options.define), _pause))
        drill = Drill(servers, seed=options.seed, rate=options.rate, seconds=seconds, say=far.say, pause=_pause)
        for fault in options.faults:
            far.begin()
            try:
                outcomes.append(drill.run(fault))
            except Exception as error:  # the other faults are worth their figures
                traceback.print_exc()
                outcomes.append(failed(fault, f"{type(error).__name__}: {error}"))
        far.say("ending the servers")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="for all faults together, about")
    parser.add_argument("--faults", type=_faults, default=list(FAULTS), metavar="NAME,NAME", help=", ".join(FAULTS))
    parser.add_argument("--seed", type=int, default=1, help="chooses the events")
    parser.add_argument("--rate", type=float, default=_RATE, help="events a second")
    parser.add_argument(
        "--define", type=_define, action="append", default=[], metavar="NAME=VALUE", help="a setting of both Kamailio"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to a file, too")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="renew the table of a page")
    parser.add_argument("--read", type=Path, metavar="FILE", help="show such a file instead of running anything")
    parser.add_argument("--folder", type=Path, help="where logs and data go, and stay")
    return parser


def _faults(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(FAULTS):
        raise argparse.ArgumentTypeError(f"no such fault: {', '.join(sorted(unknown))}")
    return names


def _define(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not (name and separator):
        raise argparse.ArgumentTypeError(f"no NAME=VALUE: {text}")
    return name, value


def _pause(seconds: float = 0) -> None:
    """Wait. Only here Ctrl-C ends anything: anywhere else a server might just be starting, and nobody would end it."""
    if _ending.wait(seconds):
        raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
