# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests read out of README.md and docs/: examples, links, headings, tables, commands; and a block to write."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

ROOT = Path(__file__).parents[2]

_MARKDOWN = MarkdownIt("commonmark").enable("table")
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
    """List the pages that the tests check: those of the root and all below docs/."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def examples(*languages: str) -> list[Example]:
    """List the fenced blocks of all pages in one of these languages, or all of them."""
    found = [example for page in pages() for example in _examples(page)]
    return [example for example in found if not languages or example.language in languages]


def prose(page: Path) -> str:
    """Return a page without its fenced blocks; one that is not closed stays in."""
    lines = page.read_text(encoding="utf-8").splitlines(keepends=True)
    for fence in _nodes(page, "fence"):
        first, end = fence.map or (0, 0)
        if end - first > 1 and lines[end - 1].strip() == fence.markup:
            lines[first:end] = [""] * (end - first)
    return "".join(lines)


def links(page: Path) -> list[str]:
    """List the targets of a page's links and images."""
    return [str(node.attrs.get("href") or node.attrs["src"]) for node in _nodes(page, "link", "image")]


def code_words(page: Path) -> list[str]:
    """List what stands between backticks in a page's text."""
    return [node.content for node in _nodes(page, "code_inline")]


def anchors(page: Path) -> set[str]:
    """Return the anchors that a page's headings make, as code hosts write them."""
    headings = ("".join(node.content for node in each.walk() if not node.children) for each in _nodes(page, "heading"))
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def table(page: Path, head: str) -> list[list[str]]:
    """Return the rows of the table whose first heading is `head`; cells that are nothing but code as what it says.

    Raises:
        LookupError: the page has no such table.
    """
    for each in _nodes(page, "table"):
        title, *rows = [[_cell(cell) for cell in row.children] for row in each.walk() if row.type == "tr"]
        if title[0] == head:
            return rows
    raise LookupError(f"{page} has no table that begins with {head}")


def with_block(page: str, name: str, text: str) -> str:
    """Return the text of a page with other text between the comments `name` and `end of name`.

    Raises:
        ValueError: the page has no such comments.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found_begin, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f"the page has no {begin} followed by {end}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def commands(*programs: str) -> list[Command]:
    """List the commands of all shell examples that call one of these programs, or all of them."""
    found = [command for example in examples("sh") for command in _commands(example)]
    return [command for command in found if not programs or command.program in programs]


@cache
def _tree(page: Path) -> SyntaxTreeNode:
    return SyntaxTreeNode(_MARKDOWN.parse(page.read_text(encoding="utf-8")))


def _nodes(page: Path, *types: str) -> Iterator[SyntaxTreeNode]:
    return (node for node in _tree(page).walk() if node.type in types)


def _cell(cell: SyntaxTreeNode) -> str:
    (written,) = cell.children
    match written.children:
        case [SyntaxTreeNode(type="code_inline") as code]:
            return code.content
    return written.content


def _examples(page: Path) -> Iterator[Example]:
    for fence in _nodes(page, "fence"):
        first, _ = fence.map or (0, 0)
        yield Example(page=page, line=first + 1, language=fence.info, text=fence.content)


def _commands(example: Example) -> Iterator[Command]:
    for line in example.text.splitlines():
        words = shlex.split(re.split(r"\s<", line)[0], comments=True)
        while words and words[0] in _BEFORE_COMMAND:
            del words[: _BEFORE_COMMAND[words[0]]]
        if words:
            yield Command(example=example, words=tuple(words))
