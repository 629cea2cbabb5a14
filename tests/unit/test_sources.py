# SPDX-License-Identifier: GPL-2.0-or-later
"""The size and docstrings of the modules, and that no test sleeps, all read from the source.

Who may import whom is in pyproject.toml, and `lint-imports` checks it.

The checks are functions from source text to a list of problems. The first tests run them over the tree; the
others show that each check finds what it is there to find.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "kemi_nsq"

MODULE_LINES = 400
FUNCTION_LINES = 40

Function = ast.FunctionDef | ast.AsyncFunctionDef


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and absolute name of each import, also inside functions and by `import_module("name")`."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names):
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in names)
            case ast.Call(args=[ast.Constant(value=str(name)), *_]):
                if called(node) in {"__import__", "import_module"}:
                    yield node.lineno, name


def called(call: ast.Call) -> str:
    """Return the last name of what is called: `sleep` for both `sleep(1)` and `time.sleep(1)`."""
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def size_problems(source: str) -> list[str]:
    """Find a module or function that is too long to be read at once."""
    lines = len(source.splitlines())
    problems = [f"{lines} lines; a module has fewer than {MODULE_LINES}"] if lines >= MODULE_LINES else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Function):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines >= FUNCTION_LINES:
                problems.append(f"{node.name}: {lines} lines; a function has fewer than {FUNCTION_LINES}")
    return problems


def docstring_problems(source: str) -> list[str]:
    """Find the module, public classes and public functions that do not say what they are."""
    tree = ast.parse(source)
    named = [("module", tree), *public_names(tree, "")]
    return [f"{name} has no docstring" for name, node in named if not ast.get_docstring(node)]


def public_names(scope: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, ast.ClassDef | Function]]:
    """Yield each public class, function and method with its dotted name."""
    for node in definitions(scope):
        if not node.name.startswith("_"):
            yield f"{prefix}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public_names(node, f"{prefix}{node.name}.")


def definitions(scope: ast.AST) -> Iterator[ast.ClassDef | Function]:
    """Yield what is defined in a scope, also under an `if` or `try`, but nothing of the scopes within."""
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.ClassDef | Function):
            yield node
        else:
            yield from definitions(node)


def sleep_problems(source: str) -> list[str]:
    """Find calls and imports of a `sleep`: a test waits for a fact with a deadline."""
    tree = ast.parse(source)
    calls = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Call) and called(node) == "sleep"]
    imported = [line for line, name in imports(tree) if name.split(".")[-1] == "sleep"]
    return [f"line {line} sleeps" for line in sorted(calls + imported)]


def sources(*folders: str) -> list[Path]:
    """List the Python files of folders of the project."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def label(path: Path) -> str:
    """Name a file in the output of pytest."""
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", sources(PACKAGE, "kamailio"), ids=label)
def test_module_can_be_read_at_once_and_says_what_it_is(path: Path) -> None:
    source = path.read_text()
    assert size_problems(source) + docstring_problems(source) == []


@pytest.mark.parametrize("path", sources("tests"), ids=label)
def test_no_test_sleeps(path: Path) -> None:
    assert sleep_problems(path.read_text()) == []


def test_the_tree_is_found() -> None:
    package = sources(PACKAGE)
    assert ROOT / PACKAGE / "errors.py" in package
    assert Path(__file__) in sources("tests")


@pytest.mark.parametrize(("lines", "found"), [(MODULE_LINES - 1, 0), (MODULE_LINES, 1)])
def test_size_check_counts_the_lines_of_a_module(lines: int, found: int) -> None:
    assert len(size_problems("x = 1\n" * lines)) == found


@pytest.mark.parametrize("head", ["def f():", "async def f():", "class C:\n  def f():"])
@pytest.mark.parametrize(("lines", "found"), [(FUNCTION_LINES - 1, 0), (FUNCTION_LINES, 1)])
def test_size_check_counts_the_lines_of_a_function(head: str, lines: int, found: int) -> None:
    assert len(size_problems(f"{head}\n" + "    x = 1\n" * (lines - 1))) == found


BARE = """
class Shown:
    def method(self): ...
    def _private(self): ...
    def __len__(self): ...
    class Inner: ...
class _Hidden:
    def method(self): ...
def function():
    def local(): ...
async def waiting(): ...
if True:
    def chosen(): ...
"""


def test_docstring_check_finds_every_public_name() -> None:
    names = ["module", "Shown", "Shown.method", "Shown.Inner", "function", "waiting", "chosen"]
    assert docstring_problems(BARE) == [f"{name} has no docstring" for name in names]


def test_docstring_check_allows_what_has_one() -> None:
    assert docstring_problems('"""A module."""\ndef function():\n    """Do it."""\n') == []


@pytest.mark.parametrize(
    "line",
    [
        "time.sleep(1)",
        "sleep(1)",
        "await asyncio.sleep(0)",
        "from time import sleep as nap",
        "lambda: time.sleep(1)",
    ],
)
def test_sleep_check_finds(line: str) -> None:
    assert len(sleep_problems(line)) == 1


def test_sleep_check_allows_words_and_other_calls() -> None:
    assert sleep_problems("# no sleep(1)\nname = 'sleep(1)'\nprocess(['sleep', '1'])\nasleep(1)") == []
