# SPDX-License-Identifier: GPL-2.0-or-later
"""Real PostgreSQL and MariaDB servers with Kamailio's tables, each on a free port of loopback and in its own folder."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psycopg
import pymysql
from pymysql.constants import CLIENT

from tests.support.database import SCHEMAS, share_folder
from tests.support.ports import LOOPBACK, free_tcp_port
from tests.support.process import ChildProcess, find_program
from tests.support.until import until

DATABASE = "kamailio"
START_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlServer:
    """A running server.

    Attributes:
        kamailio_url: its URL as Kamailio writes it; NSQ_DB_URL takes it too.
        execute: runs SQL statements and returns the rows of the last.
        outage: ends the server as a crash would, and keeps it down while its context lasts.
        silence: lets the server say nothing while its context lasts, with its connections open.
    """

    kamailio_url: str
    execute: Callable[[str], list[tuple[object, ...]]]
    outage: Callable[[], AbstractContextManager[None]]
    silence: Callable[[], AbstractContextManager[None]]


@contextmanager
def postgresql() -> Iterator[SqlServer]:
    """Start PostgreSQL. It refuses to run as root, so then it runs as Debian's user `postgres`."""
    with _folder("postgres") as (folder, user):
        data, port, as_user = folder / "data", free_tcp_port(), _as_user(user)
        subprocess.run(
            [*as_user, _postgres_program("initdb"), "-D", data, "-U", DATABASE, "-A", "trust", "-E", "UTF8"],
            check=True,
            capture_output=True,
            cwd=folder,
        )
        options = [f"-clisten_addresses={LOOPBACK}", f"-cport={port}", f"-cunix_socket_directories={folder}"]
        command = [*as_user, _postgres_program("postgres"), "-D", str(data), *options]
        address = f"host={LOOPBACK} port={port} user={DATABASE}"
        with _Program(
            "postgresql", command, folder, lambda: _postgres(f"{address} dbname=postgres", "SELECT 1")
        ) as run:
            _postgres(f"{address} dbname=postgres", f"CREATE DATABASE {DATABASE}")
            server = SqlServer(
                kamailio_url=f"postgres://{DATABASE}@{LOOPBACK}:{port}/{DATABASE}",
                execute=lambda sql: _postgres(f"{address} dbname={DATABASE}", sql),
                outage=run.outage,
                silence=run.silence,
            )
            _create_tables(server, "postgres")
            yield server


@contextmanager
def mariadb() -> Iterator[SqlServer]:
    """Start MariaDB, as the user that runs the tests."""
    with _folder(pwd.getpwuid(os.getuid()).pw_name) as (folder, user):
        data, port = folder / "data", free_tcp_port()
        common = ["--no-defaults", f"--datadir={data}", f"--user={user}"]
        subprocess.run(
            [find_program("mariadb-install-db"), *common, "--auth-root-authentication-method=normal", "--skip-test-db"],
            check=True,
            capture_output=True,
            cwd=folder,
        )
        options = [
            f"--port={port}",
            f"--bind-address={LOOPBACK}",
            f"--socket={folder}/socket",
            f"--pid-file={folder}/pid",
        ]
        command = [find_program("mariadbd", path=_SBIN), *common, *options]
        with _Program("mariadb", command, folder, lambda: _mysql(port, "", "SELECT 1")) as run:
            # As Kamailio's kamdbctl makes it; newer releases of MariaDB have utf8mb4 as their default.
            _mysql(port, "", f"CREATE DATABASE {DATABASE} CHARACTER SET latin1")
            server = SqlServer(
                kamailio_url=f"mysql://root@{LOOPBACK}:{port}/{DATABASE}",
                execute=lambda sql: _mysql(port, DATABASE, sql),
                outage=run.outage,
                silence=run.silence,
            )
            _create_tables(server, "mysql")
            yield server


class _Program:
    """A server's process, which can be ended and started again."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, answers: Callable[[], object]) -> None:
        self._name, self._command, self._folder, self._answers = name, command, folder, answers
        self._process: ChildProcess | None = None

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    @contextmanager
    def outage(self) -> Iterator[None]:
        if self._process is not None:
            self._process.kill()
        try:
            yield
        finally:
            self._start()

    @contextmanager
    def silence(self) -> Iterator[None]:
        assert self._process is not None
        self._process.freeze()
        try:
            yield
        finally:
            self._process.thaw()

    def _start(self) -> None:
        self._process = ChildProcess(self._name, self._command, folder=self._folder)
        try:
            until(self._answers, timeout_s=START_TIMEOUT_S, what=f"{self._name} to start")
        except BaseException:
            self._stop()
            raise

    def _stop(self) -> None:
        if self._process is not None:
            self._process.stop()


_SBIN = f"{os.environ['PATH']}:/usr/sbin:/sbin"


def _create_tables(server: SqlServer, dialect: str) -> None:
    for name in SCHEMAS:
        server.execute(share_folder(dialect).joinpath(name).read_text(encoding="utf-8"))


def _postgres(address: str, sql: str) -> list[tuple[object, ...]]:
    with psycopg.connect(address, autocommit=True) as connection:
        cursor = connection.execute(sql)
        return cursor.fetchall() if cursor.description else []


def _mysql(port: int, database: str, sql: str) -> list[tuple[object, ...]]:
    options = {"host": LOOPBACK, "port": port, "user": "root", "database": database, "autocommit": True}
    with closing(pymysql.connect(**options, client_flag=CLIENT.MULTI_STATEMENTS)) as connection:
        cursor = connection.cursor()
        cursor.execute(sql)
        rows = list(cursor.fetchall())
        while cursor.nextset():
            rows = list(cursor.fetchall())
        return rows


@contextmanager
def _folder(user: str) -> Iterator[tuple[Path, str]]:
    """Make a folder that belongs to `user`, if we may choose, outside pytest's folders, which others cannot enter."""
    folder = Path(tempfile.mkdtemp(prefix="kemi-nsq-"))
    try:
        if os.getuid() == 0:
            shutil.chown(folder, user)
        yield folder, user
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _as_user(user: str) -> list[str]:
    # Unlike runuser and su, it becomes the program, which then gets our signals itself.
    change = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    return [find_program(change[0]), *change[1:]] if os.getuid() == 0 else []


def _postgres_program(name: str) -> str:
    """Debian keeps each version's programs in a folder of its own, off PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    return str(versions[-1]) if versions else find_program(name)
