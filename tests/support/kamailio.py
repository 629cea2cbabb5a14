# SPDX-License-Identifier: GPL-2.0-or-later
"""A real Kamailio on a free UDP port of loopback."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.interrupt import uninterrupted
from tests.support.ports import LOOPBACK, free_udp_port
from tests.support.process import ChildProcess, find_program
from tests.support.sip_endpoint import send_options
from tests.support.sip_message import Response
from tests.support.until import until

#: Kamailio's PATH. The Python inside it takes its library from the first `python3` here, which must be the system's.
CLEAN_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
#: Where its programs are looked for: a build from source installs below /usr/local.
PROGRAM_PATH = f"{CLEAN_PATH}:/usr/local/sbin"

SHARED_MEMORY_MB = 64
PACKAGE_MEMORY_MB = 8

#: Kamailio ends after its last process, which may be in a module's shutdown for some seconds.
STOP_TIMEOUT_S = 20.0


def quoted(text: object) -> str:
    """Return a value for a `#!define` that stands where the configuration wants a string: its quotes are part of it."""
    return f'"{text}"'


@cache
def release() -> tuple[int, ...]:
    """Return the release that is installed, as (6, 0, 1); it is what its program says by -v."""
    command = [find_program("kamailio", path=PROGRAM_PATH), "-v"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PATH": CLEAN_PATH}, timeout=10)
    found = re.search(r"kamailio (\d+)\.(\d+)\.(\d+)", done.stdout)
    assert found is not None, f"kamailio -v names no release:\n{done.stdout}"
    return tuple(map(int, found.groups()))


class Kamailio:
    """One Kamailio, not daemonized, with its log in a file.

    The configuration must listen on SIP_LISTEN, open its control socket (module ctl) at CTL_SOCKET and answer OPTIONS.
    Entering the context starts it and waits until it answers; leaving it ends it and all its processes.

    Attributes:
        sip_port: the UDP port that it listens on.
    """

    def __init__(  # noqa: PLR0913  # each is one thing that a test may want to be different
        self,
        config: Path,
        folder: Path,
        *,
        defines: Mapping[str, str | int] | None = None,
        environment: Mapping[str, str] | None = None,
        shared_memory_mb: int = SHARED_MEMORY_MB,
        options: Sequence[str] = (),
    ) -> None:
        """Prepare it.

        Args:
            config: the configuration file.
            folder: its working directory, where its log goes; made when missing.
            defines: values for `#!define`, given as `-A NAME=value`; see `quoted` for strings.
            environment: variables besides PATH; nothing is inherited.
            shared_memory_mb: memory that its processes share; a NOTIFY stays in it for some seconds.
            options: more of the command line.
        """
        self.sip_port = free_udp_port()
        self._config = config
        self._folder = folder
        self._defines = dict(defines or {})
        self._environment = {"PATH": CLEAN_PATH} | dict(environment or {})
        self._shared_memory_mb = shared_memory_mb
        self._options = list(options)
        self._process: ChildProcess | None = None
        self._run_folder: Path | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def sip_target(self) -> tuple[str, int]:
        """Host and port for SIP."""
        return LOOPBACK, self.sip_port

    @property
    def process(self) -> ChildProcess:
        """The main process of the last start.

        Raises:
            AssertionError: it was never started.
        """
        assert self._process is not None, "Kamailio was not started"
        return self._process

    def start(self, *, timeout_s: float = 20.0) -> None:
        """Start it, on the port that it had before, and wait until it answers OPTIONS and RPC.

        Raises:
            AssertionError: it ended, or does not answer; the message holds its log.
        """
        try:
            with uninterrupted():  # a process that nobody knows of would make the folder again that is removed
                process = self._start_process()
            until(lambda: process.exit_code is not None or self.answers(), timeout_s=timeout_s, what="an answer")
            assert process.exit_code is None, f"Kamailio ended with code {process.exit_code}"
        except AssertionError as error:
            log = self.log_text()
            self.stop()
            raise AssertionError(f"{error}\n{log}") from None
        except BaseException:  # Ctrl-C, say
            self.stop()
            raise

    def stop(self) -> None:
        """End it (SIGTERM, then SIGKILL) with all its processes."""
        if self._process is not None:
            self._process.stop(timeout_s=STOP_TIMEOUT_S)
        self._remove_run_folder()

    def _remove_run_folder(self) -> None:
        if self._run_folder is not None:
            shutil.rmtree(self._run_folder)
            self._run_folder = None

    def run_until_exit(self, *, timeout_s: float = 20.0) -> tuple[int, str]:
        """Start it with a configuration that must not start; return its exit code and its log.

        Raises:
            AssertionError: it still runs when the time is up; the message holds its log.
        """
        try:
            code = self._start_process().wait_exit(timeout_s=timeout_s)
        finally:
            self.stop()
        return code, self.log_text()

    def options(self, *, timeout_s: float = 2.0) -> Response:
        """Send it an OPTIONS and return the answer; raises AssertionError when none comes."""
        return send_options(self.sip_target, timeout_s=timeout_s)

    def rpc(self, method: str, *arguments: str | int) -> str:
        """Run an RPC command with kamcmd and return what it prints.

        A text that looks like a number stays a text (kamcmd's `s:`).

        Raises:
            AssertionError: Kamailio refused the command, or does not answer.
        """
        command = [find_program("kamcmd", path=PROGRAM_PATH), "-s", self.control_socket(), "-D", str(self._run_folder)]
        command += [method, *(f"s:{each}" if isinstance(each, str) else str(each) for each in arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
        refused = done.returncode != 0 or done.stdout.startswith("error:")
        assert not refused, f"RPC {method} {arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def statistics(self, *names: str) -> dict[str, int]:
        """Return counters by name, such as `shmem:used_size`; `shmem:` asks for a group (module kex)."""
        pairs = (line.split(" = ") for line in self.rpc("stats.get_statistics", *names).splitlines())
        return {name.strip(): int(value) for name, value in pairs}

    def pids(self) -> dict[int, str]:
        """Return what each of its processes does, by process id (RPC core.ps)."""
        lines = self.rpc("core.ps").splitlines()  # a line with the id, a line with the description, and so on
        return {int(pid): description for pid, description in zip(lines[::2], lines[1::2], strict=True)}

    def answers(self) -> bool:
        """Whether it answers RPC and OPTIONS now; raises AssertionError with the reason when it does not."""
        return bool(self.pids()) and self.options().status > 0

    def alive(self) -> bool:
        """Whether its main process runs and it answers RPC and OPTIONS."""
        try:
            return self.process.exit_code is None and self.answers()
        except AssertionError:
            return False

    def log_text(self) -> str:
        """Return its log, of all starts."""
        return self.process.log_text()

    def _start_process(self) -> ChildProcess:
        self._remove_run_folder()  # that of a start that was killed
        # A folder with a short name: a Unix socket's path has 107 bytes at most (unix(7)), pytest's are long.
        self._run_folder = Path(tempfile.mkdtemp(prefix="kamailio-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        defines = {
            "SIP_LISTEN": f"udp:{LOOPBACK}:{self.sip_port}",
            "CTL_SOCKET": quoted(self.control_socket()),
            "NSQ_RUN_DIR": quoted(self.pages_folder),
        } | self._defines
        command = [find_program("kamailio", path=PROGRAM_PATH), "-DD", "-E", "-f", str(self._config.absolute())]
        command += ["-m", str(self._shared_memory_mb), "-M", str(PACKAGE_MEMORY_MB)]
        command += ["-w", str(self._folder), "-Y", str(self._run_folder)]
        command += self._options
        for name, value in defines.items():
            command += ["-A", f"{name}={value}"]
        self._process = ChildProcess("kamailio", command, folder=self._folder, environment=self._environment)
        return self._process

    @property
    def pages_folder(self) -> Path:
        """Where it shows its state (NSQ_RUN_DIR); it is gone as soon as `stop` returns."""
        assert self._run_folder is not None, "Kamailio is not running"
        return self._run_folder / "kemi-nsq"

    def control_socket(self) -> str:
        """Return where kamcmd connects, `unix:` and a path."""
        assert self._run_folder is not None, "Kamailio is not running"
        return f"unix:{self._run_folder}/ctl"
