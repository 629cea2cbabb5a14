# SPDX-License-Identifier: GPL-2.0-or-later
"""The URL of a database, read as who writes it means it: Kamailio or SQLAlchemy. They look alike and differ.

In Kamailio's form each letter stands for itself, `%` too, and the last `@` ends the password (lib/srdb1/db_id.c,
`parse_db_url`; 5.6 and 6.1 differ only in that 6.0 and later let a password hold `/`, on which 5.6 fails). In
SQLAlchemy's form `%40` stands for `@`. Kamailio takes the scheme for the name of a module: there is none that
`postgresql:`, or a scheme with a driver (`mysql+pymysql:`), could mean, so these are SQLAlchemy's.

No error repeats anything of a URL: in a wrong one a password may stand anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from urllib.parse import urlsplit

#: Schemes and the SQLAlchemy dialect and driver that serve each.
DRIVERS: Mapping[str, str] = {
    "sqlite": "sqlite+pysqlite",
    "mysql": "mysql+pymysql",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
}
_KAMAILIO = ("sqlite", "mysql", "postgres")
#: A user's name holds one @ if a second one follows; a colon ends it in any case.
_USER = re.compile(r"([^@:\[/]*(?:@(?=.*@)[^@:\[/]*)?)([@:]?)", re.DOTALL)
_PLACE = re.compile(r"(?:\[([^]]*)]|([^]@:/[]+))(?::([0-9]*))?/([^?]+)(?:\?(.*))?", re.DOTALL)
_FILE = re.compile(r"/(/[^/?][^?]*)(?:\?(.*))?", re.DOTALL)
_INCOMPLETE = "it names no host, no database, or a port that is none"


@dataclass(frozen=True, slots=True, kw_only=True)
class KamailioUrl:
    """What a URL in Kamailio's form says.

    Attributes:
        scheme: `sqlite`, `mysql` or `postgres`.
        user, password: None where it has none.
        host: '' for SQLite; an IPv6 address without its brackets.
        port: None for the usual one.
        database: its name; of SQLite the absolute path of its file.
        options: what follows the `?`, as it is: Kamailio passes over it, our driver is given it. None without a `?`.
    """

    scheme: str
    user: str | None = None
    password: str | None = None
    host: str = ""
    port: int | None = None
    database: str
    options: str | None

    def __str__(self) -> str:
        """Write it for people, its password and its options hidden."""
        user = "" if self.user is None else f"{self.user}{'' if self.password is None else ':***'}@"
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{user}{host}{port}/{self.database}{'' if self.options is None else '?***'}"


def kamailio_url(url: str) -> KamailioUrl | None:
    """Read a URL in Kamailio's form; None if its scheme is another.

    Raises:
        ValueError: it names no host, no database, a port that is none, or a file by a path that is not absolute.
    """
    scheme, _, rest = url.partition(":")
    scheme = scheme.lower()
    if scheme not in _KAMAILIO:
        return None
    if scheme == "sqlite":
        file = _FILE.fullmatch(rest.removeprefix("//")) if rest.startswith("//") else None
        if file is None:
            raise ValueError("an SQLite URL names a file by its absolute path")
        return KamailioUrl(scheme=scheme, database=file[1], options=file[2])
    user, password, place = _user(rest.removeprefix("//"))
    found = _PLACE.fullmatch(place) if rest.startswith("//") else None
    if found is None or not _is_place(found[1], found[3]):
        raise ValueError(_INCOMPLETE)
    return KamailioUrl(
        scheme=scheme,
        user=user,
        password=password,
        host=found[1] or found[2],
        port=int(found[3]) if found[3] else None,
        database=found[4],
        options=found[5],
    )


def checked(url: str) -> str:
    """Return a URL in Kamailio's form as it is, one in SQLAlchemy's with our driver.

    Raises:
        ValueError: it is neither, or is not complete; the text says what is wrong.
    """
    kind = url.partition(":")[0].lower().partition("+")[0]
    if kind not in DRIVERS:
        raise ValueError(f"its scheme is none of {', '.join(DRIVERS)}")
    if kamailio_url(url) is not None:
        return url
    if kind != "sqlite":
        _check_server(url)
    elif not re.match(r"[A-Za-z+0-9]+:////[^/]", url):
        raise ValueError("an SQLite URL names a file by its absolute path")
    return f"{DRIVERS[kind]}:{url.partition(':')[2]}"


def without_secrets(url: str) -> str:
    """Write a URL that `checked` has let pass for people: its password hidden, and its options, which may hold one."""
    if (kamailios := kamailio_url(url)) is not None:
        return str(kamailios)
    place, mark, _ = re.sub(r"//([^:@/]*):[^@/]*@", r"//\1:***@", url).partition("?")
    return place + mark + "***" * bool(mark)


def _user(rest: str) -> tuple[str | None, str | None, str]:
    """Take the user and the password, if there are, from what follows `//`; return them and what is left."""
    found = _USER.match(rest)
    assert found is not None  # it matches nothing, too
    after = rest[found.end() :]
    if found[2] == "@":
        return found[1], None, after
    if found[2] == ":" and "@" in after:
        password, _, place = after.rpartition("@")
        return found[1], password, place
    return None, None, rest


def _is_place(ipv6: str | None, port: str | None) -> bool:
    if ipv6 is not None:
        try:
            IPv6Address(ipv6)
        except AddressValueError:  # a section of my.cnf, which Kamailio's driver reads (db_mysql, km_my_con.c)
            return False
    return not port or 0 < int(port) <= 0xFFFF


def _check_server(url: str) -> None:
    authority, *rest = re.split("[/?#]", url.partition("://")[2], maxsplit=1)
    if authority.count("@") > 1 or "@" in "".join(rest):
        raise ValueError(
            "in this form, SQLAlchemy's, a user or password has %40 for @, %2F for /, %3F for ?, %23 for #"
        )
    try:
        parts = urlsplit(url)
        complete = "://" in url and parts.hostname and parts.port != 0 and parts.path.strip("/")
    except ValueError:  # whose text holds a part of the URL
        complete = None
    if not complete:
        raise ValueError(_INCOMPLETE)
