# SPDX-License-Identifier: GPL-2.0-or-later
"""`kemi-nsq doctor` beside servers: nsqd and nsqlookupd, MariaDB and PostgreSQL; Kamailio is installed and not run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from kemi_nsq.names import Subscription, address
from kemi_nsq.tools.reader import Reader
from tests.support.chain import CHANNEL
from tests.support.doctored import SetUp, examine
from tests.support.kamailio import quoted
from tests.support.nsqd import Nsqd, Nsqlookupd
from tests.support.ports import LOOPBACK, free_tcp_port
from tests.support.shifted import ShiftedNsqd
from tests.support.sqlservers import SqlServer, mariadb, postgresql
from tests.support.until import until

OURS = str(Path(sys.executable).with_name("kemi-nsq"))


@pytest.fixture(scope="module")
def nsqd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nsqd]:
    """Run a nsqd that allows little."""
    with Nsqd(tmp_path_factory.mktemp("nsqd"), max_msg_timeout="20s") as nsqd:
        yield nsqd


@pytest.fixture
def setup(nsqd: Nsqd, tmp_path: Path) -> SetUp:
    """Return a good set-up."""
    return SetUp(folder=tmp_path, nsqd=nsqd)


def unknown(*checks: str) -> dict[str, str]:
    """Return what cannot be looked at."""
    return dict.fromkeys(checks, "unknown")


# NSQ


def test_a_nsqd_that_is_away(setup: SetUp) -> None:
    nowhere = quoted(f"{LOOPBACK}:{free_tcp_port()}")
    setup.defines |= {"NSQ_NSQD_TCP_ADDRESS": nowhere, "NSQ_NSQD_ADDRESS": nowhere}
    examined = examine(setup.write())
    rest = unknown("one-nsqd", "msg-timeout", "clocks", "topics", "channel", "replies")
    assert (examined.found, examined.code) == ({"nsqd-tcp": "error", "nsqd-http": "warning"} | rest, 2)
    assert "Connection refused" in examined.reasons("nsqd-tcp")[0]


def test_two_nsqd_where_one_is_meant(setup: SetUp, tmp_path: Path) -> None:
    with Nsqd(tmp_path / "other") as other:
        setup.defines["NSQ_NSQD_ADDRESS"] = quoted(other.http_address)
        examined = examine(setup.write())
    assert (examined.found, examined.code) == ({"one-nsqd": "warning"}, 1)


def test_a_nsqd_that_allows_less(setup: SetUp) -> None:
    setup.defines["NSQ_MSG_TIMEOUT"] = "60"
    examined = examine(setup.write())
    assert (examined.found, examined.code) == ({"msg-timeout": "error"}, 2)
    assert "E_BAD_BODY" in examined.reasons("msg-timeout")[0]


def test_a_nsqd_whose_clock_is_wrong(setup: SetUp, nsqd: Nsqd) -> None:
    with ShiftedNsqd(nsqd) as shifted:
        shifted.shift_s = -3600
        setup.defines["NSQ_NSQD_ADDRESS"] = quoted(shifted.http_address)
        examined = examine(setup.write())
    assert (examined.found, examined.code) == ({"clocks": "warning"}, 1)
    assert " s behind ours" in examined.reasons("clocks")[0]


def test_a_nsqd_that_is_open_to_the_world(setup: SetUp, tmp_path: Path) -> None:
    port = free_tcp_port()
    with Nsqd(tmp_path / "open", tcp_address=f"0.0.0.0:{port}") as opened:
        setup.defines |= {
            "NSQ_NSQD_TCP_ADDRESS": quoted(f"{LOOPBACK}:{port}"),
            "NSQ_NSQD_ADDRESS": quoted(opened.http_address),
        }
        examined = examine(setup.write())
    assert (examined.found, examined.code) == ({"open-ports": "warning"}, 1)
    assert str(port) in examined.reasons("open-ports")[0]


def test_a_stranger_that_reads_our_channel(setup: SetUp, nsqd: Nsqd) -> None:
    setup.defines["NSQ_LISTEN_TOPIC"] = '"strangers"'
    with closing(Reader(address(nsqd.tcp_address), Subscription("strangers", CHANNEL))):
        examined = examine(setup.write())
    assert (examined.found, examined.code) == ({"channel": "error"}, 2)


def test_a_channel_that_is_paused(setup: SetUp, nsqd: Nsqd) -> None:
    setup.defines["NSQ_LISTEN_TOPIC"] = '"resting"'
    nsqd.create_topic("resting")
    nsqd.create_channel("resting", CHANNEL)
    nsqd.http("POST", "/channel/pause", topic="resting", channel=CHANNEL)
    examined = examine(setup.write())
    assert (examined.found, examined.code) == ({"topics": "error"}, 2)


@contextmanager
def discovered(setup: SetUp, folder: Path, **options: str) -> Iterator[Nsqlookupd]:
    """Run a nsqlookupd, and a nsqd that announces itself there; let the set-up find its nsqd by it."""
    with (
        Nsqlookupd(folder / "lookupd") as lookupd,
        Nsqd(folder / "found", lookupd_tcp_address=lookupd.tcp_address, **options),
    ):
        setup.defines["NSQ_LOOKUPD_ADDRESS"] = quoted(lookupd.http_address)
        until(lambda: b"tcp_port" in lookupd.http("GET", "/nodes"), what="the nsqd to be known")
        yield lookupd


def test_nothing_is_said_of_discovery_that_works(setup: SetUp, tmp_path: Path) -> None:
    with discovered(setup, tmp_path, broadcast_address=LOOPBACK):
        examined = examine(setup.write())
    assert (examined.found, examined.code) == ({}, 0)


def test_a_nsqd_that_announces_what_nobody_reaches(setup: SetUp, tmp_path: Path) -> None:
    with discovered(setup, tmp_path, broadcast_address="nsqd.invalid"):
        examined = examine(setup.write())
    assert examined.found == {"announced": "error"} | unknown("clocks", "topics", "channel", "replies")
    assert "nsqd.invalid" in examined.reasons("announced")[0]
    assert examined.code == 2


def test_a_nsqlookupd_that_knows_no_nsqd(setup: SetUp, tmp_path: Path) -> None:
    with Nsqlookupd(tmp_path / "lookupd") as lookupd:
        setup.defines["NSQ_LOOKUPD_ADDRESS"] = quoted(lookupd.http_address)
        examined = examine(setup.write())
    assert (examined.found, examined.code) == ({"announced": "error"}, 2)


@pytest.mark.parametrize("port", ["tcp_address", "nsqd"])
def test_the_wrong_port_for_nsqlookupd(setup: SetUp, tmp_path: Path, port: str) -> None:
    with Nsqlookupd(tmp_path / "lookupd") as lookupd:
        setup.defines["NSQ_LOOKUPD_ADDRESS"] = quoted(
            setup.nsqd.http_address if port == "nsqd" else lookupd.tcp_address
        )
        examined = examine(setup.write())
    rest = unknown("announced", "clocks", "topics", "channel", "replies")
    assert (examined.found, examined.code) == ({"nsqlookupd": "error"} | rest, 2)


# Databases


def served(setup: SetUp, server: SqlServer, kind: str) -> None:
    """Have the set-up on a database server."""
    setup.defines["NSQ_DB_URL"] = quoted(server.kamailio_url)
    setup.defines[f"SIP_DB_{kind}"] = ""


@pytest.fixture(scope="module")
def maria() -> Iterator[SqlServer]:
    """Run MariaDB with Kamailio's tables."""
    with mariadb() as server:
        yield server


