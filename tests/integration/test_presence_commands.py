# SPDX-License-Identifier: GPL-2.0-or-later
"""`kemi-nsq presence` without Kamailio: a database, consumers that answer or do not, and what others have written."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

import pytest

from kemi_nsq.errors import ConnectionLost, UsageError
from kemi_nsq.jsontext import JsonObject, JsonValue
from kemi_nsq.presence.packages import from_event
from kemi_nsq.presence.row import Order
from kemi_nsq.presence.table import PresentityTable
from kemi_nsq.runtime.folder import RunFolder
from kemi_nsq.tools import cli
from tests.support.answering import answering
from tests.support.database import create_database
from tests.support.nsqd import Nsqd
from tests.support.rows import event_row
from tests.support.settings import wipe_environment
from tests.support.tables import subscription
from tests.support.terminal import Terminal
from tests.support.until import until

TOOL = str(Path(sys.executable).with_name("kemi-nsq"))
URI = "sip:alice@example.com"
NOW = int(time.time())
FIELDS: dict[str, JsonValue] = {
    "Event-Package": "dialog",
    "From": URI,
    "To": "sip:bob@example.com",
    "Call-ID": "c1",
    "State": "confirmed",
}
#: What no event package has for a state.
NONE = ("termianted", "ringing", "2/x", "-1/5", "2/5/1", "\u0662/5")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Return a database with a call of Alice's, another that is over, and a watcher."""
    path = create_database(tmp_path / "kamailio.db")
    table = PresentityTable(f"sqlite+pysqlite:///{path}", "presentity")
    order = Order(NOW * 10**9, "0a1b2c3d4e5f6071")
    table.save(event_row(FIELDS, order, now=NOW))
    over = event_row(FIELDS | {"Call-ID": "c0", "State": "terminated"}, order, now=NOW)
    table.save(over)
    table.hide([over.ruid], until=NOW + 300)
    table.close()
    execute(path, *subscription(URI, "dialog", number=0))
    return path


