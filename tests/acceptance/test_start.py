# SPDX-License-Identifier: GPL-2.0-or-later
"""A setting that is wrong, or a package that is not there: Kamailio does not start, and one line says why."""

from __future__ import annotations

import re
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.chain import CONFIGURATIONS, SHIPPED
from tests.support.database import create_database
from tests.support.kamailio import CLEAN_PATH, Kamailio, quoted, release
from tests.support.until import until

#: How a line of ours begins in Kamailio's log.
CRITICAL = "CRITICAL: "

#: app_python3 has its parameter threads_mode from here on.
HAS_THREADS_MODE = (6, 0)

#: Setting, value, and what the log must say: what was found, and what is allowed.
BAD = [
    ("NSQ_NSQD_TCP_ADDRESS", '"localhost"', "'localhost' is no host:port; allowed: host:port, several separated by"),
    ("NSQ_NSQD_TCP_ADDRESS", '""', "at least 1 item .*; allowed: host:port"),
    ("NSQ_NSQD_ADDRESS", '"127.0.0.1:99999"', "'127.0.0.1:99999' is no host:port; allowed: host:port"),
    ("NSQ_LOOKUPD_ADDRESS", '"http://x:4161"', "'http://x:4161' is no host:port; allowed: host:port"),
    ("NSQ_LISTEN_TOPIC", '"my topic"', "'my topic' is no name for a topic or channel; allowed: 1 to 64 of the"),
    ("NSQ_LISTEN_CHANNEL", f'"{"c" * 65}"', "is no name for a topic or channel; allowed: 1 to 64 of the"),
    ("NSQ_TOPIC_CHANNEL", '"calls"', "'calls' has no ':' between topic and channel; allowed: topic:channel"),
    ("NSQ_TOPIC_CHANNEL", '"calls:a b"', "'a b' is no name for a topic or channel; allowed: topic:channel"),
    ("NSQ_MAX_IN_FLIGHT", "0", "'0': .*; allowed: 1 to 2500"),
    ("NSQ_MAX_ATTEMPTS", "many", "'many': .*; allowed: 1 to 65535"),
    ("NSQ_CONSUMERS", "0", "'0': .*; allowed: 1 to 32"),
    ("NSQ_CONSUMERS", "two", "'two': .*; allowed: 1 to 32"),
    ("NSQ_CONSUMERS", "33", "'33': .*; allowed: 1 to 32"),
    ("NSQ_ACK", '"never"', "'never': .*; allowed: processed or received"),
    ("NSQ_QUERY_TIMEOUT", "-1", "'-1': .*; allowed: 0.01 to 300"),
    ("NSQ_NODE", '"a b"', "'a b': .*; allowed: 1 to 32 of the characters"),
    ("NSQ_PRESENTITY_TABLE", '"a;b"', "'a;b': .*; allowed: a table's name"),
    ("NSQ_PUA_REFRESH", "2", "'2': .*; allowed: 1 or 0"),
    ("NSQ_PUA_TOMBSTONE", "1", "'1': .*; allowed: 10 to 86400"),
]


def refused(folder: Path, kind: str = "native", *, config: Path | None = None, **changes: str) -> list[str]:
    """Start Kamailio with settings, or a changed configuration, that it must refuse; return our lines of its log."""
    lines = refusal(folder, kind, config=config, **changes).splitlines()
    return [line.partition(" kemi-nsq")[2] for line in lines if " kemi-nsq" in line and CRITICAL in line]


def refusal(folder: Path, kind: str, *, config: Path | None = None, **changes: str) -> str:
    """Start Kamailio with what it must refuse; return its log."""
    environment = {name: changes.pop(name) for name in list(changes) if name.startswith(("ENV_", "PATH"))}
    shipped, script = CONFIGURATIONS[kind]
    database = create_database(folder / "kamailio.db")
    defines = {"NSQ_SCRIPT": quoted(script), "NSQ_DB_URL": quoted(f"sqlite:///{database}")} | changes
    kamailio = Kamailio(
        config or shipped,
        folder / "kamailio",
        defines=defines,
        environment={name.removeprefix("ENV_"): value for name, value in environment.items()},
    )
    code, log = kamailio.run_until_exit()
    assert code not in (0, None)
    return log