@pytest.fixture(scope="module")
def postgres() -> Iterator[SqlServer]:
    """Run PostgreSQL with Kamailio's tables."""
    with postgresql() as server:
        yield server


def test_nothing_is_said_of_mariadb(setup: SetUp, maria: SqlServer) -> None:
    served(setup, maria, "MYSQL")
    examined = examine(setup.write())
    assert (examined.found, examined.code) == ({}, 0)


def test_nothing_is_said_of_postgresql(setup: SetUp, postgres: SqlServer) -> None:
    served(setup, postgres, "POSTGRES")
    examined = examine(setup.write())
    assert (examined.found, examined.code) == ({}, 0)


def test_tables_that_presence_locks(setup: SetUp, maria: SqlServer) -> None:
    served(setup, maria, "MYSQL")
    setup.after = 'modparam("presence", "db_table_lock_type", 1)'
    examined = examine(setup.write())
    assert (examined.found, examined.code) == ({"table-lock": "error"}, 2)


def test_a_driver_that_waits_for_ever(setup: SetUp, postgres: SqlServer) -> None:
    served(setup, postgres, "POSTGRES")
    setup.defines["NSQ_OWN_DB_TIMEOUT"] = ""
    examined = examine(setup.write())
    assert (examined.found, examined.code) == ({"database-timeouts": "warning"}, 1)