def execute(path: Path, statement: str, values: dict[str, object]) -> None:
    import sqlite3

    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement, values)
    connection.close()


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """Return a runtime folder in which this process says that it is a consumer."""
    made = RunFolder(tmp_path / "run", uid=os.geteuid(), gid=os.getegid())
    made.page.role("consumer")
    return made


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `kemi-nsq presence` in this process; it returns exit code, output and errors."""

    def run(*words: str, db: Path | None = None, **environment: str) -> tuple[int, str, str]:
        wipe_environment(monkeypatch)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("NSQ_RUN_DIR", str(tmp_path / "run"))
        if db is not None:
            monkeypatch.setenv("NSQ_DB_URL", f"sqlite:///{db}")
        code = cli.run(lambda: cli.app(["presence", *words], standalone_mode=False))
        return code, *capfd.readouterr()

    return run


class Consumer:
    """Answers as a consumer does that remembers one stale event, and resets in two pieces."""

    def __init__(self, database: Path) -> None:
        self.database = database
        self.fails: Exception | None = None
        self.nsqd_address = "127.0.0.1:1"
        self.asked: list[tuple[str, JsonObject]] = []

    def answer(self, verb: str, arguments: JsonObject) -> JsonValue:
        self.asked.append((verb, arguments))
        if self.fails is not None and verb != "where":
            raise self.fails
        match verb:
            case "where":
                return {
                    "db_url": f"sqlite+pysqlite:///{self.database}", "presentity_table": "presentity",
                    "watchers_table": "", "subscriptions_in_memory": False, "order_field": "", "listen_topic": "events",
                    "nsqd_address": self.nsqd_address, "event_key": "Category", "event_subkey": "Name",
                }  # fmt: skip
            case "reset":
                more = "7" if not arguments["below"] else ""
                return {"ended": 2, "position": "5", "below": more}
            case "log-events":
                return arguments["on"]
        return {"noted": 3, "kept": 1, "oldest": NOW, "logs": False, "decisions": [self.stale()], "told": []}

    def stale(self) -> dict[str, JsonValue]:
        row = event_row(FIELDS | {"State": "early"}, Order((NOW - 1) * 10**9, "00000000000000ff"), now=NOW)
        return {
            "at": NOW, "what": "stale", "uri": URI, "package": "dialog", "etag": row.etag, "ruid": row.ruid,
            "state": "early\x1b[2J", "about": "", "sender": URI, "topic": "events", "sent_at": NOW - 1,
            "redelivered": True,
        }  # fmt: skip


@pytest.fixture
def consumer(database: Path) -> Consumer:
    return Consumer(database)


# Without a consumer


def test_the_database_alone_tells_what_is_and_who_watches(run: Run, database: Path) -> None:
    code, out, err = run("list", db=database)
    assert (code, err) == (0, "")
    (line,) = out.splitlines()[1:]
    assert line.split()[:3] == [URI, "dialog", "confirmed"]
    assert line.split()[-1] == "1"
    assert len(run("list", "--all", db=database)[1].splitlines()) == 3
    assert "watcher_username0" in run("watchers", db=database)[1]
    code, out, err = run("explain", URI, db=database)
    assert (code, err) == (0, "")
    assert "because     message 0a1b2c3d4e5f6071 said so; no consumer remembers its topic" in out
    assert out.endswith("no consumer runs, so nobody remembers which events came\n")


def test_each_answer_is_json_as_well(run: Run, database: Path) -> None:
    for words in (["list"], ["list", "--all"], ["show", URI], ["watchers", URI], ["explain", URI]):
        code, out, err = run(*words, "--json", db=database)
        assert (code, err) == (0, "")
        assert json.loads(out)


def test_a_list_that_is_longer_than_wanted_says_so(run: Run, database: Path) -> None:
    code, out, err = run("list", "--all", "--most", "1", db=database)
    assert (code, len(out.splitlines())) == (0, 2)
    assert err == "kemi-nsq: there are more than 1 states; see --most, --event and --domain\n"


def test_somebody_who_has_no_state_has_none(run: Run, database: Path) -> None:
    assert run("show", "sip:nobody@example.com", db=database) == (0, "The table has no state of it.\n", "")
    assert "The table has no state of it." in run("explain", "nobody@example.com", db=database)[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["list"], "NSQ_DB_URL is not set, and nobody can be asked: NSQ_RUN_DIR "),
        (["reset", "all"], "NSQ_RUN_DIR "),
        (["set", URI, "--state", "busy"], "NSQ_RUN_DIR "),
        (["show", "nonsense"], "NSQ_DB_URL is not set"),
        (["log-events", "perhaps"], "'perhaps' is neither on nor off"),
        (["reset", "--publish", "all"], "--publish resets what a sender has said: `sender URI` is wanted, not 'all'"),
        (["set", URI, "--state", "x", "--event", "dialogue"], "--event is 'dialogue'; one of dialog, presence"),
        (["set", URI, "--state", "busy", "--call-id", "1"], "--call-id is of use for dialog, not for presence"),
        (["set", URI, "--state", "x", "--event", "message-summary"], "--state is 'x'; new/saved messages are wanted"),
        (["set", URI, "--state", "busy", "--to", URI], "--to is of use for dialog and reg, not for presence"),
        (["set", URI, "--state", "2/5", "--to", URI], "--to is of use for dialog and reg, not for message-summary"),
        (["set", URI, "--state", "registered", "--call-id", "1"], "--call-id is of use for dialog, not for reg"),
        *((["set", URI, "--state", each], f"--state is '{each}'; one of trying, ") for each in NONE),
        *(([verb, URI, "--event", "dialo"], "--event is 'dialo'; one of dialog, ") for verb in ("explain", "watch")),
        (["list", "--event", "dialo"], "--event is 'dialo'; one of dialog, presence, message-summary, reg, presence."),
        (
            ["reset", "realm", URI],
            f"a realm is a domain such as example.com, not '{URI}'; for one presentity give user",
        ),
        (["reset", f"realm {URI}"], "a realm is a domain such as example.com, not "),
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(run: Run, words: list[str], said: str) -> None:
    code, out, err = run(*words)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith(f"kemi-nsq: {said}")


def test_no_consumer_that_runs_is_the_world_not_ready(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    for words in (["reset", "all"], ["set", URI, "--state", "busy"], ["log-events", "on"], ["list"]):
        code, out, err = run(*words)
        assert (code, out) == (1, "")
        assert err.startswith("kemi-nsq: no consumer runs; is NSQ_RUN_DIR ")


def test_a_database_that_is_not_there_is_the_world_not_ready(run: Run, tmp_path: Path) -> None:
    code, out, err = run("list", db=tmp_path / "none.db")
    assert (code, out, err) == (1, "", f"kemi-nsq: there is no file {tmp_path / 'none.db'}\n")
    assert not (tmp_path / "none.db").exists()


# What others have written


def test_hostile_text_in_rows_does_not_reach_the_terminal(run: Run, database: Path) -> None:
    bad = "\x1b]0;gotcha\x07\x9b31m\r\n[bold]"
    body = f"<dialog-info xmlns='urn:ietf:params:xml:ns:dialog-info'><dialog call-id='{bad[-6:]}'/></dialog-info>"
    execute(
        database,
        "INSERT INTO presentity (username, domain, event, etag, expires, received_time, body, sender, ruid)"
        " VALUES (:user, 'example.com', :bad, :bad, 2000000000, 99999999999999, :body, :bad, :bad)",
        {"user": f"mallory{bad}", "bad": bad, "body": body.encode()},
    )
    statement, values = subscription(URI, "dialog", number=1)
    execute(database, statement, values | {"contact": bad, "user_agent": bad, "callid": bad})
    execute(database, "UPDATE presentity SET sender = CAST(x'ff41fe' AS TEXT), body = 'text' WHERE expires < 0", {})
    for words in (["list", "--all"], ["watchers"], ["explain", URI], ["show", URI]):
        code, out, _ = run(*words, db=database)
        assert code == 0
        assert all(char.isprintable() or char == "\n" for char in out), words
        assert len(run(*words, "--json", db=database)[1]) > 0
    assert "[bold]" in run("list", db=database)[1], "no markup of theirs is obeyed"


def test_a_document_that_wants_to_grow_is_told_and_not_read(run: Run, database: Path) -> None:
    bomb = b"<!DOCTYPE d [<!ENTITY a '" + b"x" * 1000 + b"'>"
    for one, two in zip("abcdefg", "bcdefgh", strict=True):
        bomb += f"<!ENTITY {two} '{f'&{one};' * 30}'>".encode()
    bomb += b"]><dialog-info xmlns='urn:ietf:params:xml:ns:dialog-info'><dialog call-id='&h;'/></dialog-info>"
    execute(database, "UPDATE presentity SET body = :body WHERE expires > 0", {"body": bomb})
    began = time.monotonic()
    code, out, _ = run("show", URI, db=database)
    assert (code, time.monotonic() - began < 5) == (0, True)
    assert len(out) < 5000


# With a consumer


def test_a_consumer_tells_where_the_database_is_and_what_it_remembers(
    run: Run, folder: RunFolder, consumer: Consumer
) -> None:
    assert folder.place is not None
    with answering(folder.place, consumer.answer):
        code, out, err = run("explain", URI)
    assert (code, err) == (0, "")
    assert " stale     early\\x1b[2J, message 00000000000000ff of events, sent " in out
    assert ", delivered before\n" in out
    assert f"consumer {os.getpid()} remembers 1 of 3 decisions" in out
    assert ("history", {"uri": URI, "package": "", "most": 2000}) in consumer.asked


def test_a_consumer_that_does_not_say_is_named(run: Run, folder: RunFolder, consumer: Consumer) -> None:
    consumer.fails = ConnectionLost("the main thread is busy")
    with answering(folder.place, consumer.answer):
        code, out, _ = run("explain", URI)
    assert code == 0
    assert out.endswith("the main thread is busy\n")
    assert "confirmed" in out


def test_a_reset_in_pieces_is_counted_together(run: Run, folder: RunFolder, consumer: Consumer) -> None:
    with answering(folder.place, consumer.answer):
        assert run("reset", "realm", "example.com") == (0, "4 states ended of realm example.com\n", "")
    assert [arguments for verb, arguments in consumer.asked if verb == "reset"] == [
        {"scope": "realm example.com", "position": "", "below": ""},
        {"scope": "realm example.com", "position": "5", "below": "7"},
    ]


@pytest.mark.parametrize(("error", "code"), [(UsageError("no scope"), 2), (ConnectionLost("busy"), 1)])
def test_a_reset_that_cannot_be_done_says_why(
    run: Run, folder: RunFolder, consumer: Consumer, error: Exception, code: int
) -> None:
    consumer.fails = error
    with answering(folder.place, consumer.answer):
        assert run("reset", "x") == (code, "", f"kemi-nsq: {error}\n")


def test_a_reset_that_breaks_off_says_how_far_it_came(run: Run, folder: RunFolder, consumer: Consumer) -> None:
    def answer(verb: str, arguments: JsonObject) -> JsonValue:
        if arguments.get("below"):
            raise ConnectionLost("the database failed")
        return consumer.answer(verb, arguments)

    with answering(folder.place, answer):
        assert run("reset", "all") == (1, "", "kemi-nsq: the database failed; 2 states had ended, so do it again\n")


def test_lines_are_switched_on_in_each_consumer(run: Run, folder: RunFolder, consumer: Consumer) -> None:
    with answering(folder.place, consumer.answer):
        assert run("log-events", "on") == (0, f"consumer {os.getpid()}: on\n", "")
        assert json.loads(run("log-events", "off", "--json")[1]) == {"consumers": [os.getpid()], "logs": False}
    assert consumer.asked == [("log-events", {"on": True}), ("log-events", {"on": False})]


def test_an_older_release_that_runs_there_is_told(run: Run, folder: RunFolder, database: Path) -> None:
    with answering(folder.place, lambda _verb, _arguments: {"x": 1}):
        code, out, err = run("reset", "all")
    assert (code, out, err) == (1, "", f"kemi-nsq: consumer {os.getpid()} is of another release: restart Kamailio\n")


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        (
            ["--state", "confirmed", "--to", "sip:bob@example.com"],
            {"Event-Package": "dialog", "To": "sip:bob@example.com"},
        ),
        (["--state", "early", "--call-id", "c7", "--expires", "9"], {"Call-ID": "c7", "To": URI, "Expires": 9}),
        (["--state", "busy", "--sender", "sip:pbx@x"], {"Event-Package": "presence", "Sender-URI": "sip:pbx@x"}),
        (["--state", "2/5"], {"Messages-New": "2", "Messages-Saved": "5", "Sender-URI": "sip:kemi-nsq@localhost"}),
        (["--state", "registered", "--event", "reg", "--to", "sip:a@192.0.2.1"], {"Contact": "sip:a@192.0.2.1"}),
        (["--state", "Registered"], {"Event-Package": "reg", "Contact": URI}),
        (["--state", "lunch"], {"Event-Package": "presence", "State": "lunch"}),
        (["--state", "ringing", "--event", "presence"], {"Event-Package": "presence", "State": "ringing"}),
    ],
)
def test_a_state_is_published_where_a_consumer_takes_it_from(
    run: Run, folder: RunFolder, consumer: Consumer, words: list[str], fields: dict[str, JsonValue]
) -> None:
    with Nsqd(consumer.database.with_name("nsqd")) as nsqd, answering(folder.place, consumer.answer):
        consumer.nsqd_address = nsqd.http_address
        code, out, err = run("set", URI, *words, NSQ_PUA_STATES="Lunch=open:At lunch")
        assert (code, err) == (0, "")
        assert nsqd.topic("events")["message_count"] == 1
        _, in_json, _ = run("set", URI, *words, "--json", NSQ_PUA_STATES="Lunch=open:At lunch")
    where, _, text = out.partition(": ")
    assert where == f"published to events at {consumer.nsqd_address}"
    said = json.loads(text)
    assert json.loads(in_json) == {"topic": "events", "nsqd": consumer.nsqd_address, "event": said}
    assert said.items() >= {"Category": "presence", "Name": "update", "From": URI, **fields}.items()
    assert from_event(said).presentity.uri == URI


def test_a_reset_of_a_sender_is_published_with_no_consumer_at_all(run: Run, tmp_path: Path) -> None:
    with Nsqd(tmp_path / "nsqd") as nsqd:
        words = ["reset", "--publish", "sender", "sip:pbx@x", "--topic", "t", "--nsqd", nsqd.http_address]
        code, out, err = run(*words)
        assert (code, err) == (0, "")
        assert nsqd.topic("t")["message_count"] == 1
    said = {"Event-Category": "presence", "Event-Name": "reset", "Sender-URI": "sip:pbx@x"}
    assert json.loads(out.partition(": ")[2]) == said


# A board that lives


@contextmanager
def watching(database: Path, folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Run the board in a pipe, on a database alone."""
    environment = {"PATH": os.environ["PATH"], "NSQ_DB_URL": f"sqlite:///{database}", "NSQ_RUN_DIR": str(folder)}
    command = [TOOL, "presence", "watch", *words]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment | coverage()
    )
    assert process.stdout is not None
    with process, closing(process.stdout) as lines:
        try:
            yield process, lines
        finally:
            process.kill()


