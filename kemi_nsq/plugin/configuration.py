# SPDX-License-Identifier: GPL-2.0-or-later
"""What kamailio.cfg calls by `python_exec`, and which locks it takes, as far as its text says so.

Kamailio itself looks a name up at its call. Read are the words that matter and no grammar (core/cfg.lex): comments,
strings, includes, and what the preprocessor leaves out. What is named by a variable or a define is not found.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

#: Kamailio follows 10 levels (MAX_INCLUDE_DEPTH), and a configuration is a text that somebody wrote.
_MOST_FILES, _MOST_BYTES = 100, 4 * 1024 * 1024
_WORDS = re.compile(
    r"""
      ^[ \t]*(?:\#!|!!)(?!(?:include|import)_file) (?P<directive>\w+) [ \t]* (?P<argument>[^\n]*)
    | /\*.*?\*/ | //[^\n]* | \#(?!!(?:include|import)_file)[^\n]*
    | \b(?P<word>python_exec|lock|include_file|import_file) \s* (?P<open>\(?) \s*
      (?P<quote>["'])(?P<text>[^"'\n]*)(?P=quote) \s* (?P<more>,?)
    | "(?:\\.|[^"\\])*" | '[^']*'
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
_INCLUDES = ("include_file", "import_file")
_LOCK = "lock"


class Call(NamedTuple):
    """A call of `python_exec`, or of `lock` with one key, in a configuration file.

    Attributes:
        function: which of the two.
        name: the Python function, or the lock, that it names.
        file: the file.
        line: of it, from 1.
    """

    function: str
    name: str
    file: Path
    line: int


def calls(file: Path, defined: Collection[str]) -> Iterator[Call]:
    """Find the calls in a configuration and in the files that it includes.

    Args:
        file: the configuration. It, or an included one, that cannot be read has no calls.
        defined: names that the preprocessor knew at the end.
    """
    waiting, seen = [file], {file}
    while waiting and len(seen) <= _MOST_FILES:
        current = waiting.pop(0)
        text = _text(current)
        for match in _active(text, defined):
            word, name = match["word"], match["text"]
            if word in _INCLUDES:
                included = Path(name) if os.path.isfile(name) else current.parent / name  # as Kamailio looks for it
                if included not in seen:
                    seen.add(included)
                    waiting.append(included)
            elif match["open"] and "$" not in name and not (word == _LOCK and match["more"]):
                yield Call(word, name, current, text.count("\n", 0, match.start()) + 1)


def _text(file: Path) -> str:
    try:
        if not os.path.isfile(file) or file.stat().st_size > _MOST_BYTES:  # to read a pipe would wait for ever
            return ""
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _active(text: str, defined: Collection[str]) -> Iterator[re.Match[str]]:
    """Find calls and includes, but for those that the preprocessor leaves out."""
    branches: list[bool | None] = []
    guard = ""  # what the last `#!ifndef` asked for: if that is defined there, nothing else had defined it
    for match in _WORDS.finditer(text):
        name = (match["argument"] or "").strip()
        match match["directive"]:
            case None if match["word"] and all(branches):
                yield match
            case "ifdef":
                branches.append(name in defined)
                guard = ""
            case "ifndef":
                branches.append(name not in defined)
                guard = name
            case "define" if branches and name.split(maxsplit=1)[:1] == [guard]:
                branches[-1] = True
            case "ifexp":
                branches.append(None)  # an expression over values: nobody here knows which branch it is
                guard = ""
            case "else" if branches and branches[-1] is not None:
                branches[-1] = not branches[-1]
            case "endif" if branches:
                branches.pop()
                guard = ""
