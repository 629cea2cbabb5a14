# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the measures that are named, or all: `python -m tests.bench [--quick] [--json FILE] [publish sip query ...]`.

Ctrl-C ends it with exit code 130, and prints what was measured until then.
`python -m tests.bench --profile [--quick]` shows where a consumer's CPU goes, by stage, and no figures.
`python -m tests.bench --plots FILE` measures nothing: it makes the plots and the table of docs/sizing-and-speed.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from kemi_nsq.tools.output import progress
from tests.bench import (
    correct,
    growth,
    latency,
    memory,
    outage,
    paths,
    publish,
    query,
    routes,
    seen,
    sip,
    stages,
    updates,
)
from tests.bench.figures import Figure, Result, Spoiled
from tests.bench.neighbours import MOST, look, share_of_others
from tests.support.interrupt import INTERRUPTED, interrupt_once, times
from tests.support.process import end_children
from tests.support.stored import DATABASES

MEASURES: dict[str, Callable[..., list[Figure]]] = {
    "publish": publish.measure,
    "sip": sip.measure,
    "query": query.measure,
    "waiting": query.measure_waiting,
    "outage": outage.measure,
    **{f"updates-{name}": partial(updates.measure, name=name) for name in DATABASES},
    **{f"watched-{name}": partial(updates.measure_watched, name=name) for name in DATABASES},
    **{f"memory-{name}": partial(updates.measure_in_memory, name=name) for name in DATABASES},
    "routes": routes.measure,
    "paths": paths.measure,
    "growth": growth.measure,
    "memory": memory.measure,
    "seen": seen.measure,
    "latency": latency.measure,
    **{f"correct-{name}": partial(correct.measure, name=name) for name in DATABASES},
}


#: Of the table, where the output is no terminal.
_WIDTH = 110


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 0 if everything could be measured, whether or not the aims are met, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("measures", nargs="*", metavar="measure", help=", ".join(MEASURES))
    parser.add_argument("--quick", action="store_true", help="fewer samples: shows that it works, not how fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to a file, too")
    parser.add_argument("--profile", action="store_true", help="only show where a consumer's CPU goes, by stage")
    parser.add_argument("--plots", type=Path, metavar="FILE", help="only write the plots of docs/ from such a file")
    options = parser.parse_args(arguments)
    if unknown := set(options.measures) - set(MEASURES):
        parser.error(f"no such measure: {', '.join(sorted(unknown))}")
    if options.plots:
        from tests.bench import page  # with matplotlib, which no measure needs

        page.write(options.plots, page.DOCS)
        return 0
    interrupt_once()
    if options.profile:
        return _profile(quick=options.quick)
    done = Progress(options.measures or list(MEASURES))
    try:
        with tempfile.TemporaryDirectory(prefix="kemi-nsq-bench-") as folder:
            _run(done, Path(folder), quick=options.quick)
    except KeyboardInterrupt:
        end_children()
    result = done.result()
    result.print(Console(width=max(Console().width, _WIDTH)))
    if options.json:
        result.write(options.json)
    return INTERRUPTED if result.left else bool(result.errors)


class Progress:
    """How far it is.

    Args:
        names: the measures, in order.

    Attributes:
        left: those that have not ended, the first of which is running.
        figures: of those that have.
        errors: name of each that has no figures, and why.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.left = list(names)
        self.figures: list[Figure] = []
        self.errors: dict[str, str] = {}
        self._count, self._began_s = len(names), time.monotonic()

    def line(self) -> str:
        """Say it while it goes on."""
        if not self.left:
            return "done"
        done, taken_s = self._count - len(self.left), time.monotonic() - self._began_s
        left_s = taken_s / done * len(self.left) if done else None
        return f"measuring {self.left[0]}, {done + 1} of {self._count}, {times(taken_s, left_s)}"

    def result(self) -> Result:
        """Return what was measured so far."""
        return Result(figures=self.figures, errors=self.errors, left=self.left)


def _run(done: Progress, folder: Path, *, quick: bool) -> None:
    with progress(done.line):
        while done.left:
            name, before = done.left[0], look()
            try:
                figures = MEASURES[name](folder, quick=quick)
                if not quick:
                    _check_quiet(share_of_others(before, look()))
                done.figures += figures
            except Spoiled as error:
                done.errors[name] = str(error)
            except Exception as error:  # the other measures are worth their figures
                traceback.print_exc()
                done.errors[name] = f"{type(error).__name__}: {error}"
            del done.left[0]


def _profile(*, quick: bool) -> int:
    before = look()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="kemi-nsq-bench-") as folder,
            progress(lambda: "measuring the consumer's CPU by stage"),
        ):
            table = stages.profile(Path(folder), quick=quick)
        if not quick:
            _check_quiet(share_of_others(before, look()))
    except KeyboardInterrupt:
        end_children()
        return INTERRUPTED
    except Spoiled as error:
        print(f"no profile: {error}", file=sys.stderr)
        return 1
    Console(width=max(Console().width, _WIDTH)).print(table)
    return 0


def _check_quiet(share: float) -> None:
    if share > MOST:
        raise Spoiled(f"others used {share:.0%} of the machine meanwhile; measure when it is quiet")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
