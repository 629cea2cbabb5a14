# SPDX-License-Identifier: GPL-2.0-or-later
"""The three databases with Kamailio's own tables, for tests of the presentity table that need no Kamailio.

The fixtures are used by the integration tests (`conftest.py` there). The servers start once for all tests, when the
first one needs them; each test finds its tables empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass

import pytest
import sqlalchemy as sa

from kemi_nsq.jsontext import JsonValue
from kemi_nsq.presence.database import sqlalchemy_url
from kemi_nsq.presence.row import Order, Row
from kemi_nsq.presence.table import PresentityTable
from tests.support import sqlservers
from tests.support.database import create_database
from tests.support.rows import event_row

DATABASES = ("sqlite", "postgresql", "mariadb")
WATCHERS_TABLE = "active_watchers"
#: NSQ_DB_TIMEOUT for tests that wait for its end. MariaDB's locks are waited for in whole seconds, at least one.
IMPATIENT_S = 2.0
#: Columns of `presentity` that the package writes, in the order of the table.
COLUMNS = (
    *("username", "domain", "event", "etag", "expires", "received_time"),
    *("body", "sender", "priority", "ruid"),
)

Values = dict[str, object]

#: The event of `made`.
_FIELDS: dict[str, JsonValue] = {
    "Event-Package": "dialog",
    "From": "sip:alice@example.com",
    "To": "sip:bob@example.com",
    "Call-ID": "call-1",
    "State": "early",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """A database with Kamailio's tables.

    Attributes:
        name: one of `DATABASES`.
        url: as SQLAlchemy writes it.
        engine: for the test's own look at the tables; each statement is committed at once.
        outage: keeps the server down while its context lasts; None for SQLite, which has no server.
        silence: keeps it from saying anything, likewise.
    """

    name: str
    url: str
    engine: sa.Engine
    outage: Callable[[], AbstractContextManager[None]] | None = None
    silence: Callable[[], AbstractContextManager[None]] | None = None

    def table(self, timeout_s: float = 5.0) -> PresentityTable:
        """Return a store with connections of its own, as each process has."""
        return PresentityTable(self.url, "presentity", WATCHERS_TABLE, timeout_s=timeout_s)

    def execute(self, statement: str, **values: object) -> None:
        """Run a statement with `:name` for the values."""
        with self.engine.connect() as connection:
            connection.execute(sa.text(statement), values)

    def rows(self, condition: str = "1 = 1", **values: object) -> list[Values]:
        """Return the presentity rows that meet a condition, in the order of their keys."""
        statement = f"SELECT {', '.join(COLUMNS)} FROM presentity WHERE {condition} ORDER BY id"
        with self.engine.connect() as connection:
            mappings = connection.execute(sa.text(statement), values).mappings()
            found = [dict(row) | {"body": bytes(row["body"])} for row in mappings]
        return sorted(found, key=lambda row: [str(row[name]) for name in COLUMNS[:4]])

    def insert(self, row: Row, **changes: object) -> None:
        """Write a row as another writer would."""
        names, values = ", ".join(COLUMNS), ", ".join(f":{name}" for name in COLUMNS)
        self.execute(f"INSERT INTO presentity ({names}) VALUES ({values})", **(columns(row) | changes))

    def watch(self, uri: str, event: str, *, number: int = 0) -> None:
        """Write a subscription as the presence module does (`subs_db_mode` 3)."""
        statement, values = subscription(uri, event, number=number)
        self.execute(statement, **values)

    def clear(self) -> None:
        """Empty the tables."""
        self.execute("DELETE FROM presentity")
        self.execute(f"DELETE FROM {WATCHERS_TABLE}")


def made(position: int = 5, message: int = 0, **fields: JsonValue) -> Row:
    """Return the row of an event; `Call_ID="x"` stands for the field `Call-ID`."""
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return event_row(_FIELDS | named, Order(position=position, message_id=f"{message:016x}"))


def subscription(uri: str, event: str, *, number: int) -> tuple[str, Values]:
    """Return the statement that writes a subscription, and its values."""
    values: Values = {
        "presentity_uri": uri,
        "event": event,
        "expires": 2_000_000_000,
        "status": 1,
        **dict.fromkeys(("local_cseq", "remote_cseq", "version", "updated", "updated_winfo", "flags"), 1),
    }
    texts = ("watcher_username", "watcher_domain", "to_user", "to_domain", "to_tag", "from_tag", "callid")
    more = ("contact", "local_contact", "socket_info", "from_user", "from_domain", "user_agent")
    values |= {name: f"{name}{number}" for name in (*texts, *more)}
    marks = ", ".join(f":{name}" for name in values)
    return f"INSERT INTO {WATCHERS_TABLE} ({', '.join(values)}) VALUES ({marks})", values


def columns(row: Row) -> Values:
    """Return what the table has for a row."""
    return {name: getattr(row, name) for name in COLUMNS}


@pytest.fixture(scope="session")
def sqlite_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    path = create_database(tmp_path_factory.mktemp("stores") / "kamailio.db")
    with _database("sqlite", f"sqlite:///{path}") as made:
        yield made


@pytest.fixture(scope="session")
def postgresql_database() -> Iterator[Database]:
    with sqlservers.postgresql() as server, _database("postgresql", server.kamailio_url, server) as made:
        yield made


@pytest.fixture(scope="session")
def mariadb_database() -> Iterator[Database]:
    with sqlservers.mariadb() as server, _database("mariadb", server.kamailio_url, server) as made:
        yield made


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest) -> Database:
    """Return each of the databases in turn, empty."""
    return emptied(request, request.param)


@pytest.fixture(params=DATABASES[1:])
def server_database(request: pytest.FixtureRequest) -> Database:
    """Return each of the databases that have a server, empty."""
    return emptied(request, request.param)


@pytest.fixture
def table(database: Database) -> Iterator[PresentityTable]:
    """Return a store on each of the databases."""
    with closing(database.table()) as made:
        yield made


def emptied(request: pytest.FixtureRequest, name: str) -> Database:
    """Return the database of this name, empty."""
    database: Database = request.getfixturevalue(f"{name}_database")
    database.clear()
    return database


@contextmanager
def _database(name: str, kamailio_url: str, server: sqlservers.SqlServer | None = None) -> Iterator[Database]:
    url = sqlalchemy_url(kamailio_url).render_as_string(hide_password=False)
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", pool_pre_ping=True)
    try:
        trouble = {"outage": server.outage, "silence": server.silence} if server else {}
        yield Database(name=name, url=url, engine=engine, **trouble)
    finally:
        engine.dispose()
