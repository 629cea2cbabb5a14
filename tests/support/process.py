# SPDX-License-Identifier: GPL-2.0-or-later
"""A server as a child process, with its log in a file."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.support.until import until

#: Where `make setup` puts the servers that are not packages of the system.
TOOLS = Path(__file__).parents[2] / ".tools/bin"

#: How long children may take to hear of SIGTERM from their parent. Kamailio 5.6 misses the one that it made last when
#: the signal comes while it starts; systemd, too, sends SIGTERM to all.
STUBBORN_S = 0.5


def find_program(name: str, *, path: str | None = None) -> str:
    """Return the absolute path of a server's program: the one on PATH, else the project's own.

    Args:
        name: the program's name.
        path: the folders to search, as in PATH; PATH itself by default.

    Raises:
        FileNotFoundError: there is none. A missing server is a failure of the test, never a skip.
    """
    found = shutil.which(name, path=path) or shutil.which(name, path=str(TOOLS))
    if found is None:
        raise FileNotFoundError(f"no {name} on PATH and none in {TOOLS}: run `make setup`")
    return str(Path(found).absolute())


def is_running(pid: int) -> bool:
    """Whether there is such a process and it has not ended; one that nobody has reaped yet has ended."""
    return _stat(pid) is not None


class ChildProcess:
    """One run of a program, as the leader of a session of its own, so that its children can be told from others'.

    A second run with the same folder and name appends to the log of the first.

    Attributes:
        log_file: where standard output and standard error go.
    """

    def __init__(
        self, name: str, command: Sequence[str], *, folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start the program.

        Args:
            name: what to call it in messages; its log is `<name>.log`.
            command: the program's absolute path and its arguments.
            folder: its working directory and the place of its log.
            environment: its whole environment; that of this process by default.
        """
        self.name = name
        self.log_file = folder / f"{name}.log"
        with self.log_file.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                list(command),
                cwd=folder,
                env=None if environment is None else dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._all_ended = False

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its session."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, the negative signal number when a signal ended it, None while it runs."""
        return self._process.poll()

    def log_text(self) -> str:
        """Return the log so far, of all runs: print it when a test fails."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def wait_for_log(self, pattern: str, *, timeout_s: float = 10.0) -> re.Match[str]:
        """Wait until this run has logged something.

        Args:
            pattern: regular expression, searched with `^` and `$` matching at lines.
            timeout_s: seconds to wait at most.

        Raises:
            AssertionError: the process ended first, or the time is up; the message holds the log.
        """
        expression = re.compile(pattern, re.MULTILINE)

        def found_or_ended() -> tuple[re.Match[str] | None, bool] | None:
            ended = self.exit_code is not None  # asked first, so that the last lines are not missed
            found = expression.search(self._run_log())
            return (found, ended) if found or ended else None

        what = f"{pattern!r} in the log of {self.name}"
        try:
            found, _ = until(found_or_ended, timeout_s=timeout_s, what=what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log_text()}") from None
        if found is None:
            raise AssertionError(f"{self.name} ended with code {self.exit_code}, no {what}\n{self.log_text()}")
        return found

    def wait_exit(self, *, timeout_s: float = 10.0) -> int:
        """Wait until the process ends by itself and return its exit code.

        Raises:
            AssertionError: it still runs when the time is up; the message holds the log.
        """
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {timeout_s:g} s\n{self.log_text()}") from None

    def freeze(self) -> None:
        """Stop the process and its children where they are (SIGSTOP): peers see a server that is silent, not gone."""

        def stopped() -> bool:
            self._signal_all(signal.SIGSTOP)  # again, for one that was born meanwhile
            return all(map(is_stopped, self.members()))

        until(stopped, what=f"{self.name} to stop")

    def thaw(self) -> None:
        """Let them run on (SIGCONT)."""
        self._signal_all(signal.SIGCONT)

    def kill(self) -> None:
        """End the process and its children at once (SIGKILL), as a crash or a power cut would."""
        self._signal_all(signal.SIGKILL)
        self._process.wait()
        until(lambda: not self.members(), what=f"the end of all children of {self.name}")
        self._all_ended = True

    def stop(self, *, timeout_s: float = 10.0) -> None:
        """End the process: SIGTERM, after `timeout_s` SIGKILL. No child of it survives. Harmless when it has ended."""
        if self._process.poll() is None:
            self.thaw()  # a frozen process acts on SIGTERM only when it runs again
            self._process.terminate()
            try:
                if not self._ends_within(STUBBORN_S):
                    self._signal_all(signal.SIGTERM)
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self.kill()

    def members(self) -> list[int]:
        """List the running processes of its session, and their children: PostgreSQL's have sessions of their own."""
        # When all have ended the session's id is free again and may be somebody else's.
        return [] if self._all_ended else session_members(self.pid)

    def _ends_within(self, seconds: float) -> bool:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _run_log(self) -> str:
        with self.log_file.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode("utf-8", errors="replace")

    def _signal_all(self, number: signal.Signals) -> None:
        for pid in self.members():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue  # it ended in between


def session_members(session: int) -> list[int]:
    """List the running processes of a session, and their children."""
    running = _running()
    own = {pid for pid, stat in running.items() if stat.session == session}
    return [pid for pid, stat in running.items() if pid in own or stat.parent in own]


def descendants(pid: int) -> set[int]:
    """Return the running children of a process, and theirs, whatever their sessions."""
    running, found, newest = _running(), set[int](), {pid}
    while newest:
        newest = {each for each, stat in running.items() if stat.parent in newest}
        found |= newest
    return found


def end_children() -> None:
    """Kill the children of this process and their sessions: those that Ctrl-C left before anybody knew of them."""
    children = {pid for pid, stat in _running().items() if stat.parent == os.getpid()}
    for pid in children.union(*map(session_members, children)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: not any(map(is_running, children)), what="the end of all children")


def is_stopped(pid: int) -> bool:
    """Whether all threads of a process have stopped (proc(5), state T)."""
    states = (thread.read_text().rpartition(")")[2].split()[0] for thread in Path(f"/proc/{pid}/task").glob("*/stat"))
    return all(state == "T" for state in states)


class _Stat(NamedTuple):
    """What proc(5) says of a process in the fields 4 and 6 of `stat`."""

    parent: int
    session: int


def _running() -> dict[int, _Stat]:
    """Look at all running processes, by process id."""
    stats = [(pid, _stat(pid)) for pid in map(int, filter(str.isdigit, os.listdir("/proc")))]
    return {pid: stat for pid, stat in stats if stat is not None}


def _stat(pid: int) -> _Stat | None:
    """Look at a running process; None when it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent, _group, session = stat.rpartition(")")[2].split()[:4]  # the name before may hold blanks
    return None if state in "ZX" else _Stat(int(parent), int(session))
