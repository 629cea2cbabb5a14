# SPDX-License-Identifier: GPL-2.0-or-later
"""What the doctor says of an SQLite file, of a script, and of what servers of NSQ say of themselves."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kemi_nsq.clock import SYSTEM
from kemi_nsq.configuration.finding import CannotLook, Check, Finding, Grade, made
from kemi_nsq.errors import ConnectionLost, ProtocolError
from kemi_nsq.names import Address, Subscription
from kemi_nsq.nsq import httpapi
from kemi_nsq.runtime.folder import RunFolder
from kemi_nsq.runtime.page import CONSUMER
from kemi_nsq.tools.doctor import database, network, script, servers
from kemi_nsq.tools.doctor.kamailio import Running
from kemi_nsq.tools.doctor.scene import Scene, scene
from kemi_nsq.tools.doctor.servers import Kind, Servers, Spoken
from tests.support.chain import SHIPPED
from tests.support.settings import wipe_environment

CHECKS: dict[str, Check[Scene]] = {check.name: check for check in (*database.CHECKS, *script.CHECKS, *network.CHECKS)}
OK, WARNING, ERROR, UNKNOWN = Grade.OK, Grade.WARNING, Grade.ERROR, Grade.UNKNOWN
TABLES = """
CREATE TABLE presentity (id INTEGER PRIMARY KEY, username, domain, event, etag, expires,
                         UNIQUE (username, domain, event, etag));
