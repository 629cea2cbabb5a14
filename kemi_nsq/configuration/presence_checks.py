# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of what kamailio.cfg tells the presence modules: with their defaults, states are stored and never shown.

Sources: modules/presence (presence.c, notify.c, publish.c), presence_xml, presence_dialoginfo, presence_reginfo.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from kemi_nsq.configuration.finding import Check, DoesNotApply, Finding, Grade, Text
from kemi_nsq.databaseurl import kamailio_url

_PRESENCE = "presence"
_CONFIGURED = "or include nsq-presence.cfg after your own modparam lines"
#: From here on a timer of the presence module deletes expired subscriptions (presence.c, `mod_init`).
_DELETES_SUBSCRIPTIONS = (5, 8)
_AGGREGATES_REGINFO = (5, 7)
_WRITE_BACK, _DATABASE_ONLY = 2, 3
_DRIVERS = {"sqlite": "db_sqlite", "mysql": "db_mysql", "postgres": "db_postgres"}
_PORTS = {"mysql": 3306, "postgres": 5432}
_PACKAGES = {"presence_dialoginfo": "dialog", "presence_mwi": "message-summary", "presence_xml": "presence"}


def _mend(module: str, name: str, value: object) -> str:
    return f'modparam("{module}", "{name}", {value}), {_CONFIGURED}'


def _number(text: Text, name: str, default: int, module: str = _PRESENCE) -> int:
    """Return a parameter of a module that is loaded; -1 for a text that is no number, which is never right."""
    if not text.configuration.loads(module):
        raise DoesNotApply(f"{module}.so is not loaded")
    found = text.configuration.number(module, name, default)
    return -1 if found is None else found


def _said(text: Text, name: str, default: object, module: str = _PRESENCE) -> str:
    """Write a parameter, its value and its place."""
    value = text.configuration.text(module, name, str(default))
    where = text.configuration.place_of(module, name) or " (its default)"
    return f"{module}: {name} is {value}{where}"


def publ_cache(text: Text) -> Iterator[Finding]:
    """Find a cache of the presentity table, which knows nothing of the rows of others."""
    if _number(text, "publ_cache", 1) != 0:
        reason = f"{_said(text, 'publ_cache', 1)}: rows are stored and counted, and no watcher is shown them"
        yield Finding(Grade.ERROR, reason, _mend(_PRESENCE, "publ_cache", 0))


def subs_db_mode(text: Text) -> Iterator[Finding]:
    """Find subscriptions that are not where we take them to be."""
    mode = _number(text, "subs_db_mode", _WRITE_BACK)
    in_memory, said = text.valid.subscriptions_in_memory, _said(text, "subs_db_mode", _WRITE_BACK)
    if mode == (_WRITE_BACK if in_memory else _DATABASE_ONLY):
        return
    table = text.valid.pua_watchers_table
    if in_memory:
        harm = "watchers are told twice, for nothing" if mode == _DATABASE_ONLY else "a restart may lose subscriptions"
        reason = f"{said}, and NSQ_SUBSCRIPTIONS_IN_MEMORY is 1: {harm}"
        yield Finding(Grade.ERROR, reason, _mend(_PRESENCE, "subs_db_mode", _WRITE_BACK))
    elif table:
        reason = f"{said}, and NSQ_PUA_WATCHERS_TABLE is {table}: who watches is not in that table, and is told nothing"
        mend = _mend(_PRESENCE, "subs_db_mode", _DATABASE_ONLY)
        yield Finding(Grade.ERROR, reason, f"{mend}; or leave NSQ_PUA_WATCHERS_TABLE empty")
    else:
        reason = f"{said}: a dialog's version is repeated by the first NOTIFY after a SUBSCRIBE, and phones drop that"
        yield Finding(Grade.WARNING, reason, _mend(_PRESENCE, "subs_db_mode", _DATABASE_ONLY))


