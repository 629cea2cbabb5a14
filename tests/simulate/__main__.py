# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.simulate SEEDS`: many seeds, on all cores; a scenario that fails is shrunk and printed."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from multiprocessing import Pool
from pathlib import Path

from tests.simulate.faults import FAULTS, put_back
from tests.simulate.shrink import shrunk
from tests.simulate.steps import scenario
from tests.simulate.truth import run

#: The folder of this process.
_FOLDER: list[Path] = []


def _work_in(base: str) -> None:
    _FOLDER[:] = [Path(tempfile.mkdtemp(dir=base))]


def _try(seed: int) -> tuple[int, str]:
    problems, _ = run(scenario(seed), _FOLDER[0])
    return seed, problems[0] if problems else ""


def main() -> int:
    """Run the seeds; return 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulate")
    parser.add_argument("seeds", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--most", type=int, default=3, help="failing seeds to print")
    parser.add_argument("--fault", choices=FAULTS, default="", help="a fault that was mended, to be put back")
    arguments = parser.parse_args()
    with put_back(arguments.fault):
        return _simulate(arguments.first, arguments.seeds, arguments.most)


def _simulate(first: int, count: int, most: int) -> int:
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    began, failed = time.monotonic(), []
    with tempfile.TemporaryDirectory(dir=memory) as base:
        with Pool(initializer=_work_in, initargs=(base,)) as pool:
            for seed, problem in pool.imap_unordered(_try, range(first, first + count), chunksize=20):
                if problem:
                    failed.append(seed)
                    print(f"seed {seed}: {problem}", flush=True)
        took_s = time.monotonic() - began
        print(f"{count} seeds in {took_s:.1f} s, {len(failed)} failed", flush=True)
        _work_in(base)
        for seed in sorted(failed)[:most]:
            print(shrunk(scenario(seed), _FOLDER[0]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
