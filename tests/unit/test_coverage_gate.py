# SPDX-License-Identifier: GPL-2.0-or-later
"""The coverage gate: what it lets pass, what it names, and that forked and started processes count."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from coverage import CoverageData

from tests.support.coverage_gate import MODULE, PACKAGE, ROOT, TOTAL, Executed, main, problems, whole


def test_what_is_executed_passes() -> None:
    modules = {"a.py": Executed(statements=100, missing=0), "empty.py": Executed(statements=0, missing=0)}
    assert problems(modules) == []


def test_a_module_just_at_the_limit_passes() -> None:
    rest = Executed(statements=10_000, missing=0)
    assert problems({"a.py": Executed(statements=100, missing=100 - MODULE), "rest.py": rest}) == []


def test_a_module_below_is_named_with_its_lines_although_the_package_has_enough() -> None:
    (problem,) = problems(
        {
            "a.py": Executed(statements=100, missing=101 - MODULE, lines="7-22"),
            "rest.py": Executed(statements=10_000, missing=0),
        }
    )
    assert problem == "a.py: the tests execute 84.0 % of it, and 85 % is the least; not lines 7-22"


def test_the_package_may_be_below_although_no_module_is() -> None:
    (problem,) = problems({"a.py": Executed(statements=100, missing=100 - MODULE)})
    assert problem == f"the package: the tests execute 85.0 % of it, and {TOTAL} % is the least"


def test_modules_count_by_their_size() -> None:
    modules = {"large.py": Executed(statements=300, missing=0), "small.py": Executed(statements=100, missing=100)}
    assert whole(modules).share == 75.0


def lines_of(path: Path) -> range:
    return range(1, 1 + len(path.read_text(encoding="utf-8").splitlines()))


def test_a_module_that_no_test_imports_fails_the_gate_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = {str(path): lines_of(path) for path in PACKAGE.rglob("*.py")}
    data = CoverageData(str(tmp_path / "all"))
    data.add_lines(every)
    data.write()
    assert main(str(tmp_path / "all")) == 0
    assert capsys.readouterr().out.startswith("coverage: 100.0 % of ")

    data = CoverageData(str(tmp_path / "all but one"))
    data.add_lines({path: lines for path, lines in every.items() if not path.endswith("nsq/outbox.py")})
    data.write()
    assert main(str(tmp_path / "all but one")) == 1
    said = capsys.readouterr()
    assert said.out.endswith("least 0.0 % in kemi_nsq/nsq/outbox.py\n")
    assert said.err.startswith(
        "kemi_nsq/nsq/outbox.py: the tests execute 0.0 % of it, and 85 % is the least; not lines "
    )


#: Imports a module in a thread, one in a child that ends as those of tests do, and one in a program of its own.
PROGRAM = """
import os, subprocess, sys, threading

thread = threading.Thread(target=__import__, args=("threaded",))
thread.start()
thread.join()
if os.fork() == 0:
    import forked
    os._exit(0)
os.wait()
program = "import sys; sys.path.insert(0, sys.argv[1]); import started"
subprocess.run([sys.executable, "-c", program, sys.path[0]], cwd="/")
"""


def test_threads_and_forked_children_and_programs_count(tmp_path: Path) -> None:
    modules = [tmp_path / f"{name}.py" for name in ("threaded", "forked", "started")]
    for path in modules:
        path.write_text("executed = True\n")
    (tmp_path / "program.py").write_text(PROGRAM)
    coverage = [sys.executable, "-m", "coverage"]
    surroundings = {"COVERAGE_FILE": str(tmp_path / "data"), "PATH": os.environ["PATH"]}
    command = [*coverage, "run", f"--source={tmp_path}", str(tmp_path / "program.py")]
    subprocess.run(command, check=True, cwd=ROOT, env=surroundings)
    subprocess.run([*coverage, "combine", "--quiet"], check=True, cwd=ROOT, env=surroundings)
    data = CoverageData(str(tmp_path / "data"))
    data.read()
    assert {path.name: data.lines(str(path)) for path in modules} == {path.name: [1] for path in modules}