def watchers_table(text: Text) -> Iterator[Finding]:
    """Find a table of subscriptions that is not the one of the presence module."""
    _number(text, "subs_db_mode", 2)
    ours, theirs = (
        text.valid.pua_watchers_table,
        text.configuration.text(_PRESENCE, "active_watchers_table", "active_watchers"),
    )
    if ours and ours != theirs:
        reason = f"NSQ_PUA_WATCHERS_TABLE is {ours}, and presence keeps subscriptions in {theirs}: nobody is told"
        yield Finding(Grade.ERROR, reason, f"#!define NSQ_PUA_WATCHERS_TABLE {theirs}")


def presentity_table(text: Text) -> Iterator[Finding]:
    """Find states that are written to another table than the presence module reads."""
    _number(text, "publ_cache", 1)
    ours = text.valid.presentity_table
    theirs = text.configuration.text(_PRESENCE, "presentity_table", "presentity")
    if ours != theirs:
        reason = f"NSQ_PRESENTITY_TABLE is {ours}, and presence reads {theirs}: what we write is never shown"
        yield Finding(Grade.ERROR, reason, f"#!define NSQ_PRESENTITY_TABLE {theirs}")


def notifier_processes(text: Text) -> Iterator[Finding]:
    """Find processes that send NOTIFYs late."""
    if _number(text, "subs_db_mode", 2) == _DATABASE_ONLY and _number(text, "notifier_processes", 1) != 0:
        reason = f"{_said(text, 'notifier_processes', 1)}: a NOTIFY leaves up to 5 s late instead of at once"
        yield Finding(Grade.WARNING, reason, _mend(_PRESENCE, "notifier_processes", 0))


def startup_mode(text: Text) -> Iterator[Finding]:
    """Find documents with rows whose time is over."""
    if _number(text, "startup_mode", 1) != 1:
        reason = f"{_said(text, 'startup_mode', 1)}: calls that are over stay in the document, hidden rows among them"
        yield Finding(Grade.ERROR, reason, _mend(_PRESENCE, "startup_mode", 1))


def clean_period(text: Text) -> Iterator[Finding]:
    """Find timers by which states, or subscriptions, end without a word."""
    clean, update = _number(text, "clean_period", 100), _number(text, "db_update_period", 100)
    if clean <= 0:
        reason = f"{_said(text, 'clean_period', 100)}: rows whose time is over stay, and nobody is told"
        yield Finding(Grade.WARNING, reason, _mend(_PRESENCE, "clean_period", 30))
        return
    in_order, mode = 0 < update < clean and clean % update == 0, _number(text, "subs_db_mode", _WRITE_BACK)
    in_memory = mode == _WRITE_BACK and text.settings is not None and text.settings.subscriptions_in_memory
    if in_order or not (in_memory or mode == _DATABASE_ONLY):
        return
    if in_memory and update <= 0:
        reason = (
            f"{_said(text, 'db_update_period', 100)}: a crash loses all subscriptions that were made since the start"
        )
        yield Finding(Grade.WARNING, reason, _mend(_PRESENCE, "db_update_period", 10))
    elif text.release >= _DELETES_SUBSCRIPTIONS:
        comes = "a restart loses subscriptions" if in_memory else "subscriptions go without a last NOTIFY"
        reason = f"{_said(text, 'db_update_period', 100)}, clean_period {clean}: {comes}"
        mend = f'modparam("presence", "db_update_period", N), N a divisor of {clean} and smaller, {_CONFIGURED}'
        yield Finding(Grade.WARNING, reason, mend)
    elif not text.release:
        yield Finding(Grade.UNKNOWN, "the release of Kamailio is not known, and these timers are judged by it")


def table_lock(text: Text) -> Iterator[Finding]:
    """Find a presence module that locks whole tables against us."""
    if _number(text, "db_table_lock_type", 1) != 0 and _scheme(text) == "mysql":
        reason = f"{_said(text, 'db_table_lock_type', 1)}: presence locks whole tables, and our writes wait for it"
        yield Finding(Grade.ERROR, reason, _mend(_PRESENCE, "db_table_lock_type", 0))


