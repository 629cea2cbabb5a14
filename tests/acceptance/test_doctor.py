# SPDX-License-Identifier: GPL-2.0-or-later
"""`kemi-nsq doctor`: each broken set-up is named, with its exit code, and of a good one nothing is said."""

from __future__ import annotations

import re
import shlex
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.chain import SHIPPED
from tests.support.doctored import SetUp, examine
from tests.support.kamailio import quoted
from tests.support.markdown import examples
from tests.support.nsqd import Nsqd
from tests.support.stock import added, stock_text, with_lines

CODES = {"warning": 1, "error": 2, "unknown": 3}
PLACE = "/usr/share/kemi-nsq/"
Change = Callable[[SetUp], object]


@pytest.fixture(scope="module")
def nsqd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nsqd]:
    """Run a nsqd."""
    with Nsqd(tmp_path_factory.mktemp("nsqd")) as nsqd:
        yield nsqd


@pytest.fixture
def setup(nsqd: Nsqd, tmp_path: Path) -> SetUp:
    """Return a good set-up."""
    return SetUp(folder=tmp_path, nsqd=nsqd)


# Good ones


def test_nothing_is_said_of_the_complete_server(setup: SetUp) -> None:
    examined = examine(setup.write())
    assert (examined.found, examined.code) == ({}, 0)
    assert len({each["check"] for each in examined.results}) > 50


def test_nothing_is_said_of_the_quick_start(setup: SetUp) -> None:
    (page,) = (each for each in examples("kamailio") if each.page.name == "quickstart.md")
    setup.write()
    defines = "".join(f"#!define {name} {value}\n" for name, value in setup.defines.items() if name[:4] != "SIP_")
    setup.file.write_text(page.text.replace("include_file", f"{defines}include_file", 1).replace(PLACE, f"{SHIPPED}/"))
    examined = examine(setup.file)
    assert (examined.found, examined.code) == ({}, 0)


def test_nothing_is_said_of_the_same_with_routes_in_python(setup: SetUp) -> None:
    setup.base = SHIPPED / "kemi.cfg"
    setup.defines["NSQ_SCRIPT"] = quoted(SHIPPED / "kemi_routes.py")
    examined = examine(setup.write())
    assert (examined.found, examined.code) == ({}, 0)


@pytest.mark.parametrize("features", [[], ["WITH_PRESENCE", "WITH_USRLOCDB", "WITH_ANTIFLOOD", "WITH_JSONRPC"]])
def test_nothing_is_said_of_debians_file_with_nine_lines(setup: SetUp, features: list[str]) -> None:
    del setup.defines["NSQ_DB_URL"]
    lines = [f"#!define {name}" for name in features]
    lines += [f"#!define DBURL {quoted(f'sqlite:///{setup.database}')}", 'loadmodule "db_sqlite.so"']
    lines += [f"#!define {name} {value}" for name, value in setup.defines.items() if name[:4] == "NSQ_"]
    (setup.folder / "kamailio-local.cfg").write_text("\n".join(lines) + "\n")
    setup.file.write_text(with_lines(stock_text(), added()).replace(PLACE, f"{SHIPPED}/"))
    examined = examine(setup.file)
    assert (examined.found, examined.code) == ({}, 0)


def test_nothing_is_said_of_a_database_that_was_made_as_it_says(setup: SetUp) -> None:
    setup.database.unlink()
    results = examine(setup.write()).results
    (mend,) = (each["mend"] for each in results if each["check"] == "database")
    sudo, user, _, *command = shlex.split(mend)
    assert (sudo, user) == ("sudo", "-u")
    subprocess.run(command, check=True, timeout=10)
    assert setup.database.stat().st_mode & 0o777 == 0o640
    assert examine(setup.file).found == {}


def test_a_copy_of_nsq_py_is_mended_as_it_says_itself(setup: SetUp) -> None:
    lonely_script(setup)
    results = examine(setup.write()).results
    ((reason, mend),) = ((each["reason"], each["mend"]) for each in results if each["check"] == "python")
    assert "make setup" not in reason
    assert re.fullmatch(r"kemi-nsq cannot be loaded by Kamailio's python3\.\d+ \(ModuleNotFoundError\(.*\)\)", reason)
    assert mend.startswith("run `make setup` in the checkout and let nsq.py be a symbolic link into it, or install")


# Broken ones: what is changed, the check that names it, and how bad it is