def coverage() -> dict[str, str]:
    """Return what lets a program that is started count what it executes, where that is wanted."""
    return {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}


def test_a_board_in_a_pipe_tells_each_change_and_bears_a_database_that_fails(database: Path, tmp_path: Path) -> None:
    with watching(database, tmp_path / "run") as (process, lines):
        assert lines.readline()[20:] == f"{URI} dialog confirmed (with sip:bob@example.com, call c1)\n"
        execute(database, "UPDATE presentity SET event = 'presence', body = :body WHERE expires > 0", {"body": b"?"})
        assert lines.readline()[20:] == f"{URI} presence ? (a document that nobody can read)\n"
        assert lines.readline()[20:] == f"{URI} dialog gone\n"
        database.rename(tmp_path / "away.db")
        assert "problem: " in lines.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_board_can_be_read_by_programs(database: Path, tmp_path: Path) -> None:
    with watching(database, tmp_path / "run", "--json") as (_, lines):
        first = json.loads(lines.readline())
        assert (first["uri"], first["package"], first["state"]["state"]) == (URI, "dialog", "confirmed")
        execute(database, "DELETE FROM presentity WHERE expires > 0", {})
        gone = json.loads(lines.readline())
        assert (gone["uri"], gone["state"], gone["problem"]) == (URI, None, "")


