# SPDX-License-Identifier: GPL-2.0-or-later
"""What the doctor says of files, modes and users, on folders that a test makes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kemi_nsq.configuration.finding import Check, Finding, Grade, made
from kemi_nsq.errors import UsageError
from kemi_nsq.tools.doctor import database, kamailio, machine, script
from kemi_nsq.tools.doctor.kamailio import Running
from kemi_nsq.tools.doctor.scene import Scene, User, scene
from tests.support.chain import SHIPPED
from tests.support.settings import wipe_environment

NOBODY = User(name="nobody", uid=65534, gid=65532, groups=frozenset({65534}))
CHECKS: dict[str, Check[Scene]] = {check.name: check for check in (*script.CHECKS, *machine.CHECKS, *database.CHECKS)}
Look = Callable[..., list[Finding]]


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """Return a function that makes a check of a configuration with some defines."""
    wipe_environment(monkeypatch)

    def look(name: str, user: User | None = None, running: Running | None = None, **defines: object) -> list[Finding]:
        file = tmp_path / "kamailio.cfg"
        if not file.exists():
            file.write_text('loadmodule "app_python3.so"\n')
        found = scene(file, {each: f'"{value}"' for each, value in defines.items()})
        changed = Scene(
            text=found.text,
            given=found.given,
            running=running,
            user=user or found.user,
            environment=found.environment,
        )
        return made(CHECKS[name], changed)

    return look


def grades(found: list[Finding]) -> list[Grade]:
    """Return how bad what was found is."""
    return [finding.grade for finding in found]


def opened(folder: Path) -> None:
    """Let others pass through pytest's folders down to this one."""
    for each in (folder, *folder.parents):
        if os.access(each, os.W_OK) and each.owner() == folder.owner():
            each.chmod(each.stat().st_mode | 0o111)


