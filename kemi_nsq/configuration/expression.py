# SPDX-License-Identifier: GPL-2.0-or-later
"""The expressions of `#!ifexp` and `#!defexp` (core/ppcfg.c; core/utils/snexpr.h), as far as they are used."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

Value: TypeAlias = float | str
_TOKENS = re.compile(
    r"""\s*(?:(?P<number>\d+(?:\.\d+)?)|(?P<name>[A-Za-z_]\w*)|"(?P<double>[^"]*)"|'(?P<single>[^']*)'"""
    r"""|(?P<sign>&&|\|\||[=!<>]=|[-+*/%<>!()]))"""
)
#: From what binds least to what binds most.
_LEVELS: tuple[Mapping[str, Callable[[Value, Value], Value]], ...] = (
    {"||": lambda left, right: float(_truth(left) or _truth(right))},
    {"&&": lambda left, right: float(_truth(left) and _truth(right))},
    {"==": lambda left, right: float(_alike(left, right)), "!=": lambda left, right: float(not _alike(left, right))},
    {
        "<": lambda left, right: float(operator.lt(*_numbers(left, right))),
        "<=": lambda left, right: float(operator.le(*_numbers(left, right))),
        ">": lambda left, right: float(operator.gt(*_numbers(left, right))),
        ">=": lambda left, right: float(operator.ge(*_numbers(left, right))),
    },
    {
        "+": lambda left, right: operator.add(*_numbers(left, right)),
        "-": lambda left, right: operator.sub(*_numbers(left, right)),
    },
    {
        "*": lambda left, right: operator.mul(*_numbers(left, right)),
        "/": lambda left, right: operator.truediv(*_numbers(left, right)),
        "%": lambda left, right: operator.mod(*_numbers(left, right)),
    },
)
_MOST_TOKENS = 200


def holds(text: str, value_of: Callable[[str], Value]) -> bool | None:
    """Return whether an expression is true; None for one that is not understood. Arguments are those of `evaluated`."""
    value = evaluated(text, value_of)
    return None if value is None else _truth(value)


def evaluated(text: str, value_of: Callable[[str], Value]) -> Value | None:
    """Return the value of an expression; None for one that is not understood.

    Args:
        text: the expression.
        value_of: returns the value of a define: its text, 1 where it has none, 0 for a name that is not defined.
    """
    tokens: list[re.Match[str]] = []
    text, at = text.strip(), 0
    while at < len(text):
        match = _TOKENS.match(text, at)
        if match is None or len(tokens) > _MOST_TOKENS:
            return None
        tokens.append(match)
        at = match.end()
    try:
        value = _level(tokens, 0, value_of)
    except (IndexError, ValueError, ZeroDivisionError, RecursionError):
        return None
    return None if tokens else value


def _level(tokens: list[re.Match[str]], level: int, value_of: Callable[[str], Value]) -> Value:
    if level == len(_LEVELS):
        return _operand(tokens, value_of)
    value = _level(tokens, level + 1, value_of)
    while tokens and (sign := tokens[0]["sign"]) in _LEVELS[level]:
        tokens.pop(0)
        value = _LEVELS[level][sign](value, _level(tokens, level + 1, value_of))
    return value


def _operand(tokens: list[re.Match[str]], value_of: Callable[[str], Value]) -> Value:
    token = tokens.pop(0)
    match token["sign"]:
        case "!":
            return float(not _truth(_operand(tokens, value_of)))
        case "-":
            return -_numbers(_operand(tokens, value_of), 0.0)[0]
        case "(":
            value = _level(tokens, 0, value_of)
            if tokens.pop(0)["sign"] != ")":
                raise ValueError("a bracket is not closed")
            return value
        case None:
            pass
        case _:
            raise ValueError("an operand is missing")
    if token["number"]:
        return float(token["number"])
    if token["name"]:
        return value_of(token["name"])
    return token["double"] if token["double"] is not None else token["single"]


def _truth(value: Value) -> bool:
    return bool(value)


def _alike(left: Value, right: Value) -> bool:
    if isinstance(left, str) and isinstance(right, str):
        return left == right
    try:
        one, other = _numbers(left, right)
        return one == other
    except ValueError:
        return False


def _numbers(left: Value, right: Value) -> tuple[float, float]:
    return float(left), float(right)