def defined(**values: str | None) -> Change:
    """Change defines."""
    return lambda setup: setup.defines.update(values)


def after(text: str) -> Change:
    """Add lines after the include."""
    return lambda setup: setattr(setup, "after", text)


def before(text: str) -> Change:
    """Add lines before the include."""
    return lambda setup: setattr(setup, "before", text)


def parameter(module: str, name: str, value: object) -> Change:
    """Set a parameter after the include: what is set last holds."""
    return after(f'modparam("{module}", "{name}", {value})')


def sql(*statements: str) -> Change:
    """Change the database."""

    def change(setup: SetUp) -> None:
        with closing(sqlite3.connect(setup.database)) as database:
            for statement in statements:
                database.execute(statement)
            database.commit()

    return change


def also(*changes: Change) -> Change:
    """Do several changes."""
    return lambda setup: [change(setup) for change in changes]


def swapped(setup: SetUp) -> None:
    """Name HTTP's port where TCP's is wanted, and the other way round."""
    tcp, http = quoted(setup.nsqd.http_address), quoted(setup.nsqd.tcp_address)
    setup.defines.update(NSQ_NSQD_TCP_ADDRESS=tcp, NSQ_NSQD_ADDRESS=http)


def file_mode(mode: int) -> Change:
    """Write the configuration with a mode."""

    def change(setup: SetUp) -> None:
        setup.write().chmod(mode)

    return change


def run_folder(mode: int) -> Change:
    """Make the runtime folder with a mode."""

    def change(setup: SetUp) -> None:
        (setup.folder / "run").mkdir()
        (setup.folder / "run").chmod(mode)

    return change


def linked_run_folder(setup: SetUp) -> None:
    """Make the runtime folder a symbolic link."""
    (setup.folder / "run").symlink_to("/tmp")


def foreign_script(setup: SetUp) -> None:
    """Have a script with no nsq.py beside it."""
    script = setup.folder / "routes.py"
    script.write_text("# nothing\n")
    setup.defines["NSQ_SCRIPT"] = quoted(script)


def lonely_script(setup: SetUp) -> None:
    """Have a copy of nsq.py beside which no package is."""
    (setup.folder / "nsq.py").write_text((SHIPPED / "nsq.py").read_text())
    setup.defines["NSQ_SCRIPT"] = quoted(setup.folder / "nsq.py")


def own(text: str) -> Change:
    """Have a configuration of one's own in place of the shipped kamailio.cfg."""

    def change(setup: SetUp) -> None:
        setup.base = setup.folder / "own.cfg"
        setup.base.write_text(text.replace("SHIPPED", str(SHIPPED)))

    return change


