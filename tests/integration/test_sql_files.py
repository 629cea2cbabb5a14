# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of kamailio/sql, given to the client of each database as their first lines say."""

from __future__ import annotations

import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.sqlservers import SqlServer, mariadb, postgresql

FILES = Path(__file__).parents[2] / "kamailio" / "sql"
#: Of Kamailio's schema, those that presence.cfg reads and writes.
TABLES = {"version", "subscriber", "presentity", "active_watchers", "watchers", "pua"}
#: MariaDB's client says so from 11.4 on, of a server without a password.
_OF_TLS = "WARNING: option --ssl-verify-server-cert is disabled"


def load(name: str, *client: str) -> None:
    with (FILES / name).open("rb") as file:
        done = subprocess.run(client, stdin=file, capture_output=True, text=True, check=False, timeout=60)
    said = [line for line in done.stderr.splitlines() if not line.startswith(_OF_TLS)]
    assert (done.returncode, said) == (0, [])


def address(server: SqlServer) -> tuple[str, int, str]:
    parts = urlsplit(server.kamailio_url)
    assert parts.hostname is not None
    assert parts.port is not None
    assert parts.username is not None
    return parts.hostname, parts.port, parts.username


def named(rows: list[tuple[object, ...]]) -> set[str]:
    return {str(name) for (name,) in rows}


def test_mysql() -> None:
    with mariadb() as server:
        host, port, user = address(server)
        server.execute("CREATE DATABASE fresh CHARACTER SET latin1")
        load("mysql.sql", "mysql", f"--host={host}", f"--port={port}", f"--user={user}", "fresh")
        found = server.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'fresh'")
        assert named(found) >= TABLES


def test_postgres() -> None:
    with postgresql() as server:
        host, port, user = address(server)
        server.execute("DROP SCHEMA public CASCADE")
        server.execute("CREATE SCHEMA public")
        options = ["--quiet", "--set=ON_ERROR_STOP=1", f"--host={host}", f"--port={port}", f"--username={user}"]
        load("postgres.sql", "psql", *options, "kamailio")
        found = server.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        assert named(found) >= TABLES


def test_sqlite(tmp_path: Path) -> None:
    database = tmp_path / "fresh.db"
    load("sqlite.sql", "sqlite3", str(database))
    listed = subprocess.run(["sqlite3", str(database), ".tables"], capture_output=True, text=True, check=True)
    assert {*listed.stdout.split()} >= TABLES


@pytest.mark.parametrize("file", sorted(FILES.iterdir()), ids=lambda file: file.name)
def test_each_file_is_tried(file: Path) -> None:
    assert file.stem in {"mysql", "postgres", "sqlite"}