def _scheme(text: Text) -> str:
    return text.configuration.text(_PRESENCE, "db_url", "").partition(":")[0].lower()


def database(text: Text) -> Iterator[Finding]:
    """Find a presence module without a database, or with another one than ours."""
    _number(text, "publ_cache", 1)
    theirs = text.configuration.text(_PRESENCE, "db_url", "")
    if not theirs:
        reason = "presence: db_url is not set, so it answers no SUBSCRIBE"
        yield Finding(Grade.ERROR, reason, _mend(_PRESENCE, "db_url", "NSQ_DB_URL"))
    elif text.valid.db_url is None:
        reason = "NSQ_DB_URL is not set: nsq_pua_publish has no table to write to"
        yield Finding(Grade.ERROR, reason, "#!define NSQ_DB_URL with the URL of presence's db_url, before the includes")
    elif (one := _database_of(theirs)) and one != (other := _database_of(text.valid.db_url)):
        reason = f"presence reads the database {one}, and NSQ_DB_URL is {other}: what we write is never shown"
        yield Finding(Grade.ERROR, reason, _mend(_PRESENCE, "db_url", "NSQ_DB_URL"))


def _database_of(url: str) -> str:
    """Return which database a URL names, without user and password; '' for one that is not understood."""
    try:
        found = kamailio_url(url)
        if found is None:  # SQLAlchemy's form
            parts = urlsplit(url)
            kind, host, port, name = parts.scheme.partition("+")[0], parts.hostname or "", parts.port, parts.path[1:]
        else:
            kind, host, port, name = found.scheme, found.host, found.port, found.database
    except ValueError:
        return ""
    kind = kind.replace("postgresql", "postgres")
    host = "localhost" if host in ("127.0.0.1", "::1") else host
    return f"{kind} {host}:{port or _PORTS.get(kind)}/{name}" if kind in _PORTS else f"{kind} {name}"


def driver(text: Text) -> Iterator[Finding]:
    """Find a database for which no driver is loaded."""
    _number(text, "publ_cache", 1)
    wanted = _DRIVERS.get(_scheme(text))
    if wanted and not text.configuration.loads(wanted):
        reason = (
            f"presence's db_url begins with {_scheme(text)}:, and {wanted}.so is not loaded: Kamailio does not start"
        )
        yield Finding(Grade.ERROR, reason, f'loadmodule "{wanted}.so" before nsq-presence.cfg is included')


def journal_mode(text: Text) -> Iterator[Finding]:
    """Find processes that change the journal of an SQLite file as they start, all at once."""
    if text.configuration.parameter("db_sqlite", "db_set_journal_mode"):
        said = text.configuration.place_of("db_sqlite", "db_set_journal_mode")
        reason = f'db_sqlite: db_set_journal_mode is set{said}: now and then Kamailio ends with "database is locked"'
        yield Finding(Grade.WARNING, reason, "remove it: kemi-nsq puts the file into WAL mode before the fork")


def database_timeouts(text: Text) -> Iterator[Finding]:
    """Find drivers that wait for a frozen server for ever."""
    for module, name, default in (("db_postgres", "timeout", 0), ("db_mysql", "timeout_interval", 2)):
        if text.configuration.loads(module) and _number(text, name, default, module) <= 0:
            reason = f"{_said(text, name, default, module)}: a frozen server holds Kamailio's processes for ever"
            yield Finding(Grade.WARNING, reason, _mend(module, name, 2))


def packages(text: Text) -> Iterator[Finding]:
    """Find event packages that nobody serves."""
    _number(text, "publ_cache", 1)
    for module, package in _PACKAGES.items():
        if not text.configuration.loads(module):
            reason = f"{module}.so is not loaded: a SUBSCRIBE to the package {package} is refused with 489"
            yield Finding(Grade.WARNING, reason, f'loadmodule "{module}.so", {_CONFIGURED}')


