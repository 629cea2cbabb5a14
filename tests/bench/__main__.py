# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the measures that are named, or all: `python -m tests.bench [--quick] [--json FILE] [publish sip query ...]`.

`python -m tests.bench --plots FILE` measures nothing: it makes the plots and the table of docs/sizing-and-speed.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from tests.bench import correct, latency, outage, publish, query, routes, seen, sip, updates
from tests.bench.figures import Figure, Result, Spoiled
from tests.support.stored import DATABASES

MEASURES: dict[str, Callable[..., list[Figure]]] = {
    "publish": publish.measure,
    "sip": sip.measure,
    "query": query.measure,
    "waiting": query.measure_waiting,
    "outage": outage.measure,
    **{f"updates-{name}": partial(updates.measure, name=name) for name in DATABASES},
    **{f"watched-{name}": partial(updates.measure_watched, name=name) for name in DATABASES},
    "routes": routes.measure,
    "seen": seen.measure,
    "latency": latency.measure,
    **{f"correct-{name}": partial(correct.measure, name=name) for name in DATABASES},
}


#: Of the table, where the output is no terminal.
_WIDTH = 110


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 0 if everything could be measured, whether or not the aims are met."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("measures", nargs="*", metavar="measure", help=", ".join(MEASURES))
    parser.add_argument("--quick", action="store_true", help="fewer samples: shows that it works, not how fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to a file, too")
    parser.add_argument("--plots", type=Path, metavar="FILE", help="only write the plots of docs/ from such a file")
    options = parser.parse_args(arguments)
    if unknown := set(options.measures) - set(MEASURES):
        parser.error(f"no such measure: {', '.join(sorted(unknown))}")
    if options.plots:
        from tests.bench import page  # with matplotlib, which no measure needs

        page.write(options.plots, page.DOCS)
        return 0
    with tempfile.TemporaryDirectory(prefix="kemi-nsq-bench-") as folder:
        result = _run(options.measures or list(MEASURES), Path(folder), quick=options.quick)
    result.print(Console(width=max(Console().width, _WIDTH)))
    if options.json:
        result.write(options.json)
    return 1 if result.errors else 0


def _run(names: Sequence[str], folder: Path, *, quick: bool) -> Result:
    progress = Console(stderr=True)
    figures: list[Figure] = []
    errors: dict[str, str] = {}
    for name in names:
        progress.print(f"measuring {name} ...")
        try:
            figures += MEASURES[name](folder, quick=quick)
        except Spoiled as error:
            errors[name] = str(error)
        except Exception as error:  # the other measures are worth their figures
            progress.print(traceback.format_exc(), markup=False)
            errors[name] = f"{type(error).__name__}: {error}"
    return Result(figures=figures, errors=errors)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
