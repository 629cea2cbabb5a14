# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.simulate SEEDS`: many seeds, on all cores; a scenario that fails is shrunk and printed.

Exit code 0: none failed; 1: some did; 130: ended by Ctrl-C, which prints what was found until then.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import Pool
from pathlib import Path

from kemi_nsq.tools.output import progress
from tests.simulate.faults import FAULTS, put_back
from tests.simulate.shrink import shrunk
from tests.simulate.steps import scenario
from tests.simulate.truth import run
from tests.support.interrupt import INTERRUPTED, interrupt_once, times, uninterrupted

#: The folder of this process.
_FOLDER: list[Path] = []


def _work_in(base: str) -> None:
    _FOLDER[:] = [Path(tempfile.mkdtemp(dir=base))]


def _try(seed: int) -> tuple[int, str]:
    problems, _ = run(scenario(seed), _FOLDER[0])
    return seed, problems[0] if problems else ""


@dataclass(slots=True)
class Tally:
    """How far it is.

    Attributes:
        count: seeds to run.
        began_s: the monotonic second at which it began.
        done: seeds that were run.
        failed: those of them that failed.
        shrinking: the one that is made shorter now.
    """

    count: int
    began_s: float = field(default_factory=time.monotonic)
    done: int = 0
    failed: list[int] = field(default_factory=list)
    shrinking: int | None = None

    def line(self) -> str:
        """Say it while it goes on."""
        if self.shrinking is not None:
            return f"shrinking seed {self.shrinking}"
        taken_s = time.monotonic() - self.began_s
        rate = self.done / taken_s if taken_s else 0.0
        left_s = (self.count - self.done) / rate if rate else None
        failed = f"{len(self.failed)} failed"
        return f"{self.done} of {self.count} seeds, {failed}, {rate:.0f} seeds/s, {times(taken_s, left_s)}"

    def end(self) -> str:
        """Say it at the end."""
        seeds = f"{self.count} seeds" if self.done == self.count else f"incomplete: {self.done} of {self.count} seeds"
        return f"{seeds} in {time.monotonic() - self.began_s:.1f} s, {len(self.failed)} failed"


def main() -> int:
    """Run the seeds; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulate")
    parser.add_argument("seeds", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--most", type=int, default=3, help="failing seeds to print")
    parser.add_argument("--fault", choices=FAULTS, default="", help="a fault that was mended, to be put back")
    arguments = parser.parse_args()
    interrupt_once()
    tally = Tally(arguments.seeds)
    try:
        with put_back(arguments.fault), tempfile.TemporaryDirectory(prefix="kemi-nsq-simulate-", dir=_memory()) as base:
            _run(tally, arguments.first, base)
            _shrink(tally, arguments.most, base)
    except KeyboardInterrupt:
        print("incomplete: ended while it shrank" if tally.shrinking is not None else tally.end(), flush=True)
        return INTERRUPTED
    return 1 if tally.failed else 0


def _memory() -> str | None:
    """Return where files are in memory, unless the environment says where they go; None for the system's choice."""
    return "/dev/shm" if "TMPDIR" not in os.environ and os.path.isdir("/dev/shm") else None


def _run(tally: Tally, first: int, base: str) -> None:
    with ExitStack() as stack:
        # Ctrl-C is for this process, which ends the others.
        with uninterrupted():
            pool = stack.enter_context(Pool(initializer=_work_in, initargs=(base,)))
        stack.enter_context(progress(tally.line))
        for seed, problem in pool.imap_unordered(_try, range(first, first + tally.count)):
            tally.done += 1
            if problem:
                tally.failed.append(seed)
                print(f"seed {seed}: {problem}", flush=True)
    print(tally.end(), flush=True)


def _shrink(tally: Tally, most: int, base: str) -> None:
    _work_in(base)
    with progress(tally.line):
        for seed in sorted(tally.failed)[:most]:
            tally.shrinking = seed
            print(shrunk(scenario(seed), _FOLDER[0]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