def dialoginfo(text: Text) -> Iterator[Finding]:
    """Find options of presence_dialoginfo that leave lamps on, or hide calls."""
    module = "presence_dialoginfo"
    if _number(text, "force_dummy_dialog", 0, module) != 1:
        reason = (
            f"{_said(text, 'force_dummy_dialog', 0, module)}: without a call the NOTIFY is empty, and lamps stay on"
        )
        yield Finding(Grade.WARNING, reason, _mend(module, "force_dummy_dialog", 1))
    if _number(text, "force_single_dialog", 0, module) != 0:
        reason = f"{_said(text, 'force_single_dialog', 0, module)}: of several calls of one number one is shown"
        yield Finding(Grade.WARNING, reason, f'modparam("{module}", "force_single_dialog", 0), unless phones want it')


def force_active(text: Text) -> Iterator[Finding]:
    """Find watchers that wait for an XCAP rule which nobody has written."""
    if (
        _number(text, "force_active", 0, "presence_xml") != 1
        and "NSQ_OWN_FORCE_ACTIVE" not in text.configuration.defines
    ):
        said = _said(text, "force_active", 0, "presence_xml")
        reason = f"{said}: without an XCAP rule watchers of presence stay pending and are shown nothing"
        mend = f"{_mend('presence_xml', 'force_active', 1)}; with rules of yours #!define NSQ_OWN_FORCE_ACTIVE"
        yield Finding(Grade.WARNING, reason, mend)


def reginfo(text: Text) -> Iterator[Finding]:
    """Find registrations of which one contact is shown alone."""
    module, name = "presence_reginfo", "aggregate_presentities"
    aggregates = _number(text, name, 0, module) == 1
    if text.release and text.release < _AGGREGATES_REGINFO:
        first = ".".join(map(str, _AGGREGATES_REGINFO))
        raise DoesNotApply(f"before {first} only the last contact is shown")
    if not aggregates and text.release:
        reason = f"{_said(text, name, 0, module)}: of several contacts the one that changed last is shown"
        yield Finding(Grade.WARNING, reason, _mend(module, name, 1))


CHECKS: tuple[Check[Text], ...] = (
    Check("publ-cache", "presence looks into the table for each document (publ_cache)", publ_cache, at_start=True),
    Check("subs-db-mode", "subscriptions are in the table of NSQ_PUA_WATCHERS_TABLE", subs_db_mode, at_start=True),
    Check("watchers-table", "NSQ_PUA_WATCHERS_TABLE is presence's active_watchers_table", watchers_table),
    Check("presentity-table", "NSQ_PRESENTITY_TABLE is presence's presentity_table", presentity_table),
    Check("notifier-processes", "a NOTIFY leaves at once (notifier_processes)", notifier_processes, at_start=True),
    Check("startup-mode", "documents have no rows whose time is over (startup_mode)", startup_mode, at_start=True),
    Check("clean-period", "clean_period and db_update_period fit each other and the release", clean_period),
    Check("table-lock", "presence does not lock MySQL's tables against us (db_table_lock_type)", table_lock),
    Check("database-url", "presence and NSQ_DB_URL name one database", database),
    Check("database-driver", "the driver of that database is loaded", driver),
    Check("journal-mode", "db_sqlite leaves the journal mode alone", journal_mode),
    Check("database-timeouts", "Kamailio's drivers do not wait for ever", database_timeouts),
    Check("event-packages", "the modules of dialog, message-summary and presence are loaded", packages),
    Check("dialoginfo", "options of presence_dialoginfo", dialoginfo),
    Check("force-active", "watchers of presence are active (force_active)", force_active),
    Check("reginfo", "all contacts of a registration are shown (aggregate_presentities)", reginfo),
)
