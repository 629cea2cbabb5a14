# SPDX-License-Identifier: GPL-2.0-or-later
"""Every setting: its default, what it takes, and the one line that a wrong value gets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kemi_nsq.errors import AddressRefused, NameRefused, SettingsError
from kemi_nsq.loading import load
from kemi_nsq.names import Address, Subscription, address, topic_name
from kemi_nsq.settings import CONFIGURATION_ONLY, PREFIX, Settings, allowed, limits, names, rows
from kemi_nsq.settingtypes import Meaning
from tests.support.settings import wipe_environment

LOCAL_TCP, LOCAL_HTTP = Address("127.0.0.1", 4150), Address("127.0.0.1", 4151)

#: Setting to its default, then pairs of a good text and what it means.
GOOD: dict[str, tuple[object, *tuple[tuple[str, object], ...]]] = {
    "NSQ_NSQD_ADDRESS": ((LOCAL_HTTP,), ("nsqd.example.com:80", (Address("nsqd.example.com", 80),))),
    "NSQ_NSQD_TCP_ADDRESS": (
        (LOCAL_TCP,),
        ("a:1,b-c.d_e:65535", (Address("a", 1), Address("b-c.d_e", 65535))),
        (" a:1 , b:2 ,", (Address("a", 1), Address("b", 2))),
        ("[::1]:4150,[2001:db8::7]:1", (Address("::1", 4150), Address("2001:db8::7", 1))),
        ("[::ffff:192.0.2.1]:1", (Address("::ffff:192.0.2.1", 1),)),
    ),
    "NSQ_LOOKUPD_ADDRESS": ((), ("a:4161,b:4161", (Address("a", 4161), Address("b", 4161))), ("", ())),
    "NSQ_LISTEN_TOPIC": ("kamailio", ("a.B-c_9", "a.B-c_9"), ("x#ephemeral", "x#ephemeral"), ("y" * 64, "y" * 64)),
    "NSQ_LISTEN_CHANNEL": ("kamailio", ("c", "c"), ("c#ephemeral", "c#ephemeral")),
    "NSQ_TOPIC_CHANNEL": (
        (),
        ("a:b", (Subscription("a", "b"),)),
        ("a:b, c:d#ephemeral ,", (Subscription("a", "b"), Subscription("c", "d#ephemeral"))),
        ("", ()),
    ),
    "NSQ_CONSUMERS": (1, ("1", 1), ("32", 32)),
    "NSQ_MAX_IN_FLIGHT": (5, ("1", 1), ("2500", 2500)),
    "NSQ_MAX_ATTEMPTS": (10, ("1", 1), ("65535", 65535)),
    "NSQ_BACKOFF_MAX": (60, ("0", 0), ("3600", 3600)),
    "NSQ_MSG_TIMEOUT": (10, ("0", 0), ("900", 900)),
    "NSQ_BATCH": (100, ("1", 1), ("1000", 1000)),
    "NSQ_DEAD_LETTER_TOPIC": ("", ("dead.letters", "dead.letters"), ("", "")),
    "NSQ_REPLAY_TOPIC": ("", ("replays", "replays"), ("", "")),
    "NSQ_MAX_EVENT_SIZE": (65536, ("1", 1), ("1048576", 1048576)),
    "NSQ_CONSUMER_EVENT_KEY": ("Event-Category", ("x", "x"), ("k" * 64, "k" * 64)),
    "NSQ_CONSUMER_EVENT_SUBKEY": ("Event-Name", ("Sub Type", "Sub Type")),
    "NSQ_ACK": ("processed", ("processed", "processed"), ("received", "received")),
    "NSQ_PUBLISH_TIMEOUT": (0.5, ("0.01", 0.01), ("60", 60.0)),
    "NSQ_PUBLISH_TRANSPORT": ("tcp", ("tcp", "tcp"), ("http", "http")),
    "NSQ_PUBLISH_RAW": (False, ("1", True), ("0", False)),
    "NSQ_PUBLISH_WAIT": (True, ("1", True), ("0", False)),
    "NSQ_MAX_MESSAGE_SIZE": (1048576, ("1", 1), ("16777216", 16777216)),
    "NSQ_OUTBOX": ("", ("/var/lib/kamailio/outbox.db", "/var/lib/kamailio/outbox.db"), ("", "")),
    "NSQ_OUTBOX_MESSAGES": (100000, ("1", 1)),
    "NSQ_OUTBOX_BYTES": (67108864, ("1", 1)),
    "NSQ_QUERY_TIMEOUT": (2.0, ("0.25", 0.25), ("300", 300.0)),
    "NSQ_MAX_REPLY_SIZE": (1048576, ("1", 1), ("16777216", 16777216)),
    "NSQ_NODE": ("localhost", ("proxy-1.example_a", "proxy-1.example_a"), ("n" * 32, "n" * 32)),
    "NSQ_DB_URL": (
        None,
        ("sqlite:////var/kamailio.db", "sqlite:////var/kamailio.db"),
        ("sqlite+pysqlite:////var/kamailio.db", "sqlite+pysqlite:////var/kamailio.db"),
        ("mysql://u:p@h/db", "mysql://u:p@h/db"),
        ("mysql+pymysql://u:p@h:3306/db", "mysql+pymysql://u:p@h:3306/db"),
        ("postgres://u:p@[::1]:5432/db", "postgres://u:p@[::1]:5432/db"),
        ("postgresql+psycopg://h/db?x=y", "postgresql+psycopg://h/db?x=y"),
        ("", None),
    ),
    "NSQ_DB_TIMEOUT": (5.0, ("0.5", 0.5), ("60", 60.0)),
    "NSQ_PRESENTITY_TABLE": ("presentity", ("_P2", "_P2"), ("t" * 63, "t" * 63)),
    "NSQ_PUA_REFRESH": (True, ("1", True), ("0", False)),
    "NSQ_PUA_BUILTIN": (False, ("0", False)),  # 1 depends on others: below
    "NSQ_PUA_INCLUDE_ENTITY": (True, ("1", True), ("0", False)),
    "NSQ_PUA_LOCK": ("", ("presence", "presence"), ("", "")),
    "NSQ_PUA_STATES": (
        {},
        ("Lunch=open:At lunch:lunch", {"lunch": Meaning(basic="open", note="At lunch", activity="lunch")}),
        (
            "gone=closed:Gone, in=open:In ,",
            {"gone": Meaning(basic="closed", note="Gone"), "in": Meaning(basic="open", note="In")},
        ),
    ),
    "NSQ_PUA_ORDER_FIELD": ("", ("Sequence", "Sequence"), ("", "")),
    "NSQ_PUA_WATCHERS_TABLE": ("", ("active_watchers", "active_watchers"), ("", "")),
    "NSQ_SUBSCRIPTIONS_IN_MEMORY": (False, ("1", True)),
    "NSQ_NOTIFY_INTERVAL": (0.0, ("0", 0.0), ("0.5", 0.5), ("60", 60.0)),
    "NSQ_MAX_EVENT_AGE": (0.0, ("0", 0.0), ("604800", 604800.0)),
    "NSQ_PROBE_TOPIC": ("", ("probes", "probes"), ("", "")),
    "NSQ_PUA_EXPIRES": (3600, ("1", 1), ("31536000", 31536000)),
    "NSQ_PUA_MAILBOX_EXPIRES": (2592000, ("1", 1), ("31536000", 31536000)),
    "NSQ_PUA_TOMBSTONE": (300, ("10", 10), ("86400", 86400)),
    "NSQ_PUA_MAX_DIALOGS": (50, ("0", 0), ("10000", 10000)),
    "NSQ_RUN_DIR": ("/run/kamailio/kemi-nsq", ("/run/x", "/run/x")),
    "NSQ_METRICS_ADDRESS": (
        (),
        ("127.0.0.1:9151", (Address("127.0.0.1", 9151),)),
        ("[::1]:9151", (Address("::1", 9151),)),
        ("", ()),
    ),
    "NSQ_LOG_FORMAT": ("text", ("text", "text"), ("json", "json")),
    "NSQ_ROUTE_TIMEOUT": (30.0, ("1", 1.0), ("2.5", 2.5), ("3600", 3600.0)),
}

_BAD_ADDRESSES = (
    "a",
    "a:",
    ":1",
    "a:0",
    "a:65536",
    "a:x",
    "::1:1",
    "[::1]",
    "a b:1",
    "http://a:1",
    "a:1,b",
    "[ab]:1",
    f"{'a' * 256}:1",
    f"[{'1' * 5}::]:1",
)
_BAD_NAMES = ("", " ", "a b", "a/b", "ä", "y" * 65, "x#other", "#ephemeral", "x\n", "a:b")
_BAD_SWITCHES = ("2", "maybe", "", "-1")

#: Setting to texts that it refuses.
BAD: dict[str, tuple[str, ...]] = {
    "NSQ_NSQD_ADDRESS": ("", ",", *_BAD_ADDRESSES),
    "NSQ_NSQD_TCP_ADDRESS": ("", " , ", *_BAD_ADDRESSES),
    "NSQ_LOOKUPD_ADDRESS": _BAD_ADDRESSES,
    "NSQ_LISTEN_TOPIC": _BAD_NAMES,
    "NSQ_LISTEN_CHANNEL": _BAD_NAMES,
    "NSQ_TOPIC_CHANNEL": ("a", "a:", ":b", "a:b:c", "a:b,c", "a b:c", "a:b;c:d"),
    "NSQ_CONSUMERS": ("0", "33", "-1", "x", "", "1.5"),
    "NSQ_MAX_IN_FLIGHT": ("0", "2501", "-1", "x", "", "1.5", "0x10", "1e3"),
    "NSQ_MAX_ATTEMPTS": ("0", "65536", "x"),
    "NSQ_BACKOFF_MAX": ("-1", "3601", "1.5", ""),
    "NSQ_MSG_TIMEOUT": ("-1", "901", "1.5", ""),
    "NSQ_BATCH": ("0", "1001", "many"),
    "NSQ_DEAD_LETTER_TOPIC": _BAD_NAMES[1:],
    "NSQ_REPLAY_TOPIC": (*_BAD_NAMES[1:], "kamailio"),
    "NSQ_MAX_EVENT_SIZE": ("0", "1048577", "1M"),
    "NSQ_CONSUMER_EVENT_KEY": ("", "k" * 65),
    "NSQ_CONSUMER_EVENT_SUBKEY": ("", "k" * 65),
    "NSQ_ACK": ("", "Processed", "both"),
    "NSQ_PUBLISH_TIMEOUT": ("0", "61", "nan", "inf", "-1", "1s", ""),
    "NSQ_PUBLISH_TRANSPORT": ("", "udp"),
    "NSQ_PUBLISH_RAW": _BAD_SWITCHES,
    "NSQ_PUBLISH_WAIT": _BAD_SWITCHES,
    "NSQ_MAX_MESSAGE_SIZE": ("0", "16777217", "1.5", "x"),
    "NSQ_OUTBOX": ("outbox.db", "/", "./x"),
    "NSQ_OUTBOX_MESSAGES": ("0", "100000001"),
    "NSQ_OUTBOX_BYTES": ("0", "1099511627777"),
    "NSQ_QUERY_TIMEOUT": ("0", "301", "nan", "2s"),
    "NSQ_MAX_REPLY_SIZE": ("0", "16777217"),
    "NSQ_NODE": ("", "a b", "n" * 33, "x#ephemeral", "ä", "x\n"),
    "NSQ_DB_TIMEOUT": ("0.4", "61", "nan", "5s", ""),
    "NSQ_PRESENTITY_TABLE": ("", "a b", "1a", "a;drop", "t" * 64, "x\n"),
    "NSQ_PUA_REFRESH": _BAD_SWITCHES,
    "NSQ_PUA_BUILTIN": (*_BAD_SWITCHES, "1"),  # without NSQ_DB_URL
    "NSQ_PUA_INCLUDE_ENTITY": _BAD_SWITCHES,
    "NSQ_PUA_LOCK": ("l" * 65,),
    "NSQ_PUA_STATES": ("x", "x=", "=open:X", "x=busy:X", "x=open:", "x=open:X:sunbathing"),
    "NSQ_PUA_ORDER_FIELD": ("f" * 65,),
    "NSQ_PUA_WATCHERS_TABLE": ("a b", "1a", "t" * 64, "x\n"),
    "NSQ_SUBSCRIPTIONS_IN_MEMORY": ("0", "", "yes"),
    "NSQ_NOTIFY_INTERVAL": ("-1", "61", "nan", "x", ""),
    "NSQ_MAX_EVENT_AGE": ("-1", "604801", "inf", "x"),
    "NSQ_PROBE_TOPIC": _BAD_NAMES[1:],
    "NSQ_PUA_EXPIRES": ("0", "31536001", "-5"),
    "NSQ_PUA_MAILBOX_EXPIRES": ("0", "31536001"),
    "NSQ_PUA_TOMBSTONE": ("9", "86401"),
    "NSQ_PUA_MAX_DIALOGS": ("-1", "10001", "1.5"),
    "NSQ_RUN_DIR": ("", "/", "run", "./x"),
    "NSQ_METRICS_ADDRESS": ("9151", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:1,127.0.0.1:2"),
    "NSQ_LOG_FORMAT": ("", "JSON", "xml"),
    "NSQ_ROUTE_TIMEOUT": ("0", "0.5", "3601", "nan", "30s", ""),
}


#: Refused, and not repeated in the log: such a text may hold a password.
BAD_URLS = (
    "kamailio.db",
    "/var/kamailio.db",
    "text:x",
    "oracle://u:secret@h/db",
    "sqlite://",
    "sqlite:///",
    "sqlite:////",
    "sqlite:///secret.db",
    "sqlite://secret.db",
    "mysql://u:secret@h",
    "mysql://u:secret@h/",
    "mysql:///secret",
    "postgres://u:secret@h:x/db",
    "postgres://u:secret@h:0/db",
    "postgres://u:secret@[::1/db",
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    wipe_environment(monkeypatch)
    return monkeypatch


def field(name: str) -> str:
    return name.removeprefix(PREFIX).lower()


def problems(defines: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(defines)
    return caught.value.problems


def test_the_tables_above_know_every_setting() -> None:
    assert list(GOOD) == names()
    assert list(BAD) == [name for name in names() if name != "NSQ_DB_URL"], "BAD_URLS are those of NSQ_DB_URL"


@pytest.mark.parametrize(
    "others",
    [
        {"NSQ_LISTEN_TOPIC": "same"},
        {"NSQ_DEAD_LETTER_TOPIC": "same"},
        {"NSQ_TOPIC_CHANNEL": "other:kamailio,same:kamailio"},
    ],
)
def test_replays_have_a_topic_of_their_own(others: dict[str, str]) -> None:
    (problem,) = problems({**others, "NSQ_REPLAY_TOPIC": "same"})
    assert problem.startswith("NSQ_REPLAY_TOPIC 'same': it must be a topic of its own; allowed: ")


def test_replays_are_consumed_on_each_channel() -> None:
    given = load({"NSQ_TOPIC_CHANNEL": "a:one,b:two,c:one", "NSQ_REPLAY_TOPIC": "again"})
    assert [*map(str, given.subscriptions)] == ["a:one", "b:two", "c:one", "again:one", "again:two"]
    assert [*map(str, load({"NSQ_REPLAY_TOPIC": "again"}).subscriptions)] == ["kamailio:kamailio", "again:kamailio"]


def test_names_and_rows_list_the_fields() -> None:
    assert names() == [PREFIX + name.upper() for name in Settings.model_fields]
    assert [(name, column) for name, column, _ in rows()] == [(name, field(name)) for name in names()]
    assert all(info.description and allowed(column) for _, column, info in rows())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("consumers", "1 to 32"),
        ("publish_timeout", "0.01 to 60"),
        ("outbox_bytes", "1 to 1099511627776"),
        ("publish_raw", "1 or 0"),
        ("ack", "processed or received"),
        ("node", "1 to 32 of the characters A-Z a-z 0-9 . _ -"),
    ],
)
def test_what_a_setting_allows_is_said_in_words(name: str, words: str) -> None:
    assert allowed(name) == words


def test_limits_are_those_that_a_value_is_held_to() -> None:
    numbers = [name for name, kind in Settings.__annotations__.items() if kind in ("int", "float")]
    assert "query_timeout" in numbers
    for name in numbers:
        least, most = limits(name)
        assert [getattr(load({PREFIX + name.upper(): str(each)}), name) for each in (least, most)] == [least, most]
        assert len(problems({PREFIX + name.upper(): str(least - 1)})) == 1
        assert len(problems({PREFIX + name.upper(): str(most + 1)})) == 1


@pytest.mark.parametrize(("name", "default"), [(name, row[0]) for name, row in GOOD.items()])
def test_default(name: str, default: object) -> None:
    assert getattr(load({}), field(name)) == default


@pytest.mark.parametrize(
    ("name", "text", "value"), [(name, text, value) for name, row in GOOD.items() for text, value in row[1:]]
)
def test_good_value(environment: pytest.MonkeyPatch, name: str, text: str, value: object) -> None:
    assert getattr(load({name: text}), field(name)) == value
    environment.setenv(name, text)
    assert getattr(load({}), field(name)) == value


def test_presence_without_a_route_wants_a_table_and_that_we_tell_its_watchers() -> None:
    wanted = {"NSQ_PUA_BUILTIN": "1", "NSQ_DB_URL": "sqlite:////x/y"}
    assert load(wanted).pua_builtin
    (line,) = problems(wanted | {"NSQ_PUA_REFRESH": "0"})
    assert line.startswith("NSQ_PUA_BUILTIN '1': with NSQ_PUA_REFRESH 0 a route tells the watchers")
    (line,) = problems(wanted | {"NSQ_DB_URL": ""})
    assert line.startswith("NSQ_PUA_BUILTIN '1': NSQ_DB_URL is not set")
    lines = problems(wanted | {"NSQ_PUA_REFRESH": "maybe", "NSQ_DB_URL": "x"})
    assert [line.split()[0] for line in lines] == ["NSQ_DB_URL:", "NSQ_PUA_REFRESH"]


def test_subscriptions_in_memory_are_refused_where_a_route_tells_the_watchers() -> None:
    wanted = {"NSQ_SUBSCRIPTIONS_IN_MEMORY": "1"}
    assert load(wanted).subscriptions_in_memory
    (line,) = problems(wanted | {"NSQ_PUA_REFRESH": "0"})
    assert line.startswith(
        "NSQ_SUBSCRIPTIONS_IN_MEMORY '1': with NSQ_PUA_REFRESH 0 a route tells the watchers, and some"
    )


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BAD.items() for text in texts])
def test_bad_value_gets_one_line(environment: pytest.MonkeyPatch, name: str, text: str) -> None:
    (line,) = problems({name: text})
    assert line.startswith(name)
    wrong = [part for part in text.split(",") if repr(part.strip()) in line]
    assert repr(text) in line or wrong, "the line repeats the value, or the part of it that is wrong"
    assert line.endswith(f"; allowed: {allowed(field(name))}")
    assert len(line.splitlines()) == 1
    environment.setenv(name, text)
    assert problems({}) == [line], "an environment variable is checked in the same way"


@pytest.mark.parametrize("url", BAD_URLS)
def test_bad_database_url_gets_one_line_without_its_password(url: str) -> None:
    (line,) = problems({"NSQ_DB_URL": url})
    assert line.startswith("NSQ_DB_URL: ")
    assert line.endswith(f"; allowed: {allowed('db_url')}")
    assert "secret" not in line


#: Ways to write a URL of a database wrongly, or unusually; S stands for the password.
SECRET_URLS = [
    "postgres://user:S@h/db", "postgres://user:S@h", "postgres:user:S@h/db", "postgres//user:S@h/db", "user:S@h/db",
    "postgres://user:S@h:x/db", "postgres://user:S@h:0/db", "postgres://user:S@/db", "postgres://S@h", "S", "S://h/db",
    "oracle://user:S@h/db", "mysql:///S", "sqlite://S", "sqlite:///S", "postgres://[S/db", "postgres://user:S@[h/db",
]  # fmt: skip


@pytest.mark.parametrize("url", SECRET_URLS)
@given(
    secret=st.text("HUNTER2/?#@:[]%&= ", min_size=3, max_size=9).filter(lambda text: re.search("[A-Z0-9]{3}", text)),
)
def test_no_part_of_a_password_is_ever_said(url: str, secret: str) -> None:
    pieces = re.findall("[A-Z0-9]{3,}", secret)
    try:
        load({"NSQ_DB_URL": url.replace("S", secret)})
    except SettingsError as error:
        said = "".join(error.problems).replace("NSQ_DB_URL", "")
        assert not [piece for piece in pieces if piece in said]


def test_a_state_has_at_most_three_parts() -> None:
    (line,) = problems({"NSQ_PUA_STATES": "lunch=open:At lunch:lunch:now"})
    assert "'lunch=open:At lunch:lunch:now' is no word=basic:note:activity" in line


def test_define_wins_over_environment(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("NSQ_MAX_IN_FLIGHT", "7")
    environment.setenv("NSQ_LISTEN_TOPIC", "bad topic")
    settings = load({"NSQ_MAX_IN_FLIGHT": "9", "NSQ_LISTEN_TOPIC": "good"})
    assert (settings.max_in_flight, settings.listen_topic) == (9, "good")


def test_unknown_define() -> None:
    (line,) = problems({"NSQ_MAX_INFLIGHT": "5"})
    assert line == "NSQ_MAX_INFLIGHT (#!define) is no setting of kemi-nsq; did you mean NSQ_MAX_IN_FLIGHT?"


def test_unknown_name_in_the_environment(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("NSQ_TOPIC", "a")
    (line,) = problems({})
    assert line.startswith("NSQ_TOPIC (environment) is no setting of kemi-nsq; did you mean NSQ_")


def test_other_names_of_the_environment_are_nobodys_business(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("NSQD_TOPIC", "a")
    environment.setenv("MY_NSQ_TOPIC", "a")
    assert load({}) == load({"NSQ_NODE": "localhost"})


@pytest.mark.parametrize("name", sorted(CONFIGURATION_ONLY))
def test_names_for_nsq_cfg_alone_are_known(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setenv(name, "x")
    assert load({name: "x"}).max_in_flight == 5


def test_all_problems_are_told_at_once(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("NSQ_WHATEVER", "1")
    environment.setenv("NSQ_ACK", "never")
    found = problems({"NSQ_MAX_ATTEMPTS": "0", "NSQ_LOOKUPD_ADDRESS": "nowhere", "NSQ_NOPE": "", "NSQ_NODE": "good"})
    assert sorted(line.split()[0].rstrip(":") for line in found) == [
        "NSQ_ACK",
        "NSQ_LOOKUPD_ADDRESS",
        "NSQ_MAX_ATTEMPTS",
        "NSQ_NOPE",
        "NSQ_WHATEVER",
    ]


def test_the_error_says_all_in_one_text() -> None:
    with pytest.raises(SettingsError, match=r"NSQ_ACK.*; NSQ_NODE") as caught:
        raise SettingsError(["NSQ_ACK 'x': bad", "NSQ_NODE 'y': bad"])
    assert len(caught.value.problems) == 2


def test_settings_are_frozen() -> None:
    settings = load({})
    with pytest.raises(ValidationError, match="frozen"):
        settings.max_in_flight = 9


@pytest.mark.parametrize(
    ("host_name", "node"),
    [
        ("proxy1.example.com", "proxy1.example.com"),
        ("näme with blanks", "n-me-with-blanks"),
        ("h" * 100, "h" * 32),
        ("", "localhost"),
        ("a#b", "a-b"),
    ],
)
def test_the_host_name_is_the_default_of_the_node(host_name: str, node: str) -> None:
    assert load({}, host_name=host_name).node == node


def test_a_node_that_is_set_wins_over_the_host_name(environment: pytest.MonkeyPatch) -> None:
    assert load({"NSQ_NODE": "a"}, host_name="b").node == "a"
    environment.setenv("NSQ_NODE", "c")
    assert load({}, host_name="b").node == "c"


def test_subscriptions() -> None:
    assert load({}).subscriptions == (Subscription("kamailio", "kamailio"),)
    one = {"NSQ_LISTEN_TOPIC": "a", "NSQ_LISTEN_CHANNEL": "b"}
    assert load(one).subscriptions == (Subscription("a", "b"),)
    several = load({**one, "NSQ_TOPIC_CHANNEL": "c:d,e:f"}).subscriptions
    assert several == (Subscription("c", "d"), Subscription("e", "f"))


@pytest.mark.parametrize("text", ["nsqd:4150", "192.0.2.1:1", "[::1]:4150", "[2001:db8::1]:65535"])
def test_an_address_is_written_as_it_is_read(text: str) -> None:
    assert str(address(text)) == text


def test_a_subscription_is_written_as_it_is_read() -> None:
    assert str(load({"NSQ_TOPIC_CHANNEL": "a:b#ephemeral"}).subscriptions[0]) == "a:b#ephemeral"


@pytest.mark.parametrize("name", _BAD_NAMES)
def test_topic_name_refuses(name: str) -> None:
    with pytest.raises(NameRefused, match="is no name for a topic or channel"):
        topic_name(name)


@pytest.mark.parametrize("text", ["", *_BAD_ADDRESSES])
def test_address_refuses(text: str) -> None:
    with pytest.raises(AddressRefused, match=r"is no host:port$"):
        address(text)


def test_nothing_is_read_from_files(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("NSQ_MAX_IN_FLIGHT=9\n")
    environment.chdir(tmp_path)
    assert load({}).max_in_flight == 5
