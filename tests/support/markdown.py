# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests read out of README.md and docs/: fenced examples, links, headings, tables, shell commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_ROW = re.compile(r"^\|(.*)\|$", re.MULTILINE)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
#: Words that stand before a command, with the number of words that each takes.
_BEFORE_COMMAND = {"sudo": 1, "-u": 2, "do": 1, "then": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One fenced block.

    Attributes:
        page: its file.
        line: number of its opening fence, from 1.
        language: the word after the fence, empty when there is none.
        text: what stands between the fences, without the indent of the fences.
    """

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        """Name the place, for the id of a test."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One simple command of a shell example.

    Attributes:
        example: where it stands.
        words: program and arguments, quotes removed, redirections and what follows left out.
    """

    example: Example
    words: tuple[str, ...]

    @property
    def program(self) -> str:
        """The program's name without its folder."""
        return Path(self.words[0]).name

    def __str__(self) -> str:
        """Name the command, for the id of a test."""
        return f"{self.example} {' '.join(self.words[:3])}"


def pages() -> list[Path]:
    """List the pages that the tests check: README.md, CHANGELOG.md and all below docs/."""
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def examples(*languages: str) -> list[Example]:
    """List the fenced blocks of all pages in one of these languages, or all of them."""
    found = [example for page in pages() for example in _examples(page)]
    return [example for example in found if not languages or example.language in languages]


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """List the targets of a page's links, fenced blocks left out."""
    return _LINK.findall(prose(page))


def code_words(page: Path) -> list[str]:
    """List what stands between backticks in a page's text."""
    return _CODE.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """Return the anchors that a page's headings make, as code hosts write them."""
    headings = (re.sub(r"[^\w\- ]", "", text.lower()) for text in _HEADING.findall(prose(page)))
    return {text.replace(" ", "-") for text in headings}


def table(page: Path, head: str) -> list[list[str]]:
    """Return the rows of the table whose first heading is `head`; cells without the backticks around them.

    Raises:
        LookupError: the page has no such table.
    """
    text = prose(page)
    for part in text.split("\n\n"):
        rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)] for row in _ROW.findall(part)]
        if rows and rows[0][0].strip("`") == head:
            return [[_plain(cell) for cell in row] for row in rows[2:]]
    raise LookupError(f"{page} has no table that begins with {head}")


def commands(*programs: str) -> list[Command]:
    """List the commands of all shell examples that call one of these programs, or all of them."""
    found = [command for example in examples("sh") for command in _commands(example)]
    return [command for command in found if not programs or command.program in programs]


def _plain(cell: str) -> str:
    quoted = cell.startswith("`") and cell.endswith("`") and cell.count("`") == 2
    return cell[1:-1] if quoted else cell


def _examples(page: Path) -> Iterator[Example]:
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        lines = (line.removeprefix(match["indent"]) for line in match["text"].splitlines())
        yield Example(
            page=page,
            line=text.count("\n", 0, match.start()) + 1,
            language=match["language"],
            text="".join(f"{line}\n" for line in lines),
        )


def _commands(example: Example) -> Iterator[Command]:
    for line in example.text.splitlines():
        words = shlex.split(re.split(r"\s<", line)[0], comments=True)
        while words and words[0] in _BEFORE_COMMAND:
            del words[: _BEFORE_COMMAND[words[0]]]
        if words:
            yield Command(example=example, words=tuple(words))
