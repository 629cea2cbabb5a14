# SPDX-License-Identifier: GPL-2.0-or-later
"""The list of the decision records, docs/decisions/README.md: number and title of each.

`python -m tests.support.decisions` writes it anew; a test compares.
"""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs/decisions"
PAGE = FOLDER / "README.md"
_HEAD = """# Decisions

Choices that had more than one good answer: the problem, what was decided, and what it costs. Made by `make docs`.

| no. | decision |
| --- | --- |
"""


def records() -> list[Path]:
    """List the records, by number."""
    return sorted(FOLDER.glob("[0-9]*.md"))


def written() -> str:
    """Write the list.

    Raises:
        ValueError: a record does not begin with `# NUMBER. TITLE`, or its number is not that of its file.
    """
    return _HEAD + "".join(map(_row, records()))


def _row(record: Path) -> str:
    first = record.read_text(encoding="utf-8").partition("\n")[0]
    heading = re.fullmatch(r"# (\d+)\. (.+)", first)
    if heading is None or int(heading[1]) != int(record.name.partition("-")[0]):
        raise ValueError(f"{record.name} begins with {first!r}; # and its number, a dot and a title are wanted")
    return f"| {heading[1]} | [{heading[2]}]({record.name}) |\n"


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
