# SPDX-License-Identifier: GPL-2.0-or-later
"""Database URLs in Kamailio's form are read as its `parse_db_url` does, those in SQLAlchemy's as SQLAlchemy does.

What Kamailio makes of the URLs here was seen with lib/srdb1/db_id.c of 5.6.3 and 6.0.1.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemi_nsq.databaseurl import KamailioUrl, checked, kamailio_url, without_secrets
from kemi_nsq.presence.database import sqlalchemy_url

#: What follows the scheme, and the user, password, host, port and database that it names.
READ = [
    ("u:p@h/db", ("u", "p", "h", None, "db")),
    ("u@h:33/db", ("u", None, "h", 33, "db")),
    ("h/db", (None, None, "h", None, "db")),
    ("h:33/db", (None, None, "h", 33, "db")),
    ("h:/db", (None, None, "h", None, "db")),
    ("[::1]:33/db", (None, None, "::1", 33, "db")),
    ("u:p@[::1]/db", ("u", "p", "::1", None, "db")),
    ("u:@h/db", ("u", "", "h", None, "db")),
    ("u:p@ss@h/db", ("u", "p@ss", "h", None, "db")),
    ("u:p#s?s@h/db", ("u", "p#s?s", "h", None, "db")),
    ("u:p:s[s]@h/db", ("u", "p:s[s]", "h", None, "db")),
    ("u:a%41%40@h/db", ("u", "a%41%40", "h", None, "db")),
    ("u@realm:p@h/db", ("u@realm", "p", "h", None, "db")),
    ("u@realm@h/db", ("u@realm", None, "h", None, "db")),
    ("u%40x:p@h/d%20b", ("u%40x", "p", "h", None, "d%20b")),
    ("u:p/s@h/db", ("u", "p/s", "h", None, "db")),  # of 6.0; 5.6 takes u for the host, and fails
]
#: What names no host, no database, or a port that is none.
INCOMPLETE = [
    "u:p@h", "u:p@h/", "u:p@/db", "/db", "h", "u:p@h:x/db", "u:p@h:0/db", "u:p@h:65536/db", "[client]/db",
    "[client]h/db", "a@b@c@h/db", "",
]  # fmt: skip


@pytest.mark.parametrize(("place", "parts"), READ, ids=[place for place, _ in READ])
@pytest.mark.parametrize("scheme", ["mysql", "postgres"])
def test_kamailios_form_is_read_as_kamailio_reads_it(
    scheme: str, place: str, parts: tuple[str | None, str | None, str, int | None, str]
) -> None:
    url = f"{scheme}://{place}"
    read = kamailio_url(url)
    assert read is not None
    assert (read.user, read.password, read.host, read.port, read.database) == parts
    assert checked(url) == url
    made = sqlalchemy_url(url)
    assert (made.username, made.password, made.host, made.port, made.database) == parts
    assert made.drivername in ("mysql+pymysql", "postgresql+psycopg")


@pytest.mark.parametrize("place", INCOMPLETE)
def test_an_incomplete_url_is_refused(place: str) -> None:
    with pytest.raises(ValueError, match="names no host, no database, or a port"):
        checked(f"postgres://{place}")


@given(password=st.text(st.characters(codec="utf-8")))
def test_any_password_reaches_the_driver_as_it_is(password: str) -> None:
    url = sqlalchemy_url(checked(f"mysql://u:{password}@h/db"))
    ((), arguments) = url.get_dialect()().create_connect_args(url)
    assert arguments.get("password", "") == password
    assert (arguments["user"], arguments["host"], arguments["database"]) == ("u", "h", "db")


def test_what_follows_the_database_is_for_our_driver_alone() -> None:
    read = kamailio_url("postgres://u:p@h/db?sslmode=require&application_name=a%20b")
    assert read == KamailioUrl(
        scheme="postgres",
        user="u",
        password="p",
        host="h",
        database="db",
        options="sslmode=require&application_name=a%20b",
    )
    made = sqlalchemy_url("postgres://u:p@h/db?sslmode=require&application_name=a%20b")
    assert made.query == {"sslmode": "require", "application_name": "a b"}


@pytest.mark.parametrize("path", ["/tmp/kam%20x.db", "/tmp/a@b:c#d.db", "/tmp/a b.db", "/srv/lämpchen.db"])
def test_a_file_has_the_name_that_stands_there(path: str) -> None:
    assert sqlalchemy_url(checked(f"sqlite:///{path}")).database == path


@pytest.mark.parametrize(
    "url", ["sqlite:///x.db", "sqlite://x/y.db", "sqlite:////", "sqlite:x", "sqlite+pysqlite:///x"]
)
def test_a_file_without_an_absolute_path_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="absolute path"):
        checked(url)


@pytest.mark.parametrize("scheme", ["mysql+pymysql", "postgresql", "postgresql+psycopg"])
def test_sqlalchemys_form_is_decoded(scheme: str) -> None:
    made = sqlalchemy_url(checked(f"{scheme}://u%40x:p%40%2F%25@h:33/db"))
    assert (made.username, made.password, made.host, made.port, made.database) == ("u@x", "p@/%", "h", 33, "db")


@pytest.mark.parametrize("secret", ["HUN/TER2", "HUN?TER2", "HUN#TER2", "HUN@TER2"])
def test_in_sqlalchemys_form_a_password_that_would_be_cut_off_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match=r"SQLAlchemy's.*%40") as caught:
        checked(f"mysql+pymysql://user:{secret}@h/db")
    assert "TER2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mysql://u:p@s/s:x@h:33/db", "mysql://u:***@h:33/db"),
        ("postgres://u:p%40s@[::1]/db?password=p", "postgres://u:***@[::1]/db?***"),
        ("postgres://u@h/db", "postgres://u@h/db"),
        ("postgresql+psycopg://u:p%40s@h/db?password=p", "postgresql+psycopg://u:***@h/db?***"),
        ("sqlite:////srv/kamailio.db", "sqlite:////srv/kamailio.db"),
    ],
)
def test_its_secrets_are_not_shown(url: str, shown: str) -> None:
    assert without_secrets(url) == shown
