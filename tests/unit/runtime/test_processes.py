# SPDX-License-Identifier: GPL-2.0-or-later
"""Which process is which, as long as it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from kemi_nsq.runtime.processes import is_running, start_of
from tests.support.until import until

#: Takes a name that looks like the fields of an ended process, says so, and waits.
ODD_NAME = """
import sys
with open("/proc/self/comm", "w") as comm:
    comm.write("a) Z 1 (b")
print("named", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", ODD_NAME]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"named\n"
        yield process
        process.kill()


def test_a_process_is_known_by_its_start(child: subprocess.Popen[bytes]) -> None:
    start = start_of(child.pid)
    assert start is not None
    assert start == start_of(child.pid)
    assert is_running(child.pid)
    assert is_running(child.pid, start)
    assert not is_running(child.pid, start + 1), "another process of this id"


def test_a_process_that_nobody_has_waited_for_runs_no_more(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    until(lambda: not is_running(child.pid), what="its end")
    assert os.path.exists(f"/proc/{child.pid}")
    assert start_of(child.pid) is None


def test_a_process_that_is_gone_runs_no_more(child: subprocess.Popen[bytes]) -> None:
    start = start_of(child.pid)
    child.kill()
    child.wait()
    assert start_of(child.pid) is None
    assert not is_running(child.pid, start)