SWAPPED = {"nsqd-tcp": "error", "nsqd-http": "error"}
SWAPPED |= dict.fromkeys(("one-nsqd", "clocks", "topics", "channel", "replies"), "unknown")
PRESENCE = 'include_file "SHIPPED/presence.cfg"\n'
ROUTE = 'request_route { if (is_method("OPTIONS")) { sl_send_reply("200", "OK"); exit; } BODY }\n'
BUILT_IN = "#!define NSQ_PUA_BUILTIN 1\n"
OURS = PRESENCE + 'include_file "SHIPPED/nsq.cfg"\n'
ANSWERS = ROUTE.replace("BODY", "route(NSQ_PRESENCE);")
BROKEN: dict[str, tuple[Change, dict[str, str]]] = {
    # what the text says
    "a define twice": (
        before('#!define NSQ_ACK "received"\n#!define NSQ_ACK "processed"'),
        {"defines": "error", "syntax": "error"},
    ),
    "a misspelled directive": (before("#!ifdeff WITH_X"), {"preprocessor": "warning"}),
    "an include that is not there": (
        before('include_file "nowhere.cfg"'),
        {"preprocessor": "error", "syntax": "error"},
    ),
    "an ifdef without end": (after("#!ifdef WITH_X"), {"preprocessor": "error", "syntax": "error"}),
    "an unknown setting": (defined(NSQ_LISTEN_TOPIK="calls"), {"settings": "error"}),
    "a module twice": (after('loadmodule "tm.so"'), {"twice": "error", "syntax": "error"}),
    "a route twice": (after("event_route[presence:notify-reply] { exit; }"), {"twice": "error", "syntax": "error"}),
    "a wrong order of includes": (
        own(
            'loadmodule "sl.so"\nloadmodule "db_sqlite.so"\n'
            + 'include_file "SHIPPED/nsq.cfg"\ninclude_file "SHIPPED/nsq-presence.cfg"\n'
            + BUILT_IN
            + "request_route { exit; }\n"
        ),
        {"includes": "error", "subscribe-route": "warning"},
    ),
    "a define too late": (after("#!define NSQ_OWN_HASH_FILE"), {"late-defines": "error"}),
    "a number that evrexec does not read": (
        also(defined(NSQ_CONSUMERS="TWO"), before("#!define TWO 2")),
        {"consumer-count": "error"},
    ),
    "another script": (parameter("app_python3", "load", '"/etc/kamailio/other.py"'), {"another-script": "error"}),
    "an engine without NSQ_KEMI": (after('cfgengine "python"'), {"kemi": "error"}),
    "a small pv_buffer_size": (after("pv_buffer_size=8192"), {"pv-buffer-size": "warning"}),
    "RPC for the world": (parameter("ctl", "binrpc", '"tcp:0.0.0.0:2046"'), {"rpc-ports": "warning"}),
    "a fault of grammar": (after("request_rout { exit; }"), {"syntax": "error"}),
    "a misspelled parameter": (parameter("presence", "publ_cach", 0), {"syntax": "error"}),
    # what the presence modules are told
    "publ_cache": (parameter("presence", "publ_cache", 1), {"publ-cache": "error"}),
    "subs_db_mode": (parameter("presence", "subs_db_mode", 2), {"subs-db-mode": "error"}),
    "subs_db_mode without a table": (
        also(defined(NSQ_PUA_WATCHERS_TABLE='""'), parameter("presence", "subs_db_mode", 1)),
        {"subs-db-mode": "warning"},
    ),
    "another table of watchers": (defined(NSQ_PUA_WATCHERS_TABLE='"watchers"'), {"watchers-table": "error"}),
    "another table of states": (
        defined(NSQ_PRESENTITY_TABLE='"active_watchers"'),
        {"presentity-table": "error", "tables": "error", "unique-index": "error"},
    ),
    "notifier_processes": (parameter("presence", "notifier_processes", 2), {"notifier-processes": "warning"}),
    "startup_mode": (parameter("presence", "startup_mode", 0), {"startup-mode": "error"}),
    "clean_period": (parameter("presence", "clean_period", 0), {"clean-period": "warning"}),
    "another database": (
        parameter("presence", "db_url", '"sqlite:////tmp/other.db"'),
        {"database-url": "error"},
    ),
    "no driver": (
        also(defined(NSQ_DB_URL='"postgres://kamailio@127.0.0.1:1/kamailio"')),
        {
            "database-driver": "error",
            "database": "error",
            "tables": "unknown",
            "unique-index": "unknown",
            "database-rights": "unknown",
            "letters": "unknown",
        },
    ),
    "a journal mode": (parameter("db_sqlite", "db_set_journal_mode", '"DELETE"'), {"journal-mode": "warning"}),
    "no dummy dialog": (parameter("presence_dialoginfo", "force_dummy_dialog", 0), {"dialoginfo": "warning"}),
    "a single dialog": (parameter("presence_dialoginfo", "force_single_dialog", 1), {"dialoginfo": "warning"}),
    "watchers that stay pending": (parameter("presence_xml", "force_active", 0), {"force-active": "warning"}),
    "no locks": (parameter("cfgutils", "lock_set_size", 0), {"lock": "error"}),
    "no name of a lock": (defined(NSQ_PUA_LOCK='""'), {"lock": "warning"}),
    # what routes call
    "a function that is none": (
        own(BUILT_IN + OURS + ANSWERS + 'route[X] { python_exec("nsq_pubish", "t {}"); }\n'),
        {"python-exec": "error"},
    ),
    "handle_subscribe without the lock": (
        own(BUILT_IN + OURS + ROUTE.replace("BODY", "t_newtran(); handle_subscribe(); t_release();")),
        {"handlers": "warning"},
    ),
    "nobody answers a SUBSCRIBE": (
        own(BUILT_IN + OURS + ROUTE.replace("BODY", "exit;")),
        {"subscribe-route": "warning"},
    ),
    "our lock in a route": (
        own(BUILT_IN + OURS + ANSWERS + 'route[X] { lock("presence"); unlock("presence"); }\n'),
        {"lock-names": "warning"},
    ),
    "a route that waits for itself": (
        own(BUILT_IN + OURS + ROUTE.replace("BODY", 'lock("presence"); route(NSQ_PRESENCE);')),
        {"lock-names": "error"},
    ),
    "an event route with capitals": (
        own(BUILT_IN + OURS + ANSWERS + "event_route[nsq:consumer-event-Presence-update] { exit; }\n"),
        {"event-routes": "error"},
    ),
    "an event route that never runs": (
        own(BUILT_IN + OURS + ANSWERS + "event_route[nsq:consumer-event-presence-update] { exit; }\n"),
        {"event-routes": "warning"},
    ),
    "events without a route": (own(OURS + ANSWERS), {"event-routes": "warning"}),
    "NOTIFYs that nobody counts": (
        own(
            "#!define NSQ_OWN_NOTIFY_REPLY\n"
            + BUILT_IN
            + OURS
            + ANSWERS
            + "event_route[presence:notify-reply] { exit; }\n"
        ),
        {"notify-reply": "warning"},
    ),
    "a query that goes on nowhere": (
        own(
            BUILT_IN
            + OURS
            + ANSWERS
            + 'route[X] { t_newtran(); python_exec("nsq_query_async", "routes FOUND {}"); exit; }\n'
        ),
        {"query-routes": "error"},
    ),
    # the machine
    "no script": (
        defined(NSQ_SCRIPT='"/nowhere/nsq.py"'),
        {"script": "error", "script-class": "unknown", "python": "error"},
    ),
    "a script of routes in Python": (
        defined(NSQ_SCRIPT=quoted(SHIPPED / "kemi_routes.py")),
        {"script-class": "error"},
    ),
    "no script of routes in Python": (defined(NSQ_KEMI=""), {"script-class": "error", "kemi": "warning"}),
    "a script without nsq.py": (foreign_script, {"python": "error"}),
    "a script without the package": (lonely_script, {"python": "error"}),
    "a configuration for everybody to change": (file_mode(0o666), {"configuration-files": "warning"}),
    "a runtime folder open to others": (run_folder(0o755), {"run-folder": "error"}),
    "a runtime folder that is a link": (linked_run_folder, {"run-folder": "error"}),
    "no folder for the runtime folder": (defined(NSQ_RUN_DIR='"/nowhere/run"'), {"run-folder": "error"}),
    "no folder for the outbox": (defined(NSQ_OUTBOX='"/nowhere/outbox.db"'), {"outbox": "error"}),
    # the database
    "no database": (
        lambda setup: setup.database.unlink(),
        {"database": "error", "tables": "unknown", "unique-index": "unknown"},
    ),
    "a database that is garbage": (
        lambda setup: setup.database.write_bytes(b"something else " * 100),
        {"database": "error", "tables": "unknown", "unique-index": "unknown"},
    ),
    "no tables": (sql("DROP TABLE presentity"), {"tables": "error", "unique-index": "error"}),
    "another version of a table": (
        sql("UPDATE version SET table_version = 4 WHERE table_name = 'presentity'"),
        {"tables": "error"},
    ),
    "no table of versions": (sql("DROP TABLE version"), {"tables": "error"}),
    "no unique index": (
        sql("ALTER TABLE presentity RENAME TO old", "CREATE TABLE presentity AS SELECT * FROM old"),
        {"unique-index": "error"},
    ),
    # NSQ
    "the ports of nsqd the wrong way round": (
        swapped,
        {"nsqd-tcp": "error", "nsqd-http": "error"}
        | dict.fromkeys(("one-nsqd", "clocks", "topics", "channel", "replies"), "unknown"),
    ),
    "a topic in capitals": (
        also(lambda setup: setup.nsqd.create_topic("Calls"), defined(NSQ_LISTEN_TOPIC='"calls"')),
        {"topics": "warning"},
    ),
}


@pytest.mark.parametrize(("change", "found"), BROKEN.values(), ids=BROKEN)
def test_a_broken_set_up_is_named(setup: SetUp, change: Change, found: dict[str, str]) -> None:
    setup.write()
    change(setup)
    if setup.file.stat().st_mode & 0o777 == 0o640:
        setup.write()
    examined = examine(setup.file, *setup.options, environment=setup.environment)
    assert examined.found == found, [each for each in examined.results if each["result"] != "ok"]
    assert examined.code == max((CODES[grade] for grade in found.values()), key=(1, 3, 2).index)
