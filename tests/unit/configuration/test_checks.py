# SPDX-License-Identifier: GPL-2.0-or-later
"""Each check of the text, on a text that is as short as can be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kemi_nsq.configuration import file_checks, presence_checks, route_checks
from kemi_nsq.configuration.finding import Check, Finding, Grade, Text, made
from kemi_nsq.configuration.reader import read
from kemi_nsq.configuration.route_checks import _slot
from kemi_nsq.tools.doctor.table import OF_SCENE, OF_TEXT, markdown
from tests.support import doctor_page
from tests.support.settings import settings

CHECKS: dict[str, Check[Text]] = {
    check.name: check for check in (*file_checks.CHECKS, *presence_checks.CHECKS, *route_checks.CHECKS)
}
SQLITE = "sqlite:////x.db"
PRESENCE = f'loadmodule "presence.so"\nloadmodule "db_sqlite.so"\nmodparam("presence", "db_url", "{SQLITE}")\n'
NEWEST, OLDEST = (6, 1, 4), (5, 6, 3)
OK, WARNING, ERROR, UNKNOWN = Grade.OK, Grade.WARNING, Grade.ERROR, Grade.UNKNOWN


def look(
    folder: Path, name: str, text: str, release: tuple[int, ...] = OLDEST, *, wrong: str = "", **values: str
) -> list[Grade]:
    """Make a check of a text with some settings, and return how bad what it found is."""
    file = folder / "kamailio.cfg"
    file.write_text(text)
    configuration = read(file, {}, environment={})
    looked_at = Text(
        configuration=configuration,
        settings=settings(**values) if values.get("max_attempts") != "0" else None,
        problems=["NSQ_MAX_ATTEMPTS is wrong"] if values.get("max_attempts") == "0" else [],
        release=release,
        wrong_function=lambda function: wrong if function == "wrong" else "",
    )
    found = made(CHECKS[name], looked_at)
    assert all(finding.reason and "\n" not in finding.reason + finding.mend for finding in found)
    return [finding.grade for finding in found]


def set_to(name: str, value: object, module: str = "presence") -> str:
    """Return a configuration that sets a parameter of presence."""
    return f'{PRESENCE}modparam("{module}", "{name}", {value})\n'


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("publ-cache", "", OK),
        ("publ-cache", PRESENCE, ERROR),
        ("publ-cache", set_to("publ_cache", 0), OK),
        ("publ-cache", set_to("publ_cache", 2), ERROR),
        ("publ-cache", set_to("publ_cache", '"nonsense"'), ERROR),
        ("subs-db-mode", PRESENCE, WARNING),
        ("subs-db-mode", set_to("subs_db_mode", 3), OK),
        ("notifier-processes", PRESENCE, OK),
        ("notifier-processes", set_to("subs_db_mode", 3), WARNING),
        ("startup-mode", PRESENCE, OK),
        ("startup-mode", set_to("startup_mode", 0), ERROR),
        ("clean-period", PRESENCE, OK),
        ("clean-period", set_to("clean_period", 0), WARNING),
        ("table-lock", PRESENCE, OK),
        ("table-lock", set_to("db_url", '"mysql://a@b/c"'), ERROR),
        ("presentity-table", set_to("presentity_table", '"states"'), ERROR),
        ("database-url", 'loadmodule "presence.so"', ERROR),
        ("database-url", PRESENCE, ERROR),  # NSQ_DB_URL is not set
        ("database-driver", set_to("db_url", '"postgres://a@b/c"'), ERROR),
        ("database-driver", set_to("db_url", '"text:///x"'), OK),
        ("journal-mode", set_to("db_set_journal_mode", '"x.db=WAL"', "db_sqlite"), WARNING),
        ("database-timeouts", 'loadmodule "db_postgres.so"', WARNING),
        ("database-timeouts", 'loadmodule "db_mysql.so"', OK),
        ("event-packages", PRESENCE, [WARNING] * 3),
        ("dialoginfo", "", OK),
        ("dialoginfo", 'loadmodule "presence_dialoginfo.so"', WARNING),
        ("force-active", 'loadmodule "presence_xml.so"', WARNING),
        ("force-active", '#!define NSQ_OWN_FORCE_ACTIVE\nloadmodule "presence_xml.so"', OK),
        ("reginfo", 'loadmodule "presence_reginfo.so"', OK),
        ("defines", "#!define A\n#!define A\n", ERROR),
        ("defines", "#!define A\n#!trydef A\n", OK),
        ("twice", 'loadmodule "tm.so"\nloadmodule "/x/tm.so"\n', ERROR),
        ("twice", "route[A] { exit; }\nroute[A] { exit; }", ERROR),
        ("twice", "route { exit; }\nrequest_route { exit; }", ERROR),
        ("includes", "", ERROR),
        ("rpc-ports", 'modparam("ctl", "binrpc", "unix:/x")\nmodparam("ctl", "binrpc", "udp:0.0.0.0:2046")', WARNING),
        ("rpc-ports", 'modparam("ctl", "binrpc", "unixs:/x")\nmodparam("ctl", "binrpc", "tcp:localhost:2046")', OK),
        ("threads-mode", 'modparam("app_python3", "threads_mode", 1)', ERROR),
        ("pv-buffer-size", 'loadmodule "evrexec.so"', WARNING),
        ("pv-buffer-size", 'pv_buffer_size=70000\nloadmodule "evrexec.so"', OK),
        ("kemi", 'cfgengine "python"', ERROR),
        ("kemi", 'cfgengine "native"', OK),
        ("kemi", "#!define NSQ_KEMI\nrequest_route { exit; }", WARNING),
        ("preprocessor", "#!ifexp X ~ Y\n#!endif\n", UNKNOWN),
        ("late-defines", "#!define NSQ_OWN_HASH_FILE\n", OK),
        ("consumer-count", "#!define NSQ_CONSUMERS 1.0", ERROR),
        ("consumer-count", '#!define NSQ_CONSUMERS "1"', OK),
        ("another-script", '#!define NSQ_SCRIPT "/a.py"\nmodparam("app_python3", "load", "/b.py")', ERROR),
        ("python-exec", 'route[A] { python_exec("wrong"); python_exec("right"); python_exec($var(x)); }', ERROR),
        ("handlers", "route[A] { handle_subscribe(); } route[B] { handle_publish(); }", [WARNING] * 2),
        ("handlers", "route[A] { route(NSQ_PRESENCE); handle_subscribe(); }", OK),
        ("subscribe-route", PRESENCE + 'route[NSQ_PRESENCE] { python_exec("nsq_pua_handle"); }', WARNING),
        ("subscribe-route", PRESENCE + 'route[A] { python_exec("nsq_pua_handle"); }', OK),
        ("event-routes", "event_route[nsq:consumer-event_x] { exit; }", ERROR),
        ("event-routes", 'loadmodule "evrexec.so"', WARNING),
        ("event-routes", "event_route[nsq:mod-init] { exit; }", OK),
        ("notify-reply", "#!define NSQ_OWN_NOTIFY_REPLY\n" + PRESENCE, WARNING),
        ("query-routes", 'route[A] { python_exec("nsq_query_async", "t B {}"); }', ERROR),
        ("query-routes", 'route[A] { python_exec("nsq_query_async", "t A {}"); }', OK),
        ("query-routes", 'route[A] { python_exec("nsq_query_async", "t $var(x) {}"); }', OK),
    ],
)
def test_a_check_of_the_text(tmp_path: Path, name: str, text: str, found: Grade | list[Grade]) -> None:
    wanted = found if isinstance(found, list) else [found]
    assert look(tmp_path, name, text, wrong="there is no such function; did you mean right?") == wanted


@pytest.mark.parametrize(
    ("name", "text", "values", "found"),
    [
        ("subs-db-mode", PRESENCE, {"pua_watchers_table": "active_watchers"}, ERROR),
        ("subs-db-mode", PRESENCE, {"subscriptions_in_memory": "1"}, OK),
        ("subs-db-mode", set_to("subs_db_mode", 3), {"subscriptions_in_memory": "1"}, ERROR),
        ("subs-db-mode", set_to("subs_db_mode", 1), {"subscriptions_in_memory": "1"}, ERROR),
        ("watchers-table", PRESENCE, {"pua_watchers_table": "active_watchers"}, OK),
        ("watchers-table", PRESENCE, {"pua_watchers_table": "watchers"}, ERROR),
        ("database-url", PRESENCE, {"db_url": SQLITE}, OK),
        ("database-url", PRESENCE, {"db_url": "sqlite:////y.db"}, ERROR),
        ("database-url", set_to("db_url", '"mysql://a:b@localhost/c"'), {"db_url": "mysql://d:e@127.0.0.1:3306/c"}, OK),
        ("database-url", set_to("db_url", '"mysql://a:b@h/c"'), {"db_url": "mysql+pymysql://a:b@h/d"}, ERROR),
        ("database-url", set_to("db_url", '"postgres://a:b@h/c"'), {"db_url": "postgresql://a:b@h:5432/c"}, OK),
        ("lock", PRESENCE, {}, WARNING),
        ("lock", PRESENCE, {"pua_lock": "presence"}, ERROR),
        ("lock", set_to("lock_set_size", 4, "cfgutils"), {"pua_lock": "presence"}, OK),
        ("lock-names", 'route[A] { lock("a"); unlock("a"); }', {"pua_lock": "a"}, WARNING),
        ("lock-names", 'route[A] { lock("a"); route(NSQ_PRESENCE); }', {"pua_lock": "a"}, ERROR),
        ("lock-names", 'route[A] { lock("a"); exit; }', {"pua_lock": "a"}, WARNING),
        ("lock-names", 'route[A] { lock("b"); unlock("b"); route(NSQ_PRESENCE); }', {"pua_lock": "a"}, OK),
        ("lock-names", 'route[A] { lock("b"); route(NSQ_PRESENCE); }', {"pua_lock": "a"}, ERROR),  # one lock in all
        ("lock-names", 'route[A] { lock("a"); }', {}, OK),
        ("event-routes", "event_route[nsq:consumer-event-presence-update] { exit; }",
         {"pua_builtin": "1", "db_url": SQLITE}, WARNING),
        ("event-routes", 'loadmodule "evrexec.so"', {"pua_builtin": "1", "db_url": SQLITE}, OK),
        ("settings", "", {"max_attempts": "0"}, ERROR),
        ("watchers-table", PRESENCE, {"max_attempts": "0"}, UNKNOWN),
        ("lock", PRESENCE, {"max_attempts": "0"}, UNKNOWN),
    ],
)  # fmt: skip
def test_a_check_of_the_text_and_the_settings(
    tmp_path: Path, name: str, text: str, values: dict[str, str], found: Grade
) -> None:
    assert look(tmp_path, name, text, OLDEST, **values) == [found]


@pytest.mark.parametrize(
    ("clean", "update", "release", "found"),
    [
        (30, 100, OLDEST, OK),
        (30, 100, NEWEST, WARNING),
        (30, 30, NEWEST, WARNING),
        (30, 20, NEWEST, WARNING),
        (30, 15, NEWEST, OK),
        (30, 100, (), UNKNOWN),
        (30, 15, (), OK),
    ],
)
def test_the_timers_are_judged_by_the_release(
    tmp_path: Path, clean: int, update: int, release: tuple[int, ...], found: Grade
) -> None:
    text = set_to("subs_db_mode", 3) + f'modparam("presence", "clean_period", {clean})\n'
    text += f'modparam("presence", "db_update_period", {update})\n'
    assert look(tmp_path, "clean-period", text, release) == [found]


@pytest.mark.parametrize(("update", "found"), [(100, WARNING), (10, OK)])
def test_with_subscriptions_in_memory_the_timers_are_judged_too(tmp_path: Path, update: int, found: Grade) -> None:
    text = set_to("clean_period", 30) + f'modparam("presence", "db_update_period", {update})\n'
    assert look(tmp_path, "clean-period", text, NEWEST) == [OK]
    assert look(tmp_path, "clean-period", text, NEWEST, subscriptions_in_memory="1") == [found]
    assert look(tmp_path, "clean-period", text, OLDEST, subscriptions_in_memory="1") == [OK]


def test_contacts_are_judged_by_the_release(tmp_path: Path) -> None:
    assert look(tmp_path, "reginfo", 'loadmodule "presence_reginfo.so"', NEWEST) == [WARNING]
    before = Text(configuration=read(tmp_path / "kamailio.cfg", {}, environment={}), settings=None, release=OLDEST)
    found = made(CHECKS["reginfo"], before)
    assert found == [Finding(OK, "does not apply: before 5.7 only the last contact is shown")]


def test_the_mend_of_a_setting_is_an_order_that_can_be_given(tmp_path: Path) -> None:
    file = tmp_path / "kamailio.cfg"
    file.write_text("")
    text = Text(configuration=read(file, {}, environment={}), settings=None, problems=["NSQ_X is none"])
    (found,) = made(CHECKS["settings"], text)
    assert f"kemi-nsq --config {file} settings" in found.mend


def test_a_lock_is_found_as_cfgutils_finds_it() -> None:
    """Of 16 locks these, as `core_hash` of Kamailio 5.6.3 says, which is the same for names in lower case."""
    found = {name: _slot(name, 16) for name in ("presence", "calls", "lock 7", "abcdefgh", "x")}
    assert found == {"presence": 15, "calls": 14, "lock 7": 5, "abcdefgh": 12, "x": 7}
    assert _slot("PRESENCE", 16) == _slot("presence", 16)
    assert _slot("anything", 1) == 0


def test_a_fault_of_a_check_is_told_and_hides_no_other(tmp_path: Path) -> None:
    def fail(_text: Text) -> list[Finding]:
        raise KeyError("x")

    text = Text(configuration=read(tmp_path), settings=None)
    ((grade, reason, _),) = made(Check("x", "x", fail), text)
    assert (grade, reason) == (UNKNOWN, "the check fails: KeyError: 'x'; please report this")


def test_a_right_that_we_do_not_have_is_no_fault_of_a_check(tmp_path: Path) -> None:
    def fail(_text: Text) -> list[Finding]:
        raise PermissionError(13, "Permission denied", "/var/lib/kamailio")

    text = Text(configuration=read(tmp_path), settings=None)
    ((grade, reason, mend),) = made(Check("x", "x", fail), text)
    assert (grade, reason) == (UNKNOWN, "you may not look at /var/lib/kamailio")
    assert mend == "ask as root, or as Kamailio's user"


def test_no_check_fails_on_an_empty_text(tmp_path: Path) -> None:
    assert all(look(tmp_path, name, "") for name in CHECKS)


def test_checks_have_names_of_their_own() -> None:
    names = [check.name for checks in OF_TEXT.values() for check in checks]
    names += [check.name for checks in OF_SCENE.values() for check in checks]
    assert len(names) == len({*names})
    assert all(f"`{name}`" in markdown() for name in names)
    page = doctor_page.PAGE.read_text(encoding="utf-8")
    (said,) = re.findall(r"(\d+) checks: (\d+) ok, 1 error, (\d+) not applicable;", page)
    checks, fine, left = map(int, said)
    assert (checks, fine + 1 + left) == (len(names), len(names))
