# SPDX-License-Identifier: GPL-2.0-or-later
"""How a process ends by SIGTERM; the default action stands for Kamailio's handler, which ends it at once, too."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import pytest

from kemi_nsq.runtime.ending import GRACE_S

#: Nothing here takes so long; what is waited for in C would.
_PATIENCE_S = 20.0
_NATIVE = "ctypes.PyDLL(None).sleep(60)"


def _ended(begin: str, wait: str, then: str = "") -> tuple[int, str, float]:
    """Let a process begin, and wait; end it by SIGTERM. Return how it has ended, what it said, and after how long."""
    script = f"""\
import ctypes, os, signal
from queue import SimpleQueue
from coverage import Coverage
from kemi_nsq.runtime.ending import Ending

kill = os.kill
def save_and_kill(*arguments):
    if measured := Coverage.current():  # who is ended by a signal saves nothing
        measured.save()
    kill(*arguments)
os.kill = save_and_kill

def say(word):
    os.write(1, (word + "\\n").encode())  # unlike `print`, it may be interrupted by itself

told = SimpleQueue()
def tell():
    say("told")
    told.put(None)  # which may be done in the midst of `get`

ending = Ending()
{dedent(begin)}
say("ready")
{dedent(wait)}
{dedent(then)}
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            process.terminate()
            began = time.monotonic()
            said, _ = process.communicate(timeout=_PATIENCE_S)
        finally:
            process.kill()
    return process.returncode, said, time.monotonic() - began


def test_what_python_does_is_finished() -> None:
    """The signal is told between two steps of Python's, and the process ends as it would have when it says so."""
    begin = "ending.begin(tell)"
    code, said, _ = _ended(begin, "told.get(timeout=60)", "say('finished'); ending.end()")
    assert (code, said) == (-signal.SIGTERM, "told\nfinished\n")


def test_native_code_is_ended_at_once() -> None:
    """It keeps Python's lock, so nobody could be told."""
    begin = "ending.begin(tell); ending.at_once()"
    code, said, took_s = _ended(begin, _NATIVE)
    assert (code, said) == (-signal.SIGTERM, "")
    assert took_s < GRACE_S


def test_after_native_code_python_is_finished_again() -> None:
    """Each of the two handlers can follow the other, any number of times."""
    begin = "ending.begin(tell)\nfor _ in range(3): ending.at_once(); ending.in_order()"
    code, said, _ = _ended(begin, "told.get(timeout=60)", "ending.end()")
    assert (code, said) == (-signal.SIGTERM, "told\n")


def test_the_end_comes_whatever_runs() -> None:
    """What is begun after the signal, or goes on, has its grace; then the kernel ends the process."""
    wait = f"told.get(timeout=60)\n{_NATIVE}"
    code, said, took_s = _ended("ending.begin(tell)", wait)
    assert (code, said) == (-signal.SIGALRM, "told\n")
    assert took_s >= GRACE_S


def test_what_python_does_in_c_has_its_grace_as_well(tmp_path: Path) -> None:
    """Python's lock is free meanwhile, and another thread hears of the end."""
    begin = f"""\
import sqlite3
holder, waiter = (sqlite3.connect({str(tmp_path / "locked.db")!r}, timeout=60) for _ in range(2))
holder.execute("BEGIN IMMEDIATE")
ending.begin(tell)
"""
    code, said, took_s = _ended(begin, 'waiter.execute("BEGIN IMMEDIATE")')
    assert (code, said) == (-signal.SIGALRM, "told\n")
    assert took_s >= GRACE_S


def test_a_child_of_a_handler_is_ended_at_once() -> None:
    """And its parent goes on."""
    begin = """\
ending.begin(tell)
child = os.fork()
while not child: signal.pause()
os.kill(child, signal.SIGTERM)
_, how = os.waitpid(child, 0)
assert (how, ending.asked) == (signal.SIGTERM, False)
"""
    code, said, _ = _ended(begin, "told.get(timeout=60)", "ending.end()")
    assert (code, said) == (-signal.SIGTERM, "told\n")


def test_a_second_signal_is_nothing_new() -> None:
    """Kamailio sends one to each of its processes, and so does the service manager."""
    wait = """\
told.get(timeout=60)
os.kill(os.getpid(), signal.SIGTERM)
say("finished")
"""
    code, said, _ = _ended("ending.begin(tell)", wait, "ending.end()")
    assert (code, said) == (-signal.SIGTERM, "told\nfinished\n")


@pytest.mark.parametrize("call", ["at_once", "in_order"])
def test_before_it_begins_the_handler_is_kamailio_s(call: str) -> None:
    """A SIP worker has the same object."""
    code, said, _ = _ended(f"ending.{call}()", "signal.pause()")
    assert (code, said) == (-signal.SIGTERM, "")
