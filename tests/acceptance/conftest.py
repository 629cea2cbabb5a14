# SPDX-License-Identifier: GPL-2.0-or-later
"""One running chain for each module and configuration, and its check at the end: nothing is left, nothing went wrong.

A module whose tests make Kamailio log warnings or errors says which, in `EXPECTED_LINES`: regular expressions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import indent

import pytest

from tests.support.chain import CHANNEL, CONFIGURATIONS, TOPIC, Chain, Person
from tests.support.nsqd import Option
from tests.support.process import is_running
from tests.support.watcher import Watcher

HERE = Path(__file__).parent

#: A script of handlers besides those of routes.py.
_SCRIPT = """
import os
import signal
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event as Never

import routes  # makes the package known
import KSR
from kemi_nsq import event_route

class Kamailio(routes.Kamailio):
{handlers}

def mod_init():
    return Kamailio()
"""


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def kind(request: pytest.FixtureRequest) -> str:
    """Name the configuration: each test that uses it runs with both."""
    return str(request.param)


@pytest.fixture(scope="module")
def chain(kind: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Run a chain with the shipped configuration for the tests of a module."""
    expected = getattr(request.module, "EXPECTED_LINES", ())
    with Chain(kind, tmp_path_factory.mktemp(kind)) as chain:
        yield chain
        chain.drain()
        assert chain.nsqd.channel(TOPIC, CHANNEL).timed_out == 0
        assert chain.kamailio.alive()
        pids = chain.kamailio.pids()
    assert not any(map(is_running, pids)), "Kamailio left a process behind"
    assert chain.complaints(expected) == []


@pytest.fixture
def open_path() -> Iterator[Path]:
    """Return a folder that every user can enter; pytest closes its own, those of other runs among them."""
    with TemporaryDirectory(prefix="kemi-nsq-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def person(chain: Chain) -> Person:
    """Return a presentity of this test's own."""
    return Person(chain=chain)


@pytest.fixture
def watcher(chain: Chain) -> Iterator[Watcher]:
    """Return a watcher; what Kamailio does against the rules of SIP fails the test."""
    with chain.watcher() as watcher:
        yield watcher


def with_handlers(handlers: str) -> str:
    """Return a script that has these methods besides the routes of routes.py, for `custom_chain`."""
    return _SCRIPT.format(handlers=indent(handlers.strip(), "    "))


def blocking(folder: Path, name: str, seconds: int, said: str) -> Path:
    """Write the shipped configuration with a native route that says that it begins, blocks, and says that it ends.

    Args:
        folder: where the file goes.
        name: `Event-Name` of its events; their category is `test`.
        seconds: how long it blocks.
        said: what stands between `test: ` and ` begins` in the log; pseudo-variables are read.
    """
    config = folder / "blocking.cfg"
    config.write_text(
        f"""include_file "{HERE.parents[1]}/kamailio/kamailio.cfg"
debug=1
event_route[nsq:consumer-event-test-{name}] {{
    xlog("L_NOTICE", "test: {said} begins\\n");
    sleep("{seconds}");
    xlog("L_NOTICE", "test: {said} ends\\n");
}}
"""
    )
    return config


def custom_chain(
    kind: str,
    folder: Path,
    *,
    script: str = "routes.py",
    nsqd_options: Mapping[str, Option] | None = None,
    **defines: str | int,
) -> Chain:
    """Return a chain with the routes of the tests besides the shipped ones: routes.cfg, or routes.py.

    Args:
        kind: a key of `CONFIGURATIONS`.
        folder: where logs and data go.
        script: the file in that folder that a Python configuration loads.
        nsqd_options: options of nsqd.
        defines: values for `#!define`.
    """
    if kind == "native":
        return Chain(kind, folder, config=HERE / "routes.cfg", defines=defines, nsqd_options=nsqd_options)
    config, shipped = CONFIGURATIONS[kind]
    verbose = folder / "verbose.cfg"
    verbose.write_text(f'include_file "{config}"\ndebug=1\n')
    for file in (shipped, shipped.with_name("nsq.py"), HERE / "routes.py"):
        (folder / file.name).symlink_to(file)
    return Chain(kind, folder, config=verbose, script=folder / script, defines=defines, nsqd_options=nsqd_options)
