# SPDX-License-Identifier: GPL-2.0-or-later
"""Which tests one worker of pytest-xdist runs one after the other, because they share servers.

pytest-xdist's own marks for that (`--dist loadgroup`) do nothing with pytest 9.2: its ids of tests cannot be changed.
"""

from __future__ import annotations

import re

import pytest
from xdist.scheduler import LoadScopeScheduling

#: Servers that start once for the tests of all files (`tables.py`), as parameters of tests call them.
DATABASES = ("sqlite", "postgresql", "mariadb")
#: The configurations of Kamailio; a file that has both starts one for each.
KINDS = ("native", "kemi")


def group_of(test: str) -> str:
    """Return what a test is scheduled with, from its id: `tests/integration/test_x.py::test_y[postgresql-3]`."""
    file, _, name = test.partition("::")
    parameters = re.split(r"[\[\]-]", name)[1:]
    for database in DATABASES:
        if database in parameters:
            return database if file.startswith("tests/integration/") else f"{file} {database}"
    return " ".join((file, *(kind for kind in KINDS if kind in parameters)))


@pytest.hookimpl(optionalhook=True)
def make_scheduler(config: pytest.Config, log: object) -> object:
    """Decide who runs what (pytest-xdist's hook `pytest_xdist_make_scheduler`), whatever `--dist` says."""
    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = group_of
    return scheduler