CREATE TABLE active_watchers (id);
CREATE TABLE watchers (id);
CREATE TABLE version (table_name, table_version);
INSERT INTO version VALUES ('presentity', 5), ('active_watchers', 12), ('watchers', 3);
"""
HERE = Running(os.getpid(), ["kamailio"], {}, os.geteuid())
Look = Callable[..., list[Finding]]


class Told(Servers):
    """Servers that say what a test wants; nobody else answers. The date that one has is by how much it differs."""

    def __init__(
        self,
        spoken: dict[str, Spoken] | None = None,
        stats: list[dict[str, Any]] | None = None,
        named: list[str] | None = None,
    ) -> None:
        super().__init__()
        self.spoken, self.told, self.named = spoken or {}, stats, named

    def tcp(self, address: Address, msg_timeout_s: float = 0) -> Spoken:
        return self.http(address)

    def http(self, address: Address) -> Spoken:
        if str(address) not in self.spoken:
            raise ConnectionLost(f"{address}: nobody is there")
        said = self.spoken[str(address)]
        return said if said.date is None else replace(said, date=SYSTEM.wall() + said.date)

    def nodes(self, lookupd: Address) -> list[Address]:
        if self.named is None:
            raise ProtocolError(f"{lookupd}: it is none")
        return [Address(name, 4150) for name in self.named]

    http_nodes = nodes

    def stats(self, nsqd: Address) -> list[dict[str, Any]]:
        if self.told is None:
            raise ConnectionLost(f"{nsqd}: nobody is there")
        return self.told


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """Return a function that makes a check of a configuration with some defines."""
    wipe_environment(monkeypatch)
    (tmp_path / "kamailio.cfg").write_text('loadmodule "app_python3.so"\n')

    def look(
        name: str,
        told: Servers | None = None,
        running: Running | None = None,
        perhaps: Sequence[int] = (),
        **defines: object,
    ) -> list[Finding]:
        found = scene(tmp_path / "kamailio.cfg", {each: f'"{value}"' for each, value in defines.items()})
        changed = Scene(
            text=found.text,
            given=found.given,
            running=running,
            user=found.user,
            environment=found.environment,
            servers=told or Servers(),
            perhaps=perhaps,
        )
        return made(CHECKS[name], changed)

    return look


def grades(found: list[Finding]) -> list[Grade]:
    """Return how bad what was found is."""
    return [finding.grade for finding in found]


# An SQLite file


@pytest.mark.parametrize(
    ("change", "name", "found"),
    [
        ("", "database", [OK]),
        ("", "tables", [OK]),
        ("", "unique-index", [OK]),
        ("DROP TABLE watchers", "tables", [ERROR]),
        ("DROP TABLE version", "tables", [ERROR]),
        ("UPDATE version SET table_version = 1", "tables", [ERROR] * 3),
        ("DELETE FROM version WHERE table_name = 'watchers'", "tables", [ERROR]),
        ("INSERT INTO version VALUES ('watchers', 3)", "tables", [ERROR]),
        ("DROP TABLE presentity; CREATE TABLE presentity (id UNIQUE)", "unique-index", [ERROR]),
        ("", "letters", [OK]),
        ("", "database-rights", [OK]),
    ],
)
def test_tables_of_a_file(look: Look, tmp_path: Path, change: str, name: str, found: list[Grade]) -> None:
    path = tmp_path / "kamailio.db"
    with closing(sqlite3.connect(path)) as file:
        file.executescript(TABLES + change)
    before = path.read_bytes()
    assert grades(look(name, NSQ_DB_URL=f"sqlite:///{path}")) == found
    assert (path.read_bytes(), len(list(tmp_path.iterdir()))) == (before, 2), "the doctor has written"


def test_a_file_that_is_no_database_or_not_there(look: Look, tmp_path: Path) -> None:
    path = tmp_path / "kamailio.db"
    url = {"NSQ_DB_URL": f"sqlite:///{path}"}
    assert grades(look("database", **url)) == [ERROR]
    assert grades(look("tables", **url)) == grades(look("unique-index", **url)) == [UNKNOWN]
    assert look("database", running=HERE, **url)[0].mend.endswith("; then restart Kamailio")
    mend = look("database", **url)[0].mend
    assert mend.startswith("sudo -u ")
    assert mend.endswith(f""" sh -c 'umask 027; sqlite3 {path} ".read {SHIPPED}/sql/sqlite.sql"'""")
    assert grades(look("wal", running=HERE, **url)) == [UNKNOWN]
    path.write_text("something else " * 100)
    (found,) = look("database", **url)
    assert (found.grade, found.reason) == (ERROR, f"NSQ_DB_URL: {path} is no SQLite database")
    assert ("restore it" in found.mend, "restart Kamailio" in found.mend, "password" in found.mend) == (1, 1, 0)
    assert grades(look("tables", **url)) == grades(look("wal", running=HERE, **url)) == [UNKNOWN]
    path.write_bytes(b"")
    assert grades(look("database", **url)) == [OK]
    assert grades(look("wal", running=HERE, **url)) == [ERROR]
    path.unlink()
    path.mkdir()
    (found,) = look("database", **url)
    assert (found.grade, "password" in found.mend) == (ERROR, False)
    assert look("database")[0].reason == "does not apply: NSQ_DB_URL is not set"


def test_a_database_that_we_may_not_open_is_not_called_broken(
    look: Look, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "kamailio.db"
    path.write_bytes(b"")
    url = {"NSQ_DB_URL": f"sqlite:///{path}"}
    closed = sqlite3.OperationalError("unable to open database file")
    closed.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN

    def connect(*_: object, **__: object) -> sqlite3.Connection:
        raise closed

    monkeypatch.setattr(sqlite3, "connect", connect)
    monkeypatch.setattr(database, "_may_open", lambda _path: True)
    assert grades(look("database", **url)) == [ERROR]
    monkeypatch.setattr(database, "_may_open", lambda _path: False)
    for name in ("database", "tables", "unique-index"):
        (found,) = look(name, **url)
        assert (found.grade, found.reason) == (UNKNOWN, f"you may not look at {path}")


@pytest.mark.parametrize(
    ("url", "rows", "found"),
    [
        ("postgres://a@b/c", [("SQL_ASCII",)], [WARNING]),
        ("postgres://a@b/c", [("UTF8",)], [OK]),
        (
            "mysql://a@b/c",
            [("presentity", "ascii", "ascii_bin"), ("active_watchers", "ascii", "ascii_bin")],
            [WARNING] * 2,
        ),
        ("mysql://a@b/c", [("presentity", "latin1", "x"), ("active_watchers", "latin1", "y")], [WARNING]),
        ("mysql+pymysql://a@b/c", [], [OK]),
    ],
)
def test_letters_of_servers(
    look: Look, monkeypatch: pytest.MonkeyPatch, url: str, rows: list[tuple[str, ...]], found: list[Grade]
) -> None:
    monkeypatch.setattr(database, "_select", lambda *_: rows)
    assert grades(look("letters", NSQ_DB_URL=url)) == found


def test_a_user_without_rights(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    def select(_scene: Scene, sql: str) -> list[tuple[object, ...]]:
        if sql.startswith("UPDATE"):
            raise CannotLook("permission denied")
        return []

    monkeypatch.setattr(database, "_select", select)
    (found,) = look("database-rights", NSQ_DB_URL="postgres://a@b/c")
    assert found.reason == "the user of NSQ_DB_URL cannot UPDATE in presentity: permission denied"


# A script


def done(code: int = 0, output: str = "", errors: str = "") -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return what stands for a program that ends so."""
    return lambda *_, **__: subprocess.CompletedProcess([], code, output, errors)


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        (
            done(1, errors="Traceback\nModuleNotFoundError: No module named 'lxml'\n"),
            "cannot load kemi-nsq: ModuleNotFound",
        ),
        (done(1), "it says nothing"),
        (done(output="0.0.1\n"), "Kamailio loads kemi-nsq 0.0.1, and this command is of"),
    ],
)
def test_a_package_that_kamailio_cannot_load(
    look: Look, monkeypatch: pytest.MonkeyPatch, ended: Callable[..., object], said: str
) -> None:
    monkeypatch.setattr(script, "_interpreter", lambda _scene: "python3")
    monkeypatch.setattr(subprocess, "run", ended)
    assert said in look("python", NSQ_SCRIPT=SHIPPED / "nsq.py")[0].reason


