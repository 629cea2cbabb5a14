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
#: Gets Ctrl-C while it is held back, then another, and says how often it heard of it. The signal goes to a thread: one
#: that has masked it, or another; then the wakeup descriptor says when it has come.
TWICE = """
import os
import select
import signal
import threading
from tests.support.interrupt import interrupt_once, uninterrupted
told, tells = os.pipe()
os.set_blocking(tells, False)
signal.set_wakeup_fd(tells)
done = threading.Event()
other = threading.Thread(target=done.wait)
other.start()
interrupt_once()
try:
    with uninterrupted():
        signal.pthread_kill(TO.ident, signal.SIGINT)
        assert TO is threading.main_thread() or select.select([told], [], [], 10)[0]
        print("held back")
except KeyboardInterrupt:
    print("heard")
    os.kill(os.getpid(), signal.SIGINT)
    print("heard no more")
done.set()
"""


def python(program: str) -> str:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30).stdout


def test_children_and_theirs_are_ended() -> None:
    pids = [int(word) for word in python(END).split()]
    assert len(pids) == 2
    assert not any(map(is_running, pids))


@pytest.mark.parametrize("to", ["threading.main_thread()", "other"])
def test_only_the_first_ctrl_c_is_heard(to: str) -> None:
    assert python(TWICE.replace("TO", to)).splitlines() == ["held back", "heard", "heard no more"]


@pytest.mark.parametrize(
    ("taken_s", "left_s", "written"),
    [(3.4, None, "3 s"), (3.4, 61.2, "3 s, about 61 s left"), (3.4, -5.0, "3 s, about 0 s left")],
)
def test_times(taken_s: float, left_s: float | None, written: str) -> None:
    assert times(taken_s, left_s) == written
