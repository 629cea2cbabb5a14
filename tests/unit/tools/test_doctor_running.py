# SPDX-License-Identifier: GPL-2.0-or-later
"""What the doctor makes of what Kamailio's programs say, and which Kamailio it takes for the one that runs."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kemi_nsq.clock import SYSTEM
from kemi_nsq.configuration.finding import CannotLook, Check, DoesNotApply, Finding, Grade, made
from kemi_nsq.configuration.reader import read
from kemi_nsq.runtime.folder import RunFolder
from kemi_nsq.runtime.page import CONSUMER, Fact, Gauge
from kemi_nsq.tools.doctor import kamailio, running
from kemi_nsq.tools.doctor.kamailio import Checked, Running
from kemi_nsq.tools.doctor.scene import Scene, scene
from kemi_nsq.tools.doctor.table import Result
from kemi_nsq.tools.doctor_verbs import summary
from tests.support.settings import wipe_environment
from tests.support.until import until

CHECKS = {check.name: check for check in running.CHECKS}
ONE_CONSUMER = "17\nmain process - attendant\n18\nEVREXEC child=0 exec=nsq:consumer\n"


def look(name: str, file: Path, *, runs: bool = True) -> list[Finding]:
    """Make a check beside a Kamailio that runs, which is this process."""
    found = scene(file, {})
    one = Running(os.getpid(), ["kamailio"], {}, os.geteuid()) if runs else None
    changed = Scene(text=found.text, given={}, running=one, user=found.user, environment={})
    return made(CHECKS[name], changed)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a configuration that has not changed for long."""
    wipe_environment(monkeypatch)
    path = tmp_path / "kamailio.cfg"
    path.write_text("#!define NSQ_ACK received\n")
    os.utime(path, (0, 0))
    return path


@pytest.mark.parametrize(
    ("checked", "found"),
    [
        (None, [Grade.UNKNOWN]),
        (Checked(True, []), [Grade.OK]),
        (Checked(False, ["one", "two"]), [Grade.ERROR] * 2),
        (Checked(False, []), [Grade.ERROR]),
    ],
)
def test_what_kamailio_says_of_the_text(
    file: Path, monkeypatch: pytest.MonkeyPatch, checked: Checked | None, found: list[Grade]
) -> None:
    monkeypatch.setattr(kamailio, "check", lambda *_: checked)
    assert [finding.grade for finding in look("syntax", file)] == found


def test_a_kamailio_that_does_not_end_is_left(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kamailio, "program", lambda name="kamailio": "/bin/cat")
    monkeypatch.setattr(kamailio, "_CHECK_S", 0.01)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: raise_timeout())
    assert look("syntax", file)[0] == Finding(Grade.UNKNOWN, "kamailio -c does not end")


def raise_timeout() -> None:
    """End as a program that takes too long."""
    raise subprocess.TimeoutExpired("kamailio", 1)


@pytest.mark.parametrize(
    ("said", "grade"),
    [
        (ONE_CONSUMER, Grade.OK),
        (ONE_CONSUMER * 2, Grade.WARNING),
        ("17\nmain process - attendant\n", Grade.ERROR),
        (None, Grade.UNKNOWN),
    ],
)
def test_consumers_are_counted(file: Path, monkeypatch: pytest.MonkeyPatch, said: str | None, grade: Grade) -> None:
    monkeypatch.setattr(kamailio, "ask", lambda *_: said)
    assert [finding.grade for finding in look("consumers", file)] == [grade]
    assert look("consumers", file, runs=False)[0].reason.startswith("does not apply")


@pytest.mark.parametrize(
    ("said", "grade"), [("NSQ_ACK\nWITH_X\n", Grade.OK), ("NSQ_ACK\nNSQ_NODE\n", Grade.WARNING), (None, Grade.UNKNOWN)]
)
def test_settings_are_those_of_the_start(
    file: Path, monkeypatch: pytest.MonkeyPatch, said: str | None, grade: Grade
) -> None:
    monkeypatch.setattr(kamailio, "ask", lambda *_: said)
    assert [finding.grade for finding in look("restarted", file)] == [grade]
    assert look("restarted", file, runs=False)[0].reason.startswith("does not apply")