def test_what_nsq_py_says_is_to_be_done_is_the_mend(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "kemi-nsq cannot be loaded by Kamailio's python3 (ImportError('a; b'))"
    monkeypatch.setattr(script, "_interpreter", lambda _scene: "python3")
    monkeypatch.setattr(subprocess, "run", done(1, errors=f"{said}; run `make setup`\n"))
    assert look("python", NSQ_SCRIPT=SHIPPED / "nsq.py") == [Finding(ERROR, said, "run `make setup`")]


def test_a_trial_that_does_not_end(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("python3", 1)

    monkeypatch.setattr(script, "_interpreter", lambda _scene: "python3")
    monkeypatch.setattr(subprocess, "run", run)
    assert grades(look("python", NSQ_SCRIPT=SHIPPED / "nsq.py")) == [UNKNOWN]


def test_a_script_without_nsq_py_beside_it(look: Look, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(script, "_interpreter", lambda _scene: "python3")
    (tmp_path / "routes.py").write_text("")
    assert "no nsq.py lies beside" in look("python", NSQ_SCRIPT=tmp_path / "routes.py")[0].reason
    assert "there is no such file" in look("script", NSQ_SCRIPT=tmp_path / "nowhere.py")[0].reason


def test_kamailios_python_is_found_in_its_module(look: Look) -> None:
    """Debian's package is installed where tests run; what it has inside is a release of Python 3."""
    (found,) = look("python", NSQ_SCRIPT=SHIPPED / "nsq.py")
    assert found.grade in (OK, UNKNOWN)


# What servers say


def channel(**fields: object) -> list[dict[str, Any]]:
    """Return the statistics of a nsqd that has our topic and channel."""
    return [{"topic_name": "kamailio", "channels": [{"channel_name": "kamailio", **fields}]}]


def reader(agent: str = "kemi-nsq/0.1.0", hostname: str = "localhost") -> dict[str, str]:
    """Return a client of a channel."""
    return {"client_id": "x", "hostname": hostname, "remote_address": "192.0.2.1:1", "user_agent": agent}


NSQD, HTTP = "127.0.0.1:4150", "127.0.0.1:4151"
NSQD_HTTP = Spoken(kind=Kind.NSQD_HTTP, info={"tcp_port": 4150}, date=0.0)


@pytest.mark.parametrize(
    ("name", "told", "defines", "found"),
    [
        ("nsqd-tcp", Told(), {}, [ERROR]),
        ("nsqd-tcp", Told({NSQD: Spoken(kind=Kind.NSQD)}), {}, [OK]),
        ("nsqd-tcp", Told({NSQD: Spoken(kind=Kind.HTTP)}), {}, [ERROR]),
        ("nsqd-http", Told(), {}, [ERROR]),
        ("nsqd-http", Told({HTTP: NSQD_HTTP}), {}, [OK]),
        ("nsqlookupd", Told({HTTP: NSQD_HTTP}), {"NSQ_LOOKUPD_ADDRESS": HTTP}, [ERROR]),
        ("announced", Told(named=None), {"NSQ_LOOKUPD_ADDRESS": HTTP}, [UNKNOWN]),
        ("announced", Told(named=[]), {"NSQ_LOOKUPD_ADDRESS": HTTP}, [ERROR]),
        ("announced", Told(named=["a"]), {"NSQ_LOOKUPD_ADDRESS": HTTP}, [ERROR]),
        ("announced", Told({"a:4150": Spoken(kind=Kind.HTTP)}, named=["a"]), {"NSQ_LOOKUPD_ADDRESS": HTTP}, [ERROR]),
        ("announced", Told({"a:4150": Spoken(kind=Kind.NSQD)}, named=["a"]), {"NSQ_LOOKUPD_ADDRESS": HTTP}, [OK]),
        ("one-nsqd", Told(), {}, [UNKNOWN]),
        ("one-nsqd", Told({HTTP: Spoken(kind=Kind.NSQD)}), {}, [UNKNOWN]),
        ("one-nsqd", Told({HTTP: NSQD_HTTP}), {}, [OK]),
        ("one-nsqd", Told({HTTP: NSQD_HTTP}), {"NSQ_NSQD_TCP_ADDRESS": "127.0.0.1:1"}, [WARNING]),
        ("one-nsqd", Told(), {"NSQ_LOOKUPD_ADDRESS": HTTP}, [OK]),
        ("msg-timeout", Told(), {}, [UNKNOWN]),
        ("msg-timeout", Told({NSQD: Spoken(kind=Kind.NSQD, refused="E_BAD_BODY")}), {}, [ERROR]),
        ("clocks", Told(), {}, [UNKNOWN]),
        ("clocks", Told({HTTP: Spoken(kind=Kind.NSQD)}), {}, [UNKNOWN]),
        ("clocks", Told({HTTP: NSQD_HTTP}), {}, [OK]),
        ("clocks", Told({HTTP: Spoken(kind=Kind.NSQD_HTTP, date=3600.0)}), {}, [WARNING]),
        ("clocks", Told(named=None), {"NSQ_LOOKUPD_ADDRESS": HTTP}, [UNKNOWN]),
        ("topics", Told(), {}, [UNKNOWN]),
        ("topics", Told(stats=[]), {}, [OK]),
        ("topics", Told(stats=[{"topic_name": "Kamailio"}]), {}, [WARNING]),
        ("topics", Told(stats=channel(paused=True)), {}, [ERROR]),
        ("channel", Told(), {}, [UNKNOWN]),
        ("channel", Told(stats=channel(clients=[reader()])), {"NSQ_NODE": "localhost"}, [OK]),
        ("channel", Told(stats=channel(clients=[reader("go-nsq/1")])), {}, [ERROR]),
        ("channel", Told(stats=channel(clients=[reader(hostname="b")])), {"NSQ_DB_URL": "sqlite:////x"}, [ERROR]),
        ("channel", Told(stats=channel(clients=[reader(hostname="b")])), {"NSQ_DB_URL": "mysql://a@b/c"}, [OK]),
        ("replies", Told(), {}, [UNKNOWN]),
        ("replies", Told(stats=[]), {}, [OK]),
    ],
)
def test_what_servers_say(look: Look, name: str, told: Told, defines: dict[str, str], found: list[Grade]) -> None:
    assert grades(look(name, told, **defines)) == found


def kamailio_beside(node: str, *pids: int) -> Told:
    """Return a nsqd whose channel is read by consumers with these process ids."""
    clients = [reader(hostname=node) | {"client_id": f"kamailio-{pid}-0a1b2c3d"} for pid in pids]
    return Told(stats=channel(clients=clients))


def test_another_kamailio_of_this_node_takes_events_from_our_channel(look: Look, tmp_path: Path) -> None:
    ours = {"NSQ_NODE": "a", "NSQ_DB_URL": "sqlite:////x", "NSQ_RUN_DIR": tmp_path / "run"}
    folder = RunFolder(tmp_path / "run", uid=os.geteuid(), gid=os.getegid())
    folder.page.role(CONSUMER)
    assert grades(look("channel", kamailio_beside("a", os.getpid()), HERE, **ours)) == [OK]
    (found,) = look("channel", kamailio_beside("a", os.getpid(), os.getppid()), HERE, **ours)
    assert found.grade is ERROR
    assert found.reason.startswith(f"kamailio-{os.getppid()}-0a1b2c3d of a (192.0.2.1:1) shares kamailio:kamailio with")
    folder.page.role("")
    assert grades(look("channel", kamailio_beside("a", os.getpid()), HERE, **ours)) == [ERROR]
    assert grades(look("channel", kamailio_beside("a", 1), HERE, **ours | {"NSQ_DB_URL": "mysql://a@b/c"})) == [OK]


def test_before_the_first_start_every_consumer_of_our_channel_is_a_stranger(look: Look, tmp_path: Path) -> None:
    ours = {"NSQ_NODE": "a", "NSQ_DB_URL": "sqlite:////x", "NSQ_RUN_DIR": tmp_path / "run"}
    assert grades(look("channel", kamailio_beside("a"), **ours)) == [OK]
    assert grades(look("channel", kamailio_beside("a", 1), **ours)) == [ERROR]


def test_which_consumers_are_ours_is_unknown_without_the_runtime_folder(look: Look, tmp_path: Path) -> None:
    ours = {"NSQ_NODE": "a", "NSQ_DB_URL": "sqlite:////x", "NSQ_RUN_DIR": tmp_path / "run"}
    assert grades(look("channel", kamailio_beside("a", 1), HERE, **ours)) == [OK]
    (found,) = look("channel", kamailio_beside("a", 1, 2), HERE, **ours)
    assert (found.grade, str(tmp_path / "run") in found.reason) == (UNKNOWN, True)
    both = Told(stats=channel(clients=[reader(hostname="a"), reader(hostname="a"), reader(hostname="b")]))
    assert grades(look("channel", both, HERE, **ours)) == [UNKNOWN, ERROR]
    (tmp_path / "run").write_text("no folder")
    assert grades(look("channel", kamailio_beside("a", 1, 2), **ours)) == [UNKNOWN]
    ours["NSQ_RUN_DIR"] = tmp_path / "run" / "below"
    assert grades(look("channel", kamailio_beside("a", 1, 2), **ours)) == [UNKNOWN]


def test_no_kamailio_that_may_be_this_one_is_accused_of_its_identity(look: Look, tmp_path: Path) -> None:
    beside = {"client_id": "kamailio-17-0a1b2c3d", "remote_address": "127.0.0.1:5"}

    class Answered(Told):
        def readers(self, nsqd: Address, subscription: Subscription) -> list[dict[str, Any]]:
            return [beside] * number

    number, ours = 1, {"NSQ_RUN_DIR": tmp_path / "run"}
    (found,) = look("replies", Answered(), **ours)
    assert (found.grade, "end it" in found.mend) == (ERROR, False)
    assert grades(look("replies", Answered(), HERE, **ours)) == [OK]
    (found,) = look("replies", Answered(), perhaps=[17], **ours)
    assert (found.grade, "another Kamailio" in found.reason) == (UNKNOWN, False)
    number = 2
    assert grades(look("replies", Answered(), perhaps=[17], **ours)) == [ERROR]
    assert grades(look("replies", Answered(), HERE, **ours)) == [ERROR]


def test_a_nsqd_by_http_is_needed_to_publish_by_http_alone(look: Look) -> None:
    refused = ConnectionLost("127.0.0.1:4151: Connection refused")

    class Away(Told):
        def http(self, address: Address) -> Spoken:
            raise refused

    assert grades(look("nsqd-http", Away())) == [WARNING]
    assert grades(look("nsqd-http", Away(), NSQ_PUBLISH_TRANSPORT="http")) == [ERROR]


@pytest.mark.parametrize(
    ("stats", "lookupd", "found"),
    [
        (channel(clients=[reader()]), "", [OK]),
        (channel(clients=[]), "", [ERROR]),
        ([], "", [ERROR]),
        ([], HTTP, [OK]),
    ],
)
def test_a_kamailio_that_runs_consumes(
    look: Look, stats: list[dict[str, Any]], lookupd: str, found: list[Grade]
) -> None:
    told = Told(stats=stats, named=["a"])
    assert grades(look("topics", told, HERE, NSQ_LOOKUPD_ADDRESS=lookupd)) == found


def test_ports_that_are_open_to_all(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_listening", lambda: {4150})
    assert grades(look("open-ports")) == [WARNING]
    assert grades(look("open-ports", NSQ_NSQD_TCP_ADDRESS="192.0.2.1:4150")) == [OK]


def test_who_does_not_speak_http_or_nsq_is_no_server_of_nsq(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"/info": b"[]", "/stats": b"{}"}

    def get(_address: Address, path: str, **_: object) -> httpapi.Answer:
        return httpapi.Answer(status=200, headers={}, body=answers[path])

    monkeypatch.setattr(httpapi, "get", get)
    address = Address("a", 1)
    assert Servers().http(address).kind is Kind.HTTP
    answers["/info"] = b"no JSON"
    assert Servers().http(address).kind is Kind.HTTP
    asked = Servers()
    for _ in range(2):
        with pytest.raises(ProtocolError, match="/stats answered without any"):
            asked.stats(address)
    answers["/stats"] = b'{"topics": [{"topic_name": "t", "channels": [{"channel_name": "c", "clients": [{"a": 1}]}]}]}'
    assert Servers().readers(address, Subscription("t", "c")) == [{"a": 1}]
    assert Servers().readers(address, Subscription("t", "d")) == []


class Chattering:
    """A connection whose other end says the same again and again."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __call__(self, *_: object) -> Chattering:
        return self

    def send_all(self, *_: object) -> None:
        """Take it."""

    def receive(self, *_: object) -> bytes:
        """Say it."""
        return self._data

    def close(self) -> None:
        """End."""


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", Kind.HTTP),
        (b"\0\0\0\x12\0\0\0\x01E_BAD_PROTOCOL", Kind.LOOKUPD),
        (b"220 mail.example ESMTP\r\n", Kind.OTHER),
        (b"\0\0\x10\0\0\0\0\0", Kind.OTHER),
        (b"\0\0\0\x06\0\0\0\0OK", Kind.OTHER),
    ],
)
def test_a_port_is_known_by_what_it_says(monkeypatch: pytest.MonkeyPatch, data: bytes, kind: Kind) -> None:
    monkeypatch.setattr(servers, "BlockingSocket", Chattering(data))
    assert Servers().tcp(Address("a", 1)).kind is kind


@pytest.mark.parametrize(
    ("addresses", "defines", "found"),
    [
        ([("192.0.2.1",)], {"NSQ_SUBSCRIPTIONS_IN_MEMORY": 1}, WARNING),
        ([], {"NSQ_SUBSCRIPTIONS_IN_MEMORY": 1}, OK),
        ([("192.0.2.1",)], {}, OK),
        ([("192.0.2.1",)], {"NSQ_SUBSCRIPTIONS_IN_MEMORY": 1, "NSQ_DB_URL": "sqlite:////x.db"}, OK),
    ],
    ids=["two nodes", "one node", "subscriptions in the database", "SQLite"],
)
def test_a_second_node_is_seen_where_subscriptions_are_in_memory(
    look: Look,
    monkeypatch: pytest.MonkeyPatch,
    addresses: list[tuple[str]],
    defines: dict[str, object],
    found: Grade,
) -> None:
    monkeypatch.setattr(database, "_asked", lambda *_arguments: [("192.0.2.2",), *addresses])
    (finding,) = look("one-node", **{"NSQ_DB_URL": "postgres://a:b@db/c", **defines})
    assert finding.grade is found
    assert found is OK or "from 192.0.2.1 and 192.0.2.2" in finding.reason
