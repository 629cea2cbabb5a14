# SPDX-License-Identifier: GPL-2.0-or-later
"""The map of the code in docs/how-it-works.md: one line a module, which is the first sentence of its docstring.

`python -m tests.support.code_map` writes it anew; a test compares.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "kemi_nsq"
PAGE = ROOT / "docs/how-it-works.md"
#: The wings, from the ground up; a folder in a folder belongs to the one above.
WINGS = (
    "runtime",
    "",
    "configuration",
    "nsq",
    "presence",
    "queries",
    "relay",
    "monitoring",
    "consumer",
    "plugin",
    "tools",
)
_ROOT = "What the wings above share. It imports `runtime`, and nothing of `nsq` and above."
_BEGIN, _END = "<!-- map: written by `make docs` -->", "<!-- end of the map -->"


def modules() -> list[Path]:
    """List all modules of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def sentence(module: Path) -> str:
    """Return the first sentence of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(docstring.partition("\n\n")[0].split())
    return re.split(r"(?<=\.)\s", paragraph)[0]


def written() -> str:
    """Write the map: a table for each wing, headed by the first sentence of the wing's own docstring."""
    return "\n".join(_wing(wing) for wing in WINGS)


def kept() -> str:
    """Return the map that the page has."""
    text = PAGE.read_text(encoding="utf-8")
    return text.partition(f"{_BEGIN}\n\n")[2].partition(f"\n{_END}")[0]


def _wing(wing: str) -> str:
    folder = PACKAGE / wing
    head = f"### {wing}/\n\n{sentence(folder / '__init__.py')}" if wing else f"### The root\n\n{_ROOT}"
    rows = "".join(f"| `{name}` | {sentence(module)} |\n" for name, module in _files(folder, deep=bool(wing)))
    return f"{head}\n\n| file | what it is |\n| --- | --- |\n{rows}"


def _files(folder: Path, *, deep: bool) -> Iterator[tuple[str, Path]]:
    for module in sorted(folder.rglob("*.py") if deep else folder.glob("*.py")):
        if module != folder / "__init__.py":
            yield str(module.relative_to(PACKAGE)), module


def write() -> None:
    """Put the map into the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.partition(_BEGIN)[0], text.partition(_END)[2]
    PAGE.write_text(f"{before}{_BEGIN}\n\n{written()}\n{_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    write()
