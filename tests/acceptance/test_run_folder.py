# SPDX-License-Identifier: GPL-2.0-or-later
"""The runtime folder: one Kamailio has it, as the user that it runs as, or it does not start and says why."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from kemi_nsq.counters import Counter
from kemi_nsq.runtime.folder import sheets
from kemi_nsq.runtime.page import CONSUMER, RELAY
from tests.acceptance.test_start import refused
from tests.support.chain import SHIPPED, Chain
from tests.support.kamailio import quoted
from tests.support.until import until

#: A user that every Debian has.
USER = "nobody"


def test_each_process_of_ours_has_a_page_there(kind: str, tmp_path: Path) -> None:
    with Chain(kind, tmp_path) as chain:
        folder = chain.kamailio.pages_folder

        def ours() -> dict[int, str]:
            named = ((pid, what.rpartition("nsq")[2]) for pid, what in chain.kamailio.pids().items() if "exec=" in what)
            return {pid: name[1:] for pid, name in named}

        until(lambda: sorted(ours().values()) == [CONSUMER, RELAY], what="consumer and relay")
        until(lambda: {sheet.pid: sheet.role for sheet, alive in sheets(folder) if alive} == ours(), what="their pages")


def test_a_second_kamailio_with_the_same_folder_does_not_start(tmp_path: Path) -> None:
    with Chain("native", tmp_path / "first") as chain:
        folder = chain.kamailio.pages_folder
        (tmp_path / "second").mkdir()
        (line,) = refused(tmp_path / "second", NSQ_RUN_DIR=quoted(folder))
        assert line == (
            f": NSQ_RUN_DIR {folder} is in use by the Kamailio with pid {chain.kamailio.process.pid}; "
            "each needs a folder of its own"
        )
        assert chain.kamailio.alive()


def test_a_folder_that_cannot_be_had_stops_the_start(kind: str, tmp_path: Path) -> None:
    (line,) = refused(tmp_path, kind, NSQ_RUN_DIR=quoted("/proc/kemi-nsq"))
    assert line == ": NSQ_RUN_DIR /proc/kemi-nsq cannot be used: No such file or directory"
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    (line,) = refused(tmp_path / "open", kind, NSQ_RUN_DIR=quoted(tmp_path / "open"))
    assert line == f": NSQ_RUN_DIR {tmp_path / 'open'} is open to others: chmod 700"


def test_kamailio_starts_again_with_the_folder_of_its_last_run(tmp_path: Path) -> None:
    folder = tmp_path / "pages"
    with Chain("native", tmp_path, defines={"NSQ_RUN_DIR": quoted(folder)}) as chain:
        until(lambda: len(sheets(folder)) == 2, what="the pages of consumer and relay")
        before = {sheet.pid for sheet, _ in sheets(folder)}
        chain.kamailio.stop()
        assert {(sheet.pid, alive) for sheet, alive in sheets(folder)} == {(pid, False) for pid in before}
        chain.kamailio.start()
        until(lambda: [alive for _, alive in sheets(folder)] == [True, True], what="the pages of the new ones alone")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start it as somebody else")
@pytest.mark.parametrize("how", ["option", "parameter"])
def test_started_by_root_it_is_the_folder_of_the_user_that_kamailio_becomes(open_path: Path, how: str) -> None:
    config = open_path / "as_user.cfg"
    config.write_text(
        f'{"user=" + quoted(USER) if how == "parameter" else ""}\ninclude_file "{SHIPPED}/kamailio.cfg"\n'
    )
    chain = Chain("native", open_path, config=config, options=("-u", USER) if how == "option" else ())
    with chain:
        folder = chain.kamailio.pages_folder
        chain.publish(b"no JSON")
        until(lambda: sum(sheet.counters.get(Counter.INVALID, 0) for sheet, _ in sheets(folder)) == 1, what="its page")
        assert {file.stat().st_uid for file in (folder, *folder.iterdir())} == {pwd.getpwnam(USER).pw_uid}
