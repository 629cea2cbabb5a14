# SPDX-License-Identifier: GPL-2.0-or-later
"""Runtime folders of tests, and processes of another user beside them."""

from __future__ import annotations

import os
import subprocess
import textwrap
from pathlib import Path

from kemi_nsq.runtime.place import Place

#: The user `nobody` of Debian.
NOBODY = 65534
#: A Python that every user can run.
_PYTHON = "/usr/bin/python3"


def new_place(path: Path) -> Place:
    """Make a runtime folder for this user; its descriptors live as long as the process."""
    return Place(path, uid=os.geteuid(), gid=os.getegid())


def run_as(user: int, program: str, *arguments: str) -> str:
    """Run a Python program as a user, and return what it prints.

    Raises:
        CalledProcessError: it failed; only root can be another user.
    """
    other = None if user == os.getuid() else user
    command = [_PYTHON, "-c", textwrap.dedent(program), *arguments]
    done = subprocess.run(
        command, user=other, group=other, extra_groups=None if other is None else (), check=True, timeout=10, cwd="/",
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return done.stdout
