# SPDX-License-Identifier: GPL-2.0-or-later
"""Real PostgreSQL and MariaDB servers with Kamailio's tables, each on a free port of loopback and in its own folder."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

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
    """

    kamailio_url: str
    execute: Callable[[str], list[tuple[object, ...]]]


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
        process = ChildProcess(
            "postgresql", [*as_user, _postgres_program("postgres"), "-D", str(data), *options], folder=folder
        )
        try:
            address = f"host={LOOPBACK} port={port} user={DATABASE}"
            until(
                lambda: _postgres(f"{address} dbname=postgres", f"CREATE DATABASE {DATABASE}") == [],
                timeout_s=START_TIMEOUT_S,
                what="PostgreSQL to start",
            )
            url = f"postgres://{DATABASE}@{LOOPBACK}:{port}/{DATABASE}"
            server = SqlServer(kamailio_url=url, execute=lambda sql: _postgres(f"{address} dbname={DATABASE}", sql))
            _create_tables(server, "postgres")
            yield server
        finally:
            process.stop()


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
        process = ChildProcess("mariadb", [find_program("mariadbd", path=_SBIN), *common, *options], folder=folder)
        try:
            until(
                lambda: _mysql(port, "", f"CREATE DATABASE {DATABASE}") == [],
                timeout_s=START_TIMEOUT_S,
                what="MariaDB to start",
            )
            server = SqlServer(
                kamailio_url=f"mysql://root@{LOOPBACK}:{port}/{DATABASE}",
                execute=lambda sql: _mysql(port, DATABASE, sql),
            )
            _create_tables(server, "mysql")
            yield server
        finally:
            process.stop()


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
    return [find_program("runuser", path=_SBIN), "-u", user, "--"] if os.getuid() == 0 else []


def _postgres_program(name: str) -> str:
    """Debian keeps each version's programs in a folder of its own, off PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    return str(versions[-1]) if versions else find_program(name)
