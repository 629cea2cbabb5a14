# SPDX-License-Identifier: GPL-2.0-or-later
"""Runtime folders of tests, and processes of another user beside them."""

from __future__ import annotations

import os
import subprocess
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

from kemi_nsq.runtime.place import Place

#: The user `nobody` of Debian.
NOBODY = 65534
#: A Python that every user can run.
_PYTHON = "/usr/bin/python3"


def new_place(path: Path) -> Place:
    """Make a runtime folder for this user; its descriptors live as long as the process."""
    return Place(path, uid=os.geteuid(), gid=os.getegid())


@contextmanager
def running_as(user: int, program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a Python program as a user until the context ends, from when it has said `ready`.

    What it says when its standard input ends is left to be read.
    """
    with subprocess.Popen(
        [_PYTHON, "-c", textwrap.dedent(program), *arguments],
        **_user(user), cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def run_as(user: int, program: str, *arguments: str) -> str:
    """Run a Python program as a user, and return what it prints.

    Raises:
        CalledProcessError: it failed; only root can be another user.
    """
    command = [_PYTHON, "-c", textwrap.dedent(program), *arguments]
    done = subprocess.run(command, **_user(user), check=True, timeout=10, cwd="/", stdout=subprocess.PIPE, text=True)
    return done.stdout


class _As(TypedDict, total=False):
    """Arguments of subprocess that make a process another user's."""

    user: int
    group: int
    extra_groups: Sequence[int]


def _user(user: int) -> _As:
    return {} if user == os.getuid() else {"user": user, "group": user, "extra_groups": ()}
