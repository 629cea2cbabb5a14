# SPDX-License-Identifier: GPL-2.0-or-later
"""One text is the URL of a database for Kamailio and for us, and the name of a file, whatever is in it.

`tests/support/kamailio.py` starts it without a locale, as a service is.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.calls import Caller, calls_chain, result
from tests.support.chain import SHIPPED, Chain, Person
from tests.support.database import create_database
from tests.support.kamailio import quoted
from tests.support.sqlservers import SqlServer, mariadb
from tests.support.until import until

#: What a password may hold in Kamailio 5.6 and later.
PASSWORDS = ["p@s#s?:s@", "a%41%40", "ä€"]
NAME = "kam%20x lämpchen"


@pytest.fixture(scope="module")
def server() -> Iterator[SqlServer]:
    with mariadb() as server:
        yield server


@contextmanager
def presence(folder: Path, *lines: str, **defines: str | int) -> Iterator[Chain]:
    """Run the shipped configuration with `lines` before it, which define NSQ_DB_URL."""
    config = folder / "test.cfg"
    text = "\n".join(["#!KAMAILIO", *lines, f'include_file "{SHIPPED}/kamailio.cfg"', ""])
    config.write_text(text, encoding="utf-8", newline="")
    with Chain("native", folder, config=config, defines={"NSQ_DB_URL": None, **defines}) as chain:
        yield chain
        assert chain.complaints() == []


def light_a_lamp(chain: Chain) -> None:
    """Subscribe, publish, and see the lamp lit."""
    person = Person(chain=chain)
    with chain.watcher() as watcher:
        lamp = watcher.subscribe(person.uri, "dialog")
        person.call("confirmed")
        lamp.wait(lambda notify: notify.dialog_info.states == ("confirmed",), what="a lit lamp")


@pytest.mark.parametrize("password", PASSWORDS)
def test_kamailio_and_we_connect_with_the_same_password(tmp_path: Path, server: SqlServer, password: str) -> None:
    server.execute(f"CREATE OR REPLACE USER kamailio@localhost IDENTIFIED BY '{password}'")
    server.execute("GRANT ALL ON kamailio.* TO kamailio@localhost")
    url = server.kamailio_url.replace("root@", f"kamailio:{password}@")
    with presence(tmp_path, f'#!define DBURL "{url}"', "#!define NSQ_DB_URL DBURL", SIP_DB_MYSQL=1) as chain:
        light_a_lamp(chain)


#: Ways to define the URL of the file at PATH.
WAYS = {
    "once": ['#!define NSQ_DB_URL "sqlite:///PATH"'],
    "twice": ['#!define DBURL "sqlite:///PATH"', "#!define NSQ_DB_URL DBURL"],
    "blanks behind": [
        '#!define DBURL "sqlite:///PATH" \t',
        "#!define NSQ_DB_URL DBURL  ",
        "#!define NSQ_ACK processed ",
    ],
    "carriage returns": [
        '#!define DBURL "sqlite:///PATH"\r',
        "#!define NSQ_DB_URL DBURL\r",
        "#!define NSQ_PUA_BUILTIN 1\r",
    ],
    "substdefs": ['#!substdefs "!MYDB!sqlite:///PATH!g"', "#!define NSQ_DB_URL MYDB"],
}


@pytest.mark.parametrize("way", WAYS)
def test_kamailio_and_we_open_the_same_file(tmp_path: Path, way: str) -> None:
    database = create_database(tmp_path / f"{NAME}.db")
    with presence(tmp_path, *(line.replace("PATH", str(database)) for line in WAYS[way])) as chain:
        light_a_lamp(chain)
    assert [path.name for path in tmp_path.glob("kam%20x*.db")] == [database.name]


def test_the_outbox_and_the_runtime_folder_have_any_name(tmp_path: Path) -> None:
    run_folder = Path(tempfile.mkdtemp(prefix=NAME))  # short, for the sockets in it
    outbox = tmp_path / f"{NAME}.db"
    try:
        with (
            calls_chain("native", tmp_path, NSQ_OUTBOX=quoted(outbox), NSQ_RUN_DIR=quoted(run_folder / "own")) as chain,
            Caller(chain.kamailio.sip_target) as caller,
        ):
            assert (run_folder / "own").is_dir()
            chain.nsqd.stop()
            assert result(caller.call("nsq_publish", 'calls {"n":1}').wait())[0] == 2
            assert outbox.exists()
            chain.nsqd.start()
            until(lambda: chain.counter("outbox_sent") == 1, what="what was kept to be sent")
    finally:
        shutil.rmtree(run_folder)