@pytest.mark.parametrize(("name", "value", "line"), BAD, ids=[f"{name}={value}"[:40] for name, value, _ in BAD])
def test_a_bad_value_stops_the_start(tmp_path: Path, name: str, value: str, line: str) -> None:
    lines = refused(tmp_path, config=None, **{name: value})
    assert len(lines) == 1
    assert re.match(rf": {name}\b", lines[0])
    assert re.search(line, lines[0]), lines


def test_every_wrong_setting_has_its_line(kind: str, tmp_path: Path) -> None:
    lines = refused(tmp_path, kind, NSQ_ACK="never", NSQ_MAX_IN_FLIGHT="0", ENV_NSQ_COLOUR="red")
    assert sorted(line.split()[1] for line in lines) == ["NSQ_ACK", "NSQ_COLOUR", "NSQ_MAX_IN_FLIGHT"]


def test_presence_without_a_route_is_refused_where_a_route_tells_the_watchers(kind: str, tmp_path: Path) -> None:
    (line,) = refused(tmp_path, kind, NSQ_PUA_REFRESH="0")
    assert re.match(": NSQ_PUA_BUILTIN '1': with NSQ_PUA_REFRESH 0 a route .*; allowed: 0, or 1 with NSQ_PUA_REF", line)


def test_an_unknown_name_in_the_environment_stops_the_start(tmp_path: Path) -> None:
    lines = refused(tmp_path, ENV_NSQ_LISTEN_TOPIK="calls")
    assert lines == [": NSQ_LISTEN_TOPIK (environment) is no setting of kemi-nsq; did you mean NSQ_LISTEN_TOPIC?"]


def test_a_bad_value_in_the_environment_stops_the_start(tmp_path: Path) -> None:
    lines = refused(tmp_path, ENV_NSQ_MAX_IN_FLIGHT="0")
    assert len(lines) == 1
    assert re.match(": NSQ_MAX_IN_FLIGHT '0': .*; allowed: 1 to 2500", lines[0])


def test_threads_mode_of_app_python3_stops_the_start(kind: str, tmp_path: Path) -> None:
    """Releases before 6.0 have no such parameter, and say so."""
    config, _ = CONFIGURATIONS[kind]
    changed = tmp_path / "threads.cfg"
    changed.write_text(f'include_file "{config}"\nmodparam("app_python3", "threads_mode", 1)\n')
    if release() >= HAS_THREADS_MODE:
        (line,) = refused(tmp_path, kind, config=changed)
        assert re.match(r": app_python3's threads_mode is 1, .*; allowed: 0, its default$", line)
    else:
        assert refused(tmp_path, kind, config=changed) == []


@pytest.mark.parametrize(
    ("define", "value"),
    [("#!define COUNT 2\n#!define NSQ_CONSUMERS COUNT", None), ("#!define NSQ_CONSUMERS 2.0", None), ("", "2.0")],
)
def test_other_consumers_than_were_asked_for_stop_the_start(tmp_path: Path, define: str, value: str | None) -> None:
    config = tmp_path / "consumers.cfg"
    config.write_text(f'{define}\ninclude_file "{SHIPPED}/kamailio.cfg"\n')
    (line,) = refused(tmp_path, config=config, **({"ENV_NSQ_CONSUMERS": value} if value else {}))
    assert line.startswith(": NSQ_CONSUMERS is 2, but evrexec starts 1: ")
    assert line.endswith("write #!define NSQ_CONSUMERS 2")


