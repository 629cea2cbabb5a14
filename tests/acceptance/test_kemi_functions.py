# SPDX-License-Identifier: GPL-2.0-or-later
"""Every KEMI function that we call exists in the real Kamailio: the fakes of the unit tests promise no more."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from kemi_nsq.host import Level
from tests.support.chain import SHIPPED, Chain

PACKAGE = Path(__file__).parents[2] / "kemi_nsq"
USERS = [PACKAGE / "plugin/ksr.py", *sorted(SHIPPED.glob("*.py"))]


def used(path: Path) -> set[str]:
    """Return the functions of `KSR` that a file names, such as `pv.get`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and (found := re.fullmatch(r"KSR\.([\w.]+)", ast.unparse(node))):
            names.add(found[1])
    # `KSR.pv` in `KSR.pv.get` is a module, not a function; `KSR.__version__` is none either.
    return {name for name in names if name[0] != "_" and not any(other.startswith(f"{name}.") for other in names)}


@pytest.fixture(scope="module")
def functions(chain: Chain) -> set[str]:
    """Return what Kamailio exports, by its own list."""
    text = chain.kamailio.rpc("app_python.api_list")
    found = re.findall(r"module: (\S*)\s+name: (\S+)", text)
    return {f"{module}.{name}" if module else name for module, name in found}


@pytest.mark.parametrize("path", USERS, ids=lambda path: path.name)
def test_every_function_that_we_call_exists(functions: set[str], path: Path) -> None:
    assert functions, "app_python.api_list is not understood"
    assert used(path) - functions == set()


def test_every_function_that_is_called_by_its_name_exists(functions: set[str]) -> None:
    """`getattr(KSR, level.value)`, and the presence module, which need not be loaded."""
    assert {level.value for level in Level} | {"presence.pres_refresh_watchers"} <= functions


def test_the_search_finds_what_is_used() -> None:
    assert {"htable.sht_inc", "pv.get"} <= used(PACKAGE / "plugin/ksr.py")
