# SPDX-License-Identifier: GPL-2.0-or-later
"""Kamailio's programs, and the Kamailio that runs with a configuration: its arguments, environment, user and RPC."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kemi_nsq.configuration.commandline import values
from kemi_nsq.configuration.finding import CannotLook
from kemi_nsq.configuration.model import Configuration
from kemi_nsq.runtime.place import LOCK

#: What systemd gives to a service, and where a build from source installs.
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
#: Kamailio's own default (main.c, CFG_FILE), of Debian's package.
SYSTEM_FILE = Path("/etc/kamailio/kamailio.cfg")
_CHECK_S, _ASK_S = 20.0, 3.0
_MOST_LINES = 5
_COMPLAINT = re.compile(
    r"(?:\b(?:CRITICAL|ERROR|ALERT|BUG):\s+)(?:<core>\s*)?(?:\S+\s*\[[^]]*\]:\s*)?(?:\w+\(\):\s*)?(.*)"
)
_RELEASE = re.compile(r"version: kamailio (\d+)\.(\d+)\.(\d+)")


class Running(NamedTuple):
    """A Kamailio that runs.

    Attributes:
        pid: its main process.
        arguments: its command line.
        environment: its environment, None where it may not be read.
        uid: the user that its processes run as.
    """

    pid: int
    arguments: Sequence[str]
    environment: Mapping[str, str] | None
    uid: int


class Checked(NamedTuple):
    """What `kamailio -c` says: whether it was content, and what it complained of."""

    fine: bool
    complaints: Sequence[str]


def program(name: str = "kamailio") -> str | None:
    """Return the path of one of Kamailio's programs; None where it is not installed."""
    return shutil.which(name, path=_PATH)


def release() -> tuple[int, ...]:
    """Return the release that is installed, as (5, 6, 3); empty where nobody knows."""
    found = program()
    done = _run([found, "-v"], _ASK_S) if found else None
    match = _RELEASE.search(done.stdout) if done else None
    return tuple(map(int, match.groups())) if match else ()


def own_defines(known: tuple[int, ...]) -> dict[str, str]:
    """Return what Kamailio itself defines before the first line (core/ppcfg.c, `pp_define_core`)."""
    names = ("_".join(("KAMAILIO", *map(str, known[:count]))) for count in range(1, len(known) + 1))
    return dict.fromkeys(names, "") if known else {}


def processes() -> Iterator[tuple[int, list[str]]]:
    """Find the processes of this machine that may be read, with their arguments."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                arguments = (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")[:-1]
            except OSError:
                continue
            if arguments:
                yield int(folder.name), arguments


def running(file: Path) -> Running | None:
    """Find the Kamailio that is known to run with a configuration; None where there is none."""
    return next((_described(pid, words) for pid, words in _kamailios() if _reads(pid, words, file)), None)


def perhaps(file: Path) -> list[Running]:
    """Find each Kamailio of which its process does not say whether it runs with a configuration."""
    found = {pid: words for pid, words in _kamailios() if _reads(pid, words, file) is None}
    return [_described(pid, words) for pid, words in found.items() if _parent(pid) not in found]


def holder(folder: Path) -> int | None:
    """Return the main process of the Kamailio that holds a runtime folder; None where none does.

    Raises:
        PermissionError: we may not read the folder.
        CannotLook: it cannot be read.
    """
    try:
        with (folder / LOCK).open("rb") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(held.read(20) or b"0")
    except FileNotFoundError:
        return None
    except PermissionError:
        raise
    except OSError as error:
        raise CannotLook(f"{folder / LOCK}: {error.strerror}") from None
    except ValueError as error:
        raise CannotLook(f"{folder / LOCK}: {error}") from None
    return None


def _kamailios() -> Iterator[tuple[int, list[str]]]:
    for pid, arguments in sorted(processes()):
        if Path(arguments[0]).name == "kamailio" and "-c" not in arguments:
            yield pid, arguments


def _described(pid: int, arguments: Sequence[str]) -> Running:
    return Running(pid, arguments, _environment(pid), _user(pid))


def _reads(pid: int, arguments: Sequence[str], file: Path) -> bool | None:
    """Whether a Kamailio has read a file; None where nobody knows.

    It reads a relative `-f` from where it is started, and then goes to `/` or the folder of `-w` (main.c). The shell
    that has started it leaves the former in PWD.
    """
    named = Path(next(values(arguments, "f"), SYSTEM_FILE))
    if named.is_absolute():
        return _same(named, file)
    started = (_environment(pid) or {}).get("PWD")
    if started and os.path.exists(read := Path(started, named)):
        return _same(read, file)
    return None if named.name in {file.name, file.resolve().name} else False


def _parent(pid: int) -> int:
    """Return the parent of a process (proc(5), stat: ppid); 0 where it has ended."""
    try:
        return int(
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
        )
    except OSError:
        return 0


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _environment(pid: int) -> Mapping[str, str] | None:
    try:
        text = Path(f"/proc/{pid}/environ").read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return None
    return {name: value for name, equals, value in (each.partition("=") for each in text.split("\0")) if equals}


def _user(pid: int) -> int:
    """Return the user of the newest child, which has changed it where Kamailio was told to; else its own."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        return os.stat(f"/proc/{children[-1] if children else pid}").st_uid
    except OSError:
        return os.geteuid()


def check(file: Path, defines: Mapping[str, str]) -> Checked | None:
    """Have Kamailio check a configuration; None where it is not installed.

    Raises:
        TimeoutError: it takes too long.
    """
    found = program()
    if found is None:
        return None
    options = [text for name, value in defines.items() for text in ("-A", f"{name}={value}" if value else name)]
    done = _run([found, "-c", "-f", str(file), *options], _CHECK_S)
    if done is None:
        raise TimeoutError
    lines = [match[1].strip() for match in map(_COMPLAINT.search, done.stderr.splitlines()) if match]
    return Checked(done.returncode == 0, [line for line in dict.fromkeys(lines) if line][:_MOST_LINES])


def ask(configuration: Configuration, method: str) -> str | None:
    """Ask a Kamailio that runs by RPC; None where that cannot be."""
    kamcmd = program("kamcmd")
    if kamcmd is None or not configuration.loads("ctl"):
        return None
    socket = configuration.text("ctl", "binrpc", "unix:/run/kamailio/kamailio_ctl")
    with tempfile.TemporaryDirectory() as folder:
        done = _run([kamcmd, "-s", socket, "-D", folder, method], _ASK_S)
    return done.stdout if done and done.returncode == 0 and not done.stdout.startswith("error:") else None


def _run(command: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout_s,
            cwd="/",
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PATH": _PATH},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
