# SPDX-License-Identifier: GPL-2.0-or-later
"""`kemi-nsq reload`: consumers take a new version of the Python handlers, under load, and lose and double nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import pytest

from kemi_nsq.runtime.console import ask
from tests.acceptance.conftest import custom_chain, with_handlers
from tests.support.chain import CHANNEL, TOPIC, Chain
from tests.support.command import Done, kemi_nsq
from tests.support.until import until

CONSUMERS = 2
HANDLER = """
@event_route("nsq:consumer-event-test-count")
def count(self, event):
    with Path(__file__).with_name("handled").open("a") as handled:
        handled.write(f"{event.fields['Number']} VERSION {os.getpid()}\\n")
"""


def write(folder: Path, version: int, *, broken: str = "") -> None:
    """Write a version of the script; nothing else in it differs."""
    (folder / "counting.py").write_text(with_handlers(HANDLER.replace("VERSION", str(version))) + broken)


def handled(folder: Path) -> list[tuple[int, int, int]]:
    """Return the number of each event, the version that handled it and the process, in the order in which they were."""
    file = folder / "handled"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(int(number), int(version), int(pid)) for number, version, pid in (line.split() for line in lines)]


def event(number: int) -> bytes:
    return json.dumps({"Event-Category": "test", "Event-Name": "count", "Number": number}).encode()


def reload(chain: Chain, *options: str) -> Done:
    return kemi_nsq("reload", "--run-dir", str(chain.kamailio.pages_folder), *options)


@contextmanager
def counting(folder: Path) -> Iterator[Chain]:
    write(folder, 1)
    with custom_chain("kemi", folder, script="counting.py", NSQ_CONSUMERS=CONSUMERS) as chain:
        until(lambda: chain.nsqd.channel(TOPIC, CHANNEL).clients == CONSUMERS, what="the consumers")
        yield chain


def test_events_are_handled_once_while_the_script_changes(tmp_path: Path) -> None:
    """What comes after the command has ended meets the new version."""
    versions, batch = 5, 400
    with counting(tmp_path) as chain:
        for version in range(1, versions + 1):
            if version > 1:
                write(tmp_path, version)
                done = reload(chain)
                assert (done.code, done.err) == (0, "")
                assert len(re.findall(r"consumer \d+: \S+/counting.py, version \w{8}: ", done.out)) == CONSUMERS
            first = (version - 1) * batch
            # Most of them wait when the next version comes.
            chain.nsqd.publish_many(TOPIC, [event(number) for number in range(first, first + batch)])
        chain.drain(timeout_s=30)
        met = handled(tmp_path)
        assert sorted(number for number, _, _ in met) == [*range(versions * batch)]
        assert all(version > number // batch for number, version, _ in met)
        for _, of_process in groupby(sorted(met, key=lambda each: each[2]), key=lambda each: each[2]):
            used = [version for _, version, _ in of_process]
            assert used == sorted(used), "no process goes back to an older version"
        assert chain.nsqd.channel(TOPIC, CHANNEL).requeued == 0
        _, status = chain.status()
        said = [each["said"]["script"] for each in status["processes"] if each["said"]]
        assert len({each["version"] for each in said}) == 1
        assert {each["file"] for each in said} == {str(tmp_path / "counting.py")}
    assert chain.complaints(["counting.py was loaded anew, "]) == []
    assert len(chain.log_lines("WARNING: .*counting.py was loaded anew, ")) == CONSUMERS * (versions - 1)


def test_a_script_that_cannot_be_loaded_is_told_and_the_old_one_goes_on(tmp_path: Path) -> None:
    with counting(tmp_path) as chain:
        write(tmp_path, 2, broken="\nnonsense = \n")
        done = reload(chain)
        assert (done.code, done.out) == (1, "")
        assert re.fullmatch(
            r"kemi-nsq: consumer \d+: SyntaxError: invalid syntax \(.*/counting.py:\d+\); "
            r"its event routes stay as they are\n",
            done.err,
        )
        chain.publish(event(1))
        until(lambda: [each[:2] for each in handled(tmp_path)] == [(1, 1)], what="the old version to handle it")
        write(tmp_path, 3)
        assert reload(chain).code == 0
        chain.publish(event(2))
        until(lambda: [each[:2] for each in handled(tmp_path)] == [(1, 1), (2, 3)], what="the new one to follow")
    assert chain.complaints(["the script stays as it is: SyntaxError: ", "counting.py was loaded anew, "]) == []


def test_consumers_with_different_versions_are_a_warning(tmp_path: Path) -> None:
    with counting(tmp_path) as chain:
        until(lambda: chain.status()[0] == 0, what="all to be well")
        write(tmp_path, 2)
        _, status = chain.status()
        first = next(each["pid"] for each in status["processes"] if each["role"] == "consumer")
        ask(chain.kamailio.pages_folder, first, "reload", timeout_s=20)
        code, status = chain.status()
        assert code == 1
        assert "different versions of the Python script; see kemi-nsq reload" in status["line"]
        said = reload(chain, "--json").json
        assert len({each["version"] for each in said["consumers"]}) == 1
        assert chain.status()[0] == 0
    assert chain.complaints(["counting.py was loaded anew, "]) == []


def test_the_script_that_is_shipped_has_nothing_to_reload(tmp_path: Path) -> None:
    with Chain("native", tmp_path) as chain:
        until(lambda: chain.status()[0] == 0, what="all to be well")
        done = reload(chain)
        assert (done.code, done.out) == (2, "")
        assert "there are no Python handlers to reload: NSQ_SCRIPT is the script that kemi-nsq ships" in done.err


@pytest.mark.parametrize("problem", ["folder", "kamailio"])
def test_where_no_consumer_runs_it_says_so(tmp_path: Path, problem: str) -> None:
    folder = tmp_path / "none"
    if problem == "kamailio":
        folder.mkdir(mode=0o700)
    done = kemi_nsq("reload", "--run-dir", str(folder))
    assert done.code == (2 if problem == "folder" else 1)
    assert str(folder) in done.err