def test_a_user_may_what_the_mode_says(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    path.chmod(0o640)
    status = path.stat()
    owner = User(name="owner", uid=status.st_uid or 1, gid=65532, groups=frozenset())
    member = User(name="member", uid=65533, gid=65532, groups=frozenset({status.st_gid}))
    root = User(name="root", uid=0, gid=65532, groups=frozenset())
    assert member.may(path, os.R_OK)
    assert not member.may(path, os.W_OK)
    assert not NOBODY.may(path, os.R_OK)
    assert root.may(path, os.W_OK)
    assert owner.may(path, os.R_OK) == (status.st_uid != 0)
    tmp_path.chmod(0o700)
    assert NOBODY.reaches(path) is not None
    assert root.reaches(path) is None


def test_a_script_in_a_closed_folder(look: Look, tmp_path: Path) -> None:
    closed = tmp_path / "home"
    closed.mkdir(mode=0o700)
    (closed / "nsq.py").write_text("")
    opened(tmp_path)
    (found,) = look("script", NOBODY, NSQ_SCRIPT=closed / "nsq.py")
    assert found.grade is Grade.ERROR
    assert found.reason == f"{closed} keeps user nobody from reading NSQ_SCRIPT {closed}/nsq.py"
    (closed / "nsq.py").chmod(0o600)
    closed.chmod(0o755)
    assert grades(look("script", NOBODY, NSQ_SCRIPT=closed / "nsq.py")) == [Grade.ERROR]
    (closed / "nsq.py").chmod(0o644)
    assert grades(look("script", NOBODY, NSQ_SCRIPT=closed / "nsq.py")) == [Grade.OK]


def test_a_script_of_the_wrong_language(look: Look, tmp_path: Path) -> None:
    assert grades(look("script-class", NSQ_SCRIPT=SHIPPED / "kemi_routes.py")) == [Grade.ERROR]
    assert grades(look("script-class", NSQ_SCRIPT=SHIPPED / "nsq.py")) == [Grade.OK]
    assert grades(look("script-class", NSQ_SCRIPT=tmp_path / "nowhere")) == [Grade.UNKNOWN]
    (tmp_path / "kamailio.cfg").write_text("")
    for name in ("script", "script-class", "python"):
        assert look(name)[0].reason == "does not apply: app_python3.so is not loaded"
    (tmp_path / "kamailio.cfg").write_text('#!define NSQ_KEMI\nloadmodule "app_python3.so"\n')
    assert grades(look("script-class", NSQ_SCRIPT=SHIPPED / "nsq.py")) == [Grade.ERROR]


@pytest.mark.parametrize(
    ("body", "grade"),
    [
        ("KSR.presence.handle_subscribe()", Grade.WARNING),
        ("with open('x'):\n            KSR.presence.handle_publish()", Grade.WARNING),
        ("with self.presence_lock():\n            KSR.presence.handle_subscribe()", Grade.OK),
        ("self.nsq_pua_handle()", Grade.OK),
        ("(", Grade.UNKNOWN),
    ],
)
def test_a_script_that_handles_a_subscribe_itself(look: Look, tmp_path: Path, body: str, grade: Grade) -> None:
    (tmp_path / "kamailio.cfg").write_text('#!define NSQ_KEMI\nloadmodule "app_python3.so"\n')
    (tmp_path / "routes.py").write_text(f"class Kamailio(KemiNsq):\n    def subscribe(self):\n        {body}\n")
    assert grades(look("script-handlers", NSQ_SCRIPT=tmp_path / "routes.py")) == [grade]


def test_a_database_file(look: Look, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    opened(folder)
    path = folder / "kamailio.db"
    url = {"NSQ_DB_URL": f"sqlite:///{path}"}
    assert look("database-file", NOBODY, **url)[0].reason.startswith("does not apply")
    path.write_text("")
    path.chmod(0o644)
    assert "cannot write the database" in look("database-file", NOBODY, **url)[0].reason
    path.chmod(0o666)
    assert "cannot write the folder" in look("database-file", NOBODY, **url)[0].reason
    folder.chmod(0o777)
    assert "everybody can read" in look("database-file", NOBODY, **url)[0].reason
    root = User(name="root", uid=0, gid=65532, groups=frozenset())
    (found,) = look("database-file", root, **url)
    assert (found.grade, found.mend) == (Grade.WARNING, f"chmod o= {path}*")
    path.chmod(0o662)
    assert grades(look("database-file", root, **url)) == [Grade.OK]
    path.chmod(0o666)
    tmp_path.chmod(0o700)
    assert grades(look("database-file", root, **url)) == [Grade.OK], "nobody comes so far"
    tmp_path.chmod(0o711)
    folder.chmod(0o700)
    assert "keeps user nobody" in look("database-file", NOBODY, **url)[0].reason
    assert grades(look("network-file", **url)) == [Grade.OK]
    assert look("network-file")[0].reason == "does not apply: NSQ_DB_URL is no SQLite file"


def test_a_file_on_the_network(look: Look, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("server:/x /data nfs4 rw 0 0\n/dev/sda / ext4 rw 0 0\n")
    real = Path.read_text

    def read(path: Path, *arguments: str, **named: str) -> str:
        return real(mounts if path == Path("/proc/mounts") else path, *arguments, **named)

    monkeypatch.setattr(Path, "read_text", read)
    assert grades(look("network-file", NSQ_DB_URL="sqlite:////data/kamailio.db")) == [Grade.ERROR]
    assert grades(look("network-file", NSQ_DB_URL="sqlite:////var/kamailio.db")) == [Grade.OK]


def test_a_journal_that_is_not_wal(look: Look, tmp_path: Path) -> None:
    path = tmp_path / "kamailio.db"
    runs = Running(os.getpid(), ["kamailio"], None, os.geteuid())
    url = {"NSQ_DB_URL": f"sqlite:///{path}"}
    assert grades(look("wal", running=runs, **url)) == [Grade.UNKNOWN]
    for head, grade in ((b"\x01\x01", Grade.ERROR), (b"\x02\x02", Grade.OK)):
        path.write_bytes(b"SQLite format 3\0\x10\0" + head)
        assert grades(look("wal", running=runs, **url)) == [grade]
    assert look("wal", **url)[0].reason.startswith("does not apply: no Kamailio runs")
    assert look("wal", running=runs)[0].reason.startswith("does not apply: NSQ_DB_URL is")


def test_configuration_files(look: Look, tmp_path: Path) -> None:
    file = tmp_path / "kamailio.cfg"
    file.write_text('#!define NSQ_DB_URL "mysql://kamailio:hunter2@localhost/kamailio"\n')
    file.chmod(0o644)
    (found,) = look("configuration-files")
    assert (found.grade, "NSQ_DB_URL" in found.reason, "hunter2" in str(found)) == (Grade.WARNING, True, False)
    file.chmod(0o640)
    assert grades(look("configuration-files")) == [Grade.OK]
    file.write_text('modparam("auth_db", "db_url", "mysql://kamailio:hunter2@localhost/kamailio")\n')
    file.chmod(0o644)
    assert "db_url" in look("configuration-files")[0].reason
    file.write_text('#!ifdef WITH_MYSQL\n#!define DBURL "mysql://kamailio:hunter2@localhost/kamailio"\n#!endif\n')
    assert grades(look("configuration-files")) == [Grade.OK]
    file.chmod(0o646)
    assert "everybody can change" in look("configuration-files")[0].reason


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["kamailio", "-A", 'NSQ_DB_URL="mysql://a:hunter2@b/c"'], "NSQ_DB_URL in"),
        (["kamailio", "mysql://a:hunter2@b/c?x=y"], "one in"),
        (["kamailio", "-A", 'NSQ_DB_URL="mysql://a@b/c"'], "ps shows no password"),
    ],
)
def test_a_password_in_the_arguments(look: Look, arguments: list[str], said: str) -> None:
    (found,) = look("secrets", running=Running(1, arguments, None, 0))
    assert said in found.reason
    assert "hunter2" not in str(found)