def test_a_user_that_may_only_read(setup: SetUp, maria: SqlServer) -> None:
    maria.execute("CREATE USER reader@'%' IDENTIFIED BY 'hunter2'; GRANT SELECT ON kamailio.* TO reader@'%'")
    served(setup, maria, "MYSQL")
    setup.defines["NSQ_DB_URL"] = quoted(maria.kamailio_url.replace("root@", "reader:hunter2@"))
    examined = examine(setup.write())
    assert (examined.found, examined.code) == ({"database-rights": "error"}, 2)
    assert "hunter2" not in str(examined.results)


def test_a_password_that_everybody_can_read(setup: SetUp, maria: SqlServer) -> None:
    maria.execute("CREATE USER writer@'%' IDENTIFIED BY 'hunter2'; GRANT ALL ON kamailio.* TO writer@'%'")
    served(setup, maria, "MYSQL")
    setup.defines["NSQ_DB_URL"] = quoted(maria.kamailio_url.replace("root@", "writer:hunter2@"))
    setup.write().chmod(0o644)
    examined = examine(setup.file)
    assert (examined.found, examined.code) == ({"configuration-files": "warning"}, 1)
    assert "hunter2" not in str(examined.results)


def test_tables_that_compare_names_in_two_ways(setup: SetUp, maria: SqlServer) -> None:
    served(setup, maria, "MYSQL")
    maria.execute("ALTER TABLE active_watchers CONVERT TO CHARACTER SET utf8mb4")
    try:
        examined = examine(setup.write())
    finally:
        maria.execute("ALTER TABLE active_watchers CONVERT TO CHARACTER SET latin1")
    assert (examined.found, examined.code) == ({"letters": "warning"}, 1)


def test_a_database_server_that_is_away(setup: SetUp, maria: SqlServer) -> None:
    served(setup, maria, "MYSQL")
    with maria.outage():
        examined = examine(setup.write())
    rest = unknown("tables", "unique-index", "database-rights", "letters")
    assert (examined.found, examined.code) == ({"database": "error"} | rest, 2)


# The command


def test_the_command_says_it_in_lines_that_a_pipe_does_not_wrap(setup: SetUp) -> None:
    setup.after = 'modparam("presence", "publ_cache", 1)'
    done = subprocess.run([OURS, "doctor", str(setup.write())], capture_output=True, text=True, check=False, timeout=60)
    head, found, end = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (2, "")
    assert head.split() == ["result", "check", "reason", "mend"]
    assert found.startswith("error   publ-cache  presence: publ_cache is 1 (")
    assert end.startswith(f"{setup.file}: ")
    assert end.endswith(" not applicable; no Kamailio runs with this configuration")
    assert " ok, 1 error, " in end
