# SPDX-License-Identifier: GPL-2.0-or-later
"""What is left when Ctrl-C comes while a server is being started is ended all the same."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.interrupt import times
from tests.support.looked_at import ROOT
from tests.support.process import is_running

#: Starts a shell in a session of its own, which has a child; then ends both.
END = """
import subprocess
from tests.support.process import end_children
shell = subprocess.Popen(["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE, start_new_session=True)
print(shell.pid, shell.stdout.readline().decode().strip(), flush=True)
end_children()
"""
#: Gets Ctrl-C while it is held back, then another, and says how often it heard of it.
TWICE = """
import os
import signal
from tests.support.interrupt import interrupt_once, uninterrupted
interrupt_once()
try:
    with uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
        print("held back")
except KeyboardInterrupt:
    print("heard")
    os.kill(os.getpid(), signal.SIGINT)
    print("heard no more")
"""


def python(program: str) -> str:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30).stdout


def test_children_and_theirs_are_ended() -> None:
    pids = [int(word) for word in python(END).split()]
    assert len(pids) == 2
    assert not any(map(is_running, pids))


def test_only_the_first_ctrl_c_is_heard() -> None:
    assert python(TWICE).splitlines() == ["held back", "heard", "heard no more"]


@pytest.mark.parametrize(
    ("taken_s", "left_s", "written"),
    [(3.4, None, "3 s"), (3.4, 61.2, "3 s, about 61 s left"), (3.4, -5.0, "3 s, about 0 s left")],
)
def test_times(taken_s: float, left_s: float | None, written: str) -> None:
    assert times(taken_s, left_s) == written