@pytest.mark.parametrize("given", ['"2"', "2"])
def test_a_number_of_consumers_may_have_quotes(tmp_path: Path, given: str) -> None:
    database = create_database(tmp_path / "kamailio.db")
    defines = {
        "NSQ_SCRIPT": quoted(SHIPPED / "nsq.py"),
        "NSQ_DB_URL": quoted(f"sqlite:///{database}"),
        "NSQ_CONSUMERS": given,
    }
    with Kamailio(SHIPPED / "kamailio.cfg", tmp_path / "kamailio", defines=defines) as kamailio:
        until(
            lambda: sum(text.endswith("consumer") for text in kamailio.pids().values()) == 2,
            what="two consumers, which are forked after the SIP workers",
        )


def test_a_class_for_python_without_nsq_kemi_stops_the_start(tmp_path: Path) -> None:
    (line,) = refused(tmp_path, NSQ_SCRIPT=quoted(SHIPPED / "kemi_routes.py"))
    assert line.startswith(": NSQ_SCRIPT has a class of KemiNsq, and NSQ_KEMI is not defined")


def test_nsq_kemi_without_such_a_class_stops_the_start(tmp_path: Path) -> None:
    (line,) = refused(tmp_path, NSQ_KEMI="0")
    assert line.startswith(": NSQ_KEMI is defined (with any value, 0 too), so the routes are those of NSQ_SCRIPT")


@pytest.mark.parametrize("name", ["nsq.py", "my_routes.py"])
def test_a_script_that_is_not_there_is_named_in_one_line(kind: str, tmp_path: Path, name: str) -> None:
    missing = tmp_path / "nowhere" / name
    log = refusal(tmp_path, kind, NSQ_SCRIPT=quoted(missing))
    (line,) = (line for line in log.splitlines() if str(missing) in line)
    assert line.endswith(f"could not stat file {missing}")
    assert "Traceback" not in log
    assert "app_python3" not in log, "Python says less, and later"


def test_a_package_says_where_its_script_is(tmp_path: Path) -> None:
    """As a package does, by a file beside nsq.cfg; Kamailio runs elsewhere."""
    place = tmp_path / "share"
    place.mkdir()
    for file in SHIPPED.glob("*.cfg"):
        shutil.copy(file, place)
    (place / "nsq-place.cfg").write_text(f'#!define NSQ_SCRIPT "{SHIPPED / "nsq.py"}"\n')
    database = create_database(tmp_path / "kamailio.db")
    defines = {"NSQ_DB_URL": quoted(f"sqlite:///{database}")}
    with Kamailio(place / "kamailio.cfg", tmp_path / "kamailio", defines=defines) as kamailio:
        assert kamailio.options().status == 200


def test_a_script_that_finds_no_package_says_what_to_do(tmp_path: Path) -> None:
    alone = shutil.copy(SHIPPED / "nsq.py", tmp_path / "nsq.py")
    lines = refused(tmp_path, NSQ_SCRIPT=quoted(alone))
    assert len(lines) == 1
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    assert lines[0].startswith(f" cannot be loaded by Kamailio's {version} (ModuleNotFoundError")
    assert lines[0].endswith(
        f"run `make setup` in the checkout and let nsq.py be a symbolic link into it, or install kemi-nsq for {version}"
    )


def test_another_python_first_on_the_path_is_named(tmp_path: Path) -> None:
    """Libpython takes the library beside the first `python3` on PATH, which may be built for another libpython."""
    other, own = tmp_path / "other", Path(sysconfig.get_path("stdlib"))
    library = other / "lib" / own.name
    library.mkdir(parents=True)
    for entry in own.iterdir():
        (library / entry.name).symlink_to(entry)
    (library / "queue.py").unlink()
    (library / "queue.py").write_text("raise ImportError('built for another libpython')\n")
    (other / "bin").mkdir()
    shutil.copy("/usr/bin/python3", other / "bin/python3")
    lines = refused(tmp_path, PATH=f"{other}/bin:{CLEAN_PATH}")
    assert len(lines) == 1
    assert f"it uses the library of {other}: start Kamailio with a PATH that has /usr/bin/python3 first" in lines[0]
