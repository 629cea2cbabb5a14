# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kamailio.cfg says: defines, includes, modules, parameters, calls of routes, each with where it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class Position(NamedTuple):
    """Where something stands: the file, and its line from 1; line 0 is the command line of Kamailio, or itself."""

    file: Path
    line: int

    def __str__(self) -> str:
        """Write it as `file, line n`."""
        return f"{self.file}, line {self.line}" if self.line else str(self.file)


class Define(NamedTuple):
    """A name of the preprocessor.

    Attributes:
        value: its text, with the quotes that are part of it; '' for none.
        position: where it was defined.
    """

    value: str
    position: Position


class Double(NamedTuple):
    """A name that is defined a second time, at which Kamailio ends (core/cfg.lex, `pp_define`)."""

    name: str
    first: Position
    second: Position


class Include(NamedTuple):
    """An `include_file` or `import_file`.

    Attributes:
        path: the file, '' where there is none.
        name: as it is written.
        optional: whether Kamailio bears that it is not there (`import_file`).
        position: where it stands.
        defined: the names that were defined then.
    """

    path: Path | None
    name: str
    optional: bool
    position: Position
    defined: frozenset[str]


class Module(NamedTuple):
    """A `loadmodule`: the module's name without folder and `.so`."""

    name: str
    position: Position


class Parameter(NamedTuple):
    """A `modparam`, `modparamx`, or a parameter of the core, whose module is ''. The value is without quotes."""

    module: str
    name: str
    value: str
    position: Position


class Call(NamedTuple):
    """A call in a route.

    Attributes:
        function: what is called.
        arguments: the texts that it is given; None for one that is no plain text.
        route: the route in which it stands, such as `request_route`, `route[PRESENCE]` or `event_route[nsq:x]`.
        position: where it stands.
    """

    function: str
    arguments: tuple[str | None, ...]
    route: str
    position: Position


class Oddity(NamedTuple):
    """What the reader stumbled over: an unknown directive, an `#!endif` without an `#!ifdef`, a file not there."""

    text: str
    position: Position


@dataclass(slots=True)
class Configuration:
    """What a kamailio.cfg says, with all that it includes.

    Attributes:
        file: the main file.
        files: all files that were read, the main one first.
        defines: the names at the end, and their values.
        doubles: names that were given twice.
        includes: in their order.
        modules: in their order.
        parameters: in their order; the last one of a name holds.
        routes: where each begins, several times where there are several of a name.
        calls: in their order.
        oddities: what the reader stumbled over.
        whole: whether all of it was read; False beyond the limits.
    """

    file: Path
    files: list[Path] = field(default_factory=list)
    defines: dict[str, Define] = field(default_factory=dict)
    doubles: list[Double] = field(default_factory=list)
    includes: list[Include] = field(default_factory=list)
    modules: list[Module] = field(default_factory=list)
    parameters: list[Parameter] = field(default_factory=list)
    routes: dict[str, list[Position]] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    oddities: list[Oddity] = field(default_factory=list)
    whole: bool = True

    def loads(self, module: str) -> bool:
        """Return whether it loads a module."""
        return any(each.name == module for each in self.modules)

    def given(self, module: str, name: str) -> list[Parameter]:
        """Return what a parameter of a module was set to, in its order; those of the core have the module ''."""
        return [each for each in self.parameters if each.name == name and _names(each.module, module)]

    def parameter(self, module: str, name: str) -> Parameter | None:
        """Return what holds for a parameter of a module: what was set last; None where its default holds."""
        return next(reversed(self.given(module, name)), None)

    def number(self, module: str, name: str, default: int) -> int | None:
        """Return a parameter of a module as the number that Kamailio takes it for; None for a text that is none."""
        found = self.parameter(module, name)
        if found is None:
            return default
        try:
            return int(found.value, 0)
        except ValueError:
            return None

    def text(self, module: str, name: str, default: str) -> str:
        """Return a parameter of a module as text."""
        found = self.parameter(module, name)
        return default if found is None else found.value

    def place_of(self, module: str, name: str) -> str:
        """Say where a parameter was set; '' where its default holds."""
        found = self.parameter(module, name)
        return f" ({found.position})" if found else ""

    def value(self, name: str) -> str:
        """Return the value of a define without its quotes, as the plug-in has it; '' for none.

        Where that is a define too, its value is returned: Kamailio reads what it has put in place of a name again.
        """
        seen: set[str] = set()
        while name in self.defines and name not in seen:
            seen.add(name)
            value = self.defines[name].value.strip()
            if value not in self.defines or not self.defines[value].value.strip():
                return value.strip("\"'")
            name = value
        return ""

    def settings(self, prefix: str) -> Mapping[str, str]:
        """Return the defines of a prefix and their values, as `host.Host.defines` does inside Kamailio."""
        return {name: self.value(name) for name in self.defines if name.startswith(prefix)}

    def called(self, function: str) -> Iterator[Call]:
        """Find the calls of a function."""
        return (call for call in self.calls if call.function == function)

    def event_routes(self) -> Sequence[str]:
        """Return the names of the event routes, what stands between the brackets."""
        return [name[len("event_route[") : -1] for name in self.routes if name.startswith("event_route[")]


def _names(pattern: str, module: str) -> bool:
    """Return whether a `modparam` is for a module: it may name several, by a regular expression (core/modparam.c)."""
    if pattern == module:
        return True
    try:
        return bool(module and re.fullmatch(pattern, module))
    except re.error:
        return False
