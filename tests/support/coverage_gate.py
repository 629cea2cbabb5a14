# SPDX-License-Identifier: GPL-2.0-or-later
"""How much of each module the tests must execute, and which module has less; a module that nobody imports has nothing.

`python -m tests.support.coverage_gate` looks at what `coverage combine` left; `make covered` measures before.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coverage import Coverage

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "kemi_nsq"
#: Per cent of the statements: of each module, and of the package, where it is what held when the gate was made.
MODULE, TOTAL = 85, 98


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """What the tests executed of a module.

    Attributes:
        statements: how many it has.
        missing: how many of them were not executed.
        lines: where those are, as text.
    """

    statements: int
    missing: int
    lines: str = ""

    @property
    def share(self) -> float:
        """Per cent that were executed."""
        return 100 - 100 * self.missing / self.statements if self.statements else 100.0


def executed(measured: Coverage) -> dict[str, Executed]:
    """Return what was executed of each module, by its path."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        _, statements, _, missing, lines = measured.analysis2(str(path))
        name = str(path.relative_to(ROOT))
        found[name] = Executed(statements=len(statements), missing=len(missing), lines=lines)
    return found


def whole(modules: Mapping[str, Executed]) -> Executed:
    """Return what was executed of all modules together."""
    each = modules.values()
    return Executed(statements=sum(one.statements for one in each), missing=sum(one.missing for one in each))


def problems(modules: Mapping[str, Executed]) -> list[str]:
    """Say of which modules too little was executed, and whether of the package; nothing if all is well."""
    found = [
        f"{name}: the tests execute {one.share:.1f} % of it, and {MODULE} % is the least; not lines {one.lines}"
        for name, one in modules.items()
        if one.share < MODULE
    ]
    total = whole(modules)
    if total.share < TOTAL:
        found.append(f"the package: the tests execute {total.share:.1f} % of it, and {TOTAL} % is the least")
    return found


def main(data_file: str | None = None) -> int:
    """Print the share of the package and what is wrong; return the exit code."""
    measured = Coverage(data_file=data_file or str(ROOT / ".coverage"))
    measured.load()
    modules = executed(measured)
    total = whole(modules)
    least = min(modules, key=lambda name: modules[name].share)
    print(
        f"coverage: {total.share:.1f} % of {total.statements} statements, least {modules[least].share:.1f} % in {least}"
    )
    wrong = problems(modules)
    print(*wrong, sep="\n", end="\n" if wrong else "", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
