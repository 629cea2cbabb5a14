# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads a kamailio.cfg: of Kamailio's grammar (core/cfg.y) what is needed to find parameters, routes and their calls.

Kamailio itself says what is wrong with the grammar (`kamailio -c`); what is not understood here is passed over.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, takewhile
from pathlib import Path

from kemi_nsq.configuration.model import Call, Configuration, Define, Module, Parameter, Position
from kemi_nsq.configuration.preprocessor import AT_RUN_TIME, BEFORE, Preprocessor, Token

#: A configuration is a text that somebody wrote.
MOST_BYTES = 4 * 1024 * 1024
_LOADERS = frozenset({"loadmodule", "loadmodulex"})
_SETTERS = frozenset({"modparam", "modparamx"})
_ROUTES = frozenset(
    {"request_route", "reply_route", "onsend_route", "route", "event_route", "failure_route", "branch_route"}
    | {"onreply_route", "error_route"}
)
#: Names that stand before a bracket and are no call.
_WORDS = frozenset({"if", "while", "switch", "else", "case", "return", "and", "or", "not"})
_MOST_CALLS, _DEEPEST = 20_000, 50


def read(
    file: Path,
    given: Mapping[str, str] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path = Path(),
    most_bytes: int = MOST_BYTES,
) -> Configuration:
    """Read a configuration and all that it includes. What cannot be read is as if it were empty.

    Args:
        file: the configuration.
        given: names that are defined before its first line, by `kamailio -A` or by Kamailio, such as `KAMAILIO_5`.
        environment: for `#!defenv`; that of this process where left out.
        folder: the working folder of Kamailio; that of this process where left out.
        most_bytes: the most that is read, of all files together.
    """
    found = Configuration(file)
    found.defines |= {name: Define(value, BEFORE) for name, value in (given or {}).items()}
    preprocessor = Preprocessor(found, os.environ if environment is None else environment, folder, most_bytes)
    _Grammar(found, preprocessor.tokens()).read()
    return found


class _Grammar:
    """Follows the tokens, with one of them in hand."""

    def __init__(self, found: Configuration, tokens: Iterator[Token]) -> None:
        self._found = found
        self._tokens = tokens
        self._route = ""
        self._depth = self._nesting = 0
        self._taken: list[Token] = []

    def read(self) -> None:
        while token := self._next():
            if token.is_text:
                continue
            if token.text == "{":
                self._depth += 1
            elif token.text == "}":
                self._depth = max(0, self._depth - 1)
            elif self._depth:
                self._in_route(token)
            else:
                self._outside(token)

    def _next(self) -> Token | None:
        return self._taken.pop() if self._taken else next(self._tokens, None)

    def _give_back(self, token: Token | None) -> None:
        if token is not None:
            self._taken.append(token)

    def _outside(self, token: Token) -> None:
        if token.text in _LOADERS:
            self._module(token)
        elif token.text in _SETTERS:
            self._module_parameter(token.position)
        elif token.text in _ROUTES:
            self._begin_route(token)
        elif token.text[0].isalpha():
            self._core_parameter(token)

    def _module(self, loader: Token) -> None:
        token = self._next()
        if token and token.text == "(" and not token.is_text:
            token = self._next()
        if token and token.is_text:
            name = token.text.rpartition("/")[2].removesuffix(".so")
            self._found.modules.append(Module(name, loader.position))
            # core/sr_module.c, load_module
            self._found.defines.setdefault(f"MOD_{name}", Define("", loader.position))
        else:
            self._give_back(token)

    def _module_parameter(self, position: Position) -> None:
        texts = [_joined(part) for part in self._arguments()]
        if len(texts) == 3:
            self._found.parameters.append(Parameter(texts[0], texts[1], texts[2], position))

    def _core_parameter(self, name: Token) -> None:
        token = self._next()
        if token and token.is_text:  # `cfgengine "python"`
            self._give_back(token)
        elif token is None or token.text != "=":
            self._give_back(token)
            return
        value = []
        while (token := self._next()) and token.position == name.position and (token.is_text or token.text != ";"):
            value.append(token)
        self._give_back(token)
        self._found.parameters.append(Parameter("", name.text, _joined(value), name.position))

    def _begin_route(self, word: Token) -> None:
        token, name = self._next(), word.text
        if token and token.text == "[":
            inside = takewhile(lambda each: each.text != "]", chain(iter(self._next, None)))
            name = f"{word.text}[{''.join(each.text for each in inside)}]"
        else:
            self._give_back(token)
        self._route = "request_route" if name == "route" else name
        self._found.routes.setdefault(self._route, []).append(word.position)

    def _in_route(self, token: Token) -> bool:
        """Read a call, if a token begins one; return whether it does."""
        too_much = self._nesting >= _DEEPEST or len(self._found.calls) >= _MOST_CALLS
        if not token.text[0].isalpha() or token.text in _WORDS or too_much:
            return False
        following = self._next()
        if following is None or following.text != "(" or following.is_text:
            self._give_back(following)
            return False
        self._give_back(following)
        place = len(self._found.calls)
        self._nesting += 1
        arguments = self._arguments(nested=True)
        self._nesting -= 1
        call = Call(token.text, tuple(_argument(part) for part in arguments), self._route, token.position)
        self._found.calls.insert(place, call)
        return True

    def _arguments(self, *, nested: bool = False) -> list[list[Token]]:
        """Take what stands between brackets, split at its commas. Calls among it are read where that is asked for."""
        opening = self._next()
        if opening is None or opening.text != "(":
            self._give_back(opening)
            return []
        parts: list[list[Token]] = [[]]
        depth = 1
        while token := self._next():
            if not token.is_text and token.text in "(){},":
                depth += {"(": 1, ")": -1}.get(token.text, 0)
                if depth == 0:
                    break
                if token.text in "{}":  # a bracket was not closed
                    self._give_back(token)
                    break
                if token.text == "," and depth == 1:
                    parts.append([])
                    continue
            elif nested and not token.is_text and self._in_route(token):
                token = token._replace(text=AT_RUN_TIME)  # what a call returns
            parts[-1].append(token)
        return parts if parts != [[]] else []


def _argument(tokens: Iterable[Token]) -> str | None:
    """Return an argument as text; None for one that is no plain text."""
    found = list(tokens)
    plain = found and (all(token.is_text for token in found) or len(found) == 1)
    return _joined(found) if plain and AT_RUN_TIME not in _joined(found) else None


def _joined(tokens: Iterable[Token]) -> str:
    """Return the text of some tokens; texts side by side are one (core/cfg.lex, STR_BETWEEN)."""
    return "".join(token.text for token in tokens)