def test_a_board_in_a_terminal_lives_until_ctrl_c(database: Path, tmp_path: Path) -> None:
    with Terminal(tmp_path) as terminal:
        variables = f"NSQ_DB_URL=sqlite:///{database} NSQ_RUN_DIR={tmp_path / 'run'}"
        terminal.type(f"{variables} {TOOL} presence watch {URI}; echo ended with $?")
        until(lambda: re.search(f"{URI} +dialog +confirmed ", terminal.screen()), timeout_s=20, what="the lamp")
        execute(database, "DELETE FROM presentity", {})
        until(lambda: "0 states" in terminal.screen(), timeout_s=20, what="the lamp to go")
        terminal.interrupt()
        until(lambda: "ended with 0" in terminal.screen(), timeout_s=20, what="the end")
        assert "Traceback" not in terminal.screen()


def test_a_board_that_is_too_long_for_the_terminal_says_how_much_of_it_is_there(database: Path, tmp_path: Path) -> None:
    table = PresentityTable(f"sqlite+pysqlite:///{database}", "presentity")
    for number in range(20):
        fields = FIELDS | {"From": f"sip:user{number}@example.com", "Call-ID": f"c-{number}"}
        table.save(event_row(fields, Order(NOW * 10**9 + number, f"{number:016x}"), now=NOW))
    table.close()
    with Terminal(tmp_path, height=13) as terminal:
        terminal.type(f"NSQ_DB_URL=sqlite:///{database} NSQ_RUN_DIR={tmp_path / 'run'} {TOOL} presence watch")
        said = "21 states, the first 10 here: name whom to watch"
        until(lambda: said in terminal.screen(), timeout_s=20, what="how many there are")
        assert terminal.screen().count(" confirmed ") == 10
        terminal.interrupt()