def test_a_runtime_folder(look: Look, tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert grades(look("run-folder", NSQ_RUN_DIR=path)) == [Grade.OK]
    assert "cannot make NSQ_RUN_DIR" in look("run-folder", NOBODY, NSQ_RUN_DIR=path)[0].reason
    assert grades(look("run-folder", NSQ_RUN_DIR="/run/kamailio/not there/run")) == [Grade.OK]
    assert "there is no folder" in look("run-folder", NSQ_RUN_DIR="/nowhere/run")[0].reason
    path.write_text("")
    assert "is no folder" in look("run-folder", NSQ_RUN_DIR=path)[0].reason
    path.unlink()
    path.mkdir(mode=0o700)
    assert grades(look("run-folder", NSQ_RUN_DIR=path)) == [Grade.OK]
    assert "belongs to user" in look("run-folder", NOBODY, NSQ_RUN_DIR=path)[0].reason
    (path / "lock").write_text(str(os.getpid()))
    assert grades(look("run-folder", NSQ_RUN_DIR=path)) == [Grade.OK]
    with (path / "lock").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert f"pid {os.getpid()}" in look("run-folder", NSQ_RUN_DIR=path)[0].reason
        runs = Running(os.getpid(), ["kamailio"], None, os.geteuid())
        assert grades(look("run-folder", running=runs, NSQ_RUN_DIR=path)) == [Grade.OK]
    path.chmod(0o750)
    assert "open to others (mode 750)" in look("run-folder", NSQ_RUN_DIR=path)[0].reason


def test_an_outbox(look: Look, tmp_path: Path) -> None:
    assert look("outbox")[0].reason == "does not apply: NSQ_OUTBOX is empty"
    assert grades(look("outbox", NSQ_OUTBOX=tmp_path / "outbox.db")) == [Grade.OK]
    assert grades(look("outbox", NOBODY, NSQ_OUTBOX=tmp_path / "outbox.db")) == [Grade.ERROR]
    assert grades(look("outbox", NSQ_OUTBOX="/nowhere/outbox.db")) == [Grade.ERROR]


def test_what_is_not_installed_is_unknown(look: Look, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(script, "_MODULE_FOLDERS", ())
    assert grades(look("python")) == [Grade.UNKNOWN]
    module = tmp_path / "app_python3.so"
    module.write_bytes(b"...libpython3.99.so.1.0...")
    (tmp_path / "nsq.py").write_text("")
    (tmp_path / "kamailio.cfg").write_text(f'mpath="{tmp_path}"\nloadmodule "app_python3.so"\n')
    (found,) = look("python", NSQ_SCRIPT=tmp_path / "nsq.py")
    assert found.reason == "Kamailio has python3.99 inside, and there is no /usr/bin/python3.99 to try it with"
    monkeypatch.setattr(kamailio, "_PATH", "/nowhere")
    assert kamailio.release() == ()
    assert kamailio.check(tmp_path / "kamailio.cfg", {}) is None


@pytest.mark.parametrize(
    ("file", "user"), [("nowhere.cfg", ""), ("kamailio.cfg", "nobody-is-called-so"), ("kamailio.cfg", "4711")]
)
def test_a_file_or_user_that_is_not_there_is_wrong_input(tmp_path: Path, file: str, user: str) -> None:
    (tmp_path / "kamailio.cfg").write_text("")
    with pytest.raises(UsageError, match=file if file == "nowhere.cfg" else "there is no user"):
        scene(tmp_path / file, {}, user)


def test_the_user_is_that_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "kamailio.cfg").write_text("user=nobody\n")
    assert scene(tmp_path / "kamailio.cfg", {}).user.name == "nobody"
