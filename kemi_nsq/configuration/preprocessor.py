# SPDX-License-Identifier: GPL-2.0-or-later
"""Kamailio's scanner and preprocessor (core/cfg.lex, core/ppcfg.c): from files to the tokens that its grammar is given.

What the grammar does with numbers, operators and pseudo-variables matters to nobody here, so those are left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from kemi_nsq.configuration import expression
from kemi_nsq.configuration.model import Configuration, Define, Double, Include, Oddity, Position

#: core/cfg.lex, MAX_INCLUDE_DEPTH, and how long a name may be with its quotes, MAX_INCLUDE_FNAME.
_DEEPEST, _LONGEST_NAME = 10, 128
_MOST_FILES = 100
#: How often what stands for a name is looked at again.
_MOST_EXPANSIONS = 20

_DIRECTIVES = (
    "define|def|trydefine|trydef|redefine|redef|undefine|undef|tryundefine|tryundef|defexps|defexp|"
    "defenvs|defenv|trydefenvs|trydefenv|ifdef|ifndef|ifexp|else|endif|substdefs|substdef|subst"
)


def _brackets(levels: int) -> str:
    """Return a pattern of brackets in brackets."""
    inner = ""
    for _ in range(levels):
        inner = rf"[({{][^(){{}}\n]*(?:{inner}[^(){{}}\n]*)*[)}}]" if inner else r"[({][^(){}\n]*[)}]"
    return inner


_TOKENS = re.compile(
    rf"""
      (?:\#!|!!) (?P<directive>{_DIRECTIVES}) \b (?P<rest> (?:\\\n|[^\n])* )
    | (?:\#!|!!)? (?P<include>include_file|import_file) \b [ \t]* (?P<path>[^ \t\r\n]*)
    | /\*.*?\*/
    | (?:\#(?P<unknown>![a-z_]+\b)?|//) [^\n]*
    | "(?P<double>(?:\\.|[^"\\])*)" | '(?P<single>[^']*)'
    | (?P<variable>\$(?:\w|{_brackets(3)})+)
    | (?P<name>[A-Za-z_]\w*)
    | (?P<other>[0-9]\w*|[-+*%<>&|~^.:?@\\]+|[^\s\w])
    """,
    re.VERBOSE | re.DOTALL,
)
#: What counts where the preprocessor leaves text out: comments do not.
_LEFT_OUT = re.compile(r"(?:#!|!!)(?P<directive>ifdef|ifndef|ifexp|else|endif)\b(?P<rest>[^\n]*)")
_ID = re.compile(r"[A-Za-z_]\w*")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
#: Where Kamailio itself, or its command line, has defined something.
BEFORE = Position(Path("the command line"), 0)
#: Stands for what is known at run time only.
AT_RUN_TIME = "$"


class Token(NamedTuple):
    """A name, a text in quotes (`is_text`), a number, a sign, or AT_RUN_TIME for a pseudo-variable."""

    text: str
    is_text: bool
    position: Position


class Preprocessor:
    """Reads a configuration and the files that it includes.

    Args:
        found: what is known of the configuration; takes defines, includes, files and oddities.
        environment: for `#!defenv` and its like.
        folder: the working folder of Kamailio.
        most_bytes: of all files together; what is beyond is left out.
    """

    def __init__(self, found: Configuration, environment: Mapping[str, str], folder: Path, most_bytes: int) -> None:
        self._found = found
        self._folder = folder
        self._environment = environment
        self._bytes_left = most_bytes
        self._branches: list[bool | None] = []
        self._replaced: dict[str, str] = {}

    def tokens(self) -> Iterator[Token]:
        """Return what the grammar is given, of all files in the order in which Kamailio reads them."""
        yield from self._file(self._found.file, depth=0)
        if self._branches:
            self._odd(f"{len(self._branches)} more #!ifdef than #!endif", Position(self._found.file, 0))

    def _file(self, file: Path, depth: int) -> Iterator[Token]:
        text = self._text(file)
        if text is None:
            return
        self._found.files.append(file)
        defines, at, counted, position = self._found.defines, 0, 0, Position(file, 1)
        # A start of Kamailio waits for this, so what most tokens are has the shortest way.
        while match := (_TOKENS if all(self._branches) else _LEFT_OUT).search(text, at):
            at, kind = match.end(), match.lastgroup
            if kind is None:  # a comment
                continue
            if lines := text.count("\n", counted, match.start()):
                position = Position(file, position.line + lines)
            counted = match.start()
            if kind == "other" or (kind == "name" and match["name"] not in defines):
                yield Token(match[0], False, position)
            elif kind == "rest":
                self._directive(match["directive"], match["rest"], position)
            elif kind == "path":
                yield from self._include(match["include"], match["path"], position, depth)
            elif kind == "unknown":
                self._unknown(match["unknown"], position)
            else:
                yield from self._token(match, position)

    def _text(self, file: Path) -> str | None:
        try:
            if not os.path.isfile(file):  # to read a pipe would wait for ever
                return None
            size = file.stat().st_size
            if size > self._bytes_left or len(self._found.files) >= _MOST_FILES:
                self._found.whole = False
                return None
            self._bytes_left -= size
            return file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    def _token(self, match: re.Match[str], position: Position) -> Iterator[Token]:
        if match["double"] is not None:
            yield Token(self._substituted(_unescaped(match["double"])), True, position)
        elif match["single"] is not None:
            yield Token(self._substituted(match["single"]), True, position)
        elif match["name"]:
            yield from self._expanded(match["name"], position, _MOST_EXPANSIONS)
        elif match["variable"]:
            yield Token(AT_RUN_TIME, False, position)
        elif match["other"]:
            yield Token(match["other"], False, position)

    def _expanded(self, name: str, position: Position, left: int) -> Iterator[Token]:
        """Put the value of a define in its place, and look at it again (the rule of INITIAL for ID)."""
        define = self._found.defines.get(name)
        if define is None or not left:
            yield Token(name, False, position)
            return
        for match in _TOKENS.finditer(define.value):
            if match["name"]:
                yield from self._expanded(match["name"], position, left - 1)
            else:
                yield from self._token(match, position)

    def _substituted(self, text: str) -> str:
        for name, value in self._replaced.items():
            text = text.replace(name, value)
        return text

    # Includes

    def _include(self, word: str, path: str, position: Position, depth: int) -> Iterator[Token]:
        name = _unescaped(path.strip('"'))
        optional = word == "import_file"
        found = self._find(self._substituted(name), position.file)
        self._found.includes.append(Include(found, name, optional, position, frozenset(self._found.defines)))
        if len(path) < 3 or path[0] != '"' or path[-1] != '"' or len(path) >= _LONGEST_NAME:
            self._odd(f"{word} {path}: a file is named in double quotes, in fewer than {_LONGEST_NAME} bytes", position)
        elif found is None and not optional:
            self._odd(f"{word} {path}: there is no such file, or it cannot be read", position)
        elif found and depth >= _DEEPEST:
            self._odd(f"{word} {path}: Kamailio follows {_DEEPEST} levels of includes", position)
        elif found:
            yield from self._file(found, depth + 1)

    def _find(self, name: str, includer: Path) -> Path | None:
        """Look for a file as Kamailio does: from its working folder, then beside the file that names it."""
        for path in (self._folder / name, includer.parent / name):
            try:
                if path.is_file() and os.access(path, os.R_OK):
                    return path
            except (OSError, ValueError):  # the kernel refuses such a name
                continue
        return None

    # Directives

    def _directive(self, word: str, rest: str, position: Position) -> None:
        match word:
            case "ifdef" | "ifndef" | "ifexp":
                self._branches.append(self._branch(word, rest, position))
            case "else" if not self._branches:
                self._odd("#!else without #!ifdef", position)
            case "else":
                last = self._branches[-1]
                self._branches[-1] = None if last is None else not last
            case "endif" if not self._branches:
                self._odd("#!endif without #!ifdef", position)
            case "endif":
                self._branches.pop()
            case "subst" | "substdef" | "substdefs":
                self._substitute(word, rest, position)
            case _ if "env" in word:
                self._from_environment(word, rest.strip(), position)
            case _:
                self._define(word, rest.replace("\\\n", ""), position)

    def _branch(self, word: str, rest: str, position: Position) -> bool | None:
        if word != "ifexp":
            return (rest.strip() in self._found.defines) == (word == "ifdef")
        if not all(self._branches):
            return None  # left out anyhow
        holds = expression.holds(rest, self._value_of)
        if holds is None:
            self._odd(f"#!ifexp {rest.strip()}: not understood, so neither branch of it is looked at", position)
        return holds

    def _value_of(self, name: str) -> expression.Value:
        define = self._found.defines.get(name)
        if define is None:
            return 0.0
        return define.value.strip("\"'") if define.value else 1.0

    def _define(self, word: str, rest: str, position: Position) -> None:
        match = _ID.match(rest.lstrip())
        if match is None:
            self._odd(f"#!{word} names nothing", position)
            return
        name, value = match[0], rest.lstrip()[match.end() :].lstrip(" \t\b\r")
        if "undef" in word:
            self._found.defines.pop(name, None)
            return
        if word.startswith("defexp"):
            value = self._expression(word, value, position)
        if name in self._found.defines and not word.startswith("redef"):
            if not word.startswith("try"):
                self._found.doubles.append(Double(name, self._found.defines[name].position, position))
            return
        self._found.defines[name] = Define(value, position)

    def _expression(self, word: str, text: str, position: Position) -> str:
        found = expression.evaluated(text, self._value_of)
        if found is None:
            self._odd(f"#!{word} {text.strip()}: not understood, so its value is not known", position)
            return ""
        value = f"{found:g}" if isinstance(found, float) else found
        return f'"{value}"' if word.endswith("s") else value

    def _from_environment(self, word: str, rest: str, position: Position) -> None:
        name, equals, variable = rest.partition("=")
        value = self._environment.get(variable if equals else name)
        if value is None:
            if not word.startswith("try"):
                self._odd(f"#!{word} {rest}: the environment has no such variable", position)
            return
        self._define("define", f"{name} {chr(34) + value + chr(34) if word.endswith('envs') else value}", position)

    def _substitute(self, word: str, rest: str, position: Position) -> None:
        """Follow `#!substdef "/NAME/value/"`, which replaces a name in texts and defines it; not `#!subst`."""
        text = rest.strip().strip("\"'")
        parts = text[1:].split(text[0]) if text else []
        if word == "subst" or len(parts) < 2:
            return
        self._replaced[parts[0]] = parts[1]
        self._define("define", f'{parts[0]} "{parts[1]}"' if word.endswith("s") else " ".join(parts[:2]), position)

    def _unknown(self, word: str, position: Position) -> None:
        if re.search(r"def|^!if|^!e|^!inc|^!imp|^!sub", word):  # `#!KAMAILIO` and `#!/usr/sbin/kamailio` are none
            self._odd(f"#{word} is no directive, so Kamailio takes the line for a comment", position)

    def _odd(self, text: str, position: Position) -> None:
        self._found.oddities.append(Oddity(text, position))


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda match: _ESCAPES.get(match[1], match[1]), text) if "\\" in text else text