def test_a_text_that_has_changed_wants_a_restart(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kamailio, "ask", lambda *_: "NSQ_ACK")
    os.utime(file, (2**31, 2**31))
    assert look("restarted", file)[0].reason == "the configuration has changed since Kamailio was started"


def test_what_status_says_of_the_kamailio_that_runs(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = tmp_path / "run"
    monkeypatch.setenv("NSQ_RUN_DIR", str(run_dir))
    (found,) = look("status", file)
    assert (found.grade, str(run_dir) in found.reason) == (Grade.UNKNOWN, True)
    assert look("status", file, runs=False)[0].reason.startswith("does not apply")
    page = RunFolder(run_dir, uid=os.geteuid(), gid=os.getegid()).page
    page.role("")
    assert look("status", file) == [Finding(Grade.ERROR, "no consumer runs", "see kemi-nsq status")]
    page.role(CONSUMER)
    page.set(Gauge.BUSY_SINCE, SYSTEM.wall())
    page.set(Gauge.ROUTE_TIMEOUT, 3600.0)
    page.show(Fact.DATABASE, "away since 12:00")
    page.show(Fact.PAUSED, "until 13:00")
    assert look("status", file)[:2] == [
        Finding(Grade.ERROR, f"{os.getpid()}: database: away since 12:00", "see kemi-nsq status"),
        Finding(Grade.WARNING, f"{os.getpid()}: paused: until 13:00", "see kemi-nsq status"),
    ]


@pytest.fixture
def child() -> Iterator[int]:
    """A process without children; this one may have some of other users, the servers of other tests."""
    with subprocess.Popen(["sleep", "60"]) as process:
        until(lambda: Path(f"/proc/{process.pid}/environ").read_bytes(), what="its environment")
        yield process.pid
        process.kill()


def test_a_kamailio_is_known_by_its_configuration(file: Path, child: int, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["/usr/sbin/kamailio", "-DD", "-f", str(file), "-A", "NSQ_NODE=a"]
    monkeypatch.setattr(kamailio, "processes", lambda: [(child, command)])
    found = kamailio.running(file)
    assert found is not None
    assert (found.pid, found.uid) == (child, os.geteuid())
    assert "PATH" in (found.environment or {})
    assert kamailio.running(file.parent / "other.cfg") is None
    here = scene(file, {})
    assert (here.running, here.text.valid.node, here.user.uid) == (found, "a", os.geteuid())
    assert scene(file, {"NSQ_NODE": "b"}).text.valid.node == "b"


@pytest.fixture
def relative(child: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the environment, to be changed, of a Kamailio that was started with a relative -f."""
    environment = {"PATH": "/bin"}
    monkeypatch.setattr(kamailio, "processes", lambda: [(child, ["kamailio", "-DD", "-E", "-f", "kamailio.cfg"])])
    monkeypatch.setattr(kamailio, "_environment", lambda _pid: environment)
    return environment


def test_a_relative_file_is_looked_for_where_kamailio_was_started(
    file: Path, child: int, relative: dict[str, str]
) -> None:
    relative["PWD"] = str(file.parent)
    found = scene(file, {})
    assert (found.running and found.running.pid, found.perhaps) == (child, [])
    other = file.parent / "other"
    other.mkdir()
    (other / "kamailio.cfg").write_text("")
    found = scene(other / "kamailio.cfg", {})
    assert (found.running, found.perhaps) == (None, []), "it runs with another file"
    (file.parent / "b.cfg").write_text("")
    found = scene(file.parent / "b.cfg", {})
    assert (found.running, found.perhaps) == (None, [])


@pytest.mark.usefixtures("relative")
def test_the_runtime_folder_says_whose_a_relative_file_is(file: Path, child: int, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    (folder / "lock").write_text(str(child))
    given = {"NSQ_RUN_DIR": f'"{folder}"'}
    found = scene(file, given)
    assert (found.running, found.perhaps) == (None, []), "it holds another folder"
    with (folder / "lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        found = scene(file, given)
    assert (found.running and found.running.pid, found.perhaps) == (child, [])


def test_nobody_is_accused_where_a_relative_file_is_not_known(
    file: Path, child: int, relative: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert relative
    monkeypatch.setattr(kamailio, "_environment", lambda _pid: None)
    found = scene(file, {"NSQ_RUN_DIR": f'"{tmp_path}"'})
    assert (found.running, found.perhaps, found.user.uid) == (None, [child], os.geteuid())
    for name in ("consumers", "restarted", "status"):
        ((grade, reason, _),) = made(CHECKS[name], found)
        assert (grade, f"the Kamailio with pid {child} may be" in reason) == (Grade.UNKNOWN, True)


def nothing_to_look_at(_file: Path) -> list[Finding]:
    """Stand for a check that does not apply."""
    raise DoesNotApply("there is nothing")


@pytest.mark.parametrize(
    ("runs", "perhaps", "said"),
    [
        (True, [], ""),
        (False, [], "; no Kamailio runs with this configuration"),
        (False, [17], "; whether Kamailio runs with this configuration is not known"),
    ],
)
def test_what_does_not_apply_is_not_counted_as_ok(file: Path, runs: bool, perhaps: list[int], said: str) -> None:
    one = Running(os.getpid(), ["kamailio"], {}, os.geteuid()) if runs else None
    state = replace(scene(file, {}), running=one, perhaps=perhaps).state
    not_made = made(Check("x", "x", nothing_to_look_at), file)
    found = {
        "a": [Finding(Grade.OK, "fine")],
        "b": not_made,
        "c": [Finding(Grade.ERROR, "one"), Finding(Grade.ERROR, "two")],
    }
    results = [Result(group="x", check=name, finding=each) for name, all_of_it in found.items() for each in all_of_it]
    assert summary(results, state) == f"3 checks: 1 ok, 1 error, 1 not applicable{said}"


def test_a_lock_that_cannot_be_read_leaves_doubt(tmp_path: Path) -> None:
    assert kamailio.holder(tmp_path) is None
    (tmp_path / "lock").mkdir()
    with pytest.raises(CannotLook, match="lock: Is a directory"):
        kamailio.holder(tmp_path)


def test_processes_are_those_of_the_machine() -> None:
    assert os.getpid() in dict(kamailio.processes())
    assert kamailio._environment(0) is None


def test_nobody_is_asked_without_a_control_socket(tmp_path: Path) -> None:
    (tmp_path / "kamailio.cfg").write_text("")
    assert kamailio.ask(read(tmp_path / "kamailio.cfg"), "core.ps") is None
    (tmp_path / "kamailio.cfg").write_text(f'loadmodule "ctl.so"\nmodparam("ctl", "binrpc", "unix:{tmp_path}/ctl")\n')
    assert kamailio.ask(read(tmp_path / "kamailio.cfg"), "core.ps") is None


def test_kamailio_itself_defines_its_release() -> None:
    assert list(kamailio.own_defines((5, 6, 3))) == ["KAMAILIO_5", "KAMAILIO_5_6", "KAMAILIO_5_6_3"]
    assert kamailio.own_defines(()) == {}


def test_a_name_that_is_no_setting_changes_no_other(file: Path) -> None:
    found = scene(file, {"NSQ_NOED": "a", "NSQ_NODE": "b"}).text
    assert (found.valid.node, len(found.problems)) == ("b", 1)
    found = scene(file, {"NSQ_BATCH": "0"}).text
    assert (found.settings, len(found.problems)) == (None, 1)


def test_what_a_script_defines_may_be_called(file: Path, tmp_path: Path) -> None:
    script = tmp_path / "routes.py"
    script.write_text("class Mine(NativeNsq):\n    def bill_caller(self, msg): ...\n    def _own(self): ...\n")
    wrong = scene(file, {"NSQ_SCRIPT": f'"{script}"'}).text.wrong_function
    assert [wrong(name) for name in ("bill_caller", "nsq_publish", "notify_unanswered")] == ["", "", ""]
    assert wrong("bill_callr").endswith("did you mean bill_caller?")
    assert "no function for routes" in wrong("child_init")
