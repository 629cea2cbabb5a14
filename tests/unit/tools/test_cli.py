# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: exit codes 0, 1 and 2, one line on standard error, and nothing of a traceback."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kemi_nsq.errors import ConnectionLost, DeadlineExceeded, NsqError, PayloadError, QueryFailed, UsageError
from kemi_nsq.settings import names
from kemi_nsq.tools import cli, files, reference, responder
from tests.support.ports import LOOPBACK, free_tcp_port
from tests.support.settings import wipe_environment

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the command in this process; it returns exit code, output and errors."""

    def run(*words: str, stdin: bytes = b"", **environment: str) -> tuple[int, str, str]:
        wipe_environment(monkeypatch)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["kemi-nsq", *words])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        assert isinstance(code, int)
        return code, *capfd.readouterr()

    return run


@pytest.fixture(scope="module")
def nobody() -> str:
    """Return an address where nobody listens."""
    return f"{LOOPBACK}:{free_tcp_port()}"


def test_the_installed_command_is_this_one() -> None:
    ours = str(Path(sys.executable).with_name("kemi-nsq"))
    done = subprocess.run([ours, "publish", "a/b", "{}"], capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "kemi-nsq: 'a/b' is no name for a topic or channel\n"


# The world is not ready


@pytest.mark.parametrize(
    "words",
    [("publish", "t", "{}"), ("query", "t", "{}"), ("respond", "--topic", "t", "--reply", "{}")],
    ids=lambda words: words[0],
)
def test_without_nsqd_it_is_one_line_and_exit_code_1(run: Run, words: tuple[str, ...], nobody: str) -> None:
    code, out, err = run(*words, "--nsqd", nobody)
    assert (code, out) == (1, "")
    assert re.fullmatch(rf"kemi-nsq: nsqd {nobody}: Connection refused; see NSQ_NSQD_(TCP_)?ADDRESS\n", err)


def test_addresses_come_from_the_environment(run: Run, nobody: str) -> None:
    assert nobody in run("publish", "t", "{}", NSQ_NSQD_ADDRESS=nobody)[2]
    assert nobody in run("query", "t", "{}", NSQ_NSQD_TCP_ADDRESS=nobody)[2]


# The input is wrong

HINT = "(in the shell, put the JSON between single quotes)"
WRONG: dict[str, tuple[tuple[str, ...], bytes, str]] = {
    "payload": (("publish", "t", "{Call-ID: 1}"), b"", HINT),
    "array": (("publish", "t", "[]"), b"", "a JSON object is wanted"),
    "stdin": (("publish", "t", "-"), b"no", HINT),
    "stdin not UTF-8": (("publish", "t", "-"), b'"\xff"', "standard input is not UTF-8"),
    "topic": (("publish", "a/b", "{}"), b"", "'a/b' is no name for a topic or channel"),
    "address": (("publish", "t", "{}", "--nsqd", "nowhere"), b"", "'nowhere' is no host:port"),
    "query address": (("query", "t", "{}", "--nsqd", "nowhere"), b"", "NSQ_NSQD_TCP_ADDRESS"),
    "query topic": (("query", "a b", "{}"), b"", "'a b' is no name for a topic or channel"),
    "query payload": (("query", "t", "x"), b"", HINT),
    "respond neither": (("respond", "--topic", "t"), b"", "one of --reply and --exec is needed"),
    "respond both": (("respond", "--topic", "t", "--reply", "{}", "--exec", "x"), b"", "one of --reply and --exec"),
    "respond reply": (("respond", "--topic", "t", "--reply", "x"), b"", HINT),
    "respond topic": (("respond", "--topic", "a b", "--reply", "{}"), b"", "'a b' is no name"),
    "respond command": (("respond", "--topic", "t", "--exec", "it's"), b"", "is no command: No closing quotation"),
    "respond no command": (("respond", "--topic", "t", "--exec", " "), b"", "the command is empty"),
    "reference": (("reference", "--write", "/nowhere/reference.md"), b"", "/nowhere/reference.md: No such file"),
}


@pytest.mark.parametrize(("words", "stdin", "said"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_line_and_exit_code_2(run: Run, words: tuple[str, ...], stdin: bytes, said: str) -> None:
    code, out, err = run(*words, stdin=stdin)
    assert (code, out) == (2, "")
    assert err.startswith("kemi-nsq: ")
    assert len(err.splitlines()) == 1
    assert said in err


@pytest.mark.parametrize(
    "words", [("presence", "set", "nonsense", "--state", "busy"), ("presence", "explain", "nonsense")]
)
def test_who_gave_no_json_is_not_told_how_to(run: Run, words: tuple[str, ...], tmp_path: Path) -> None:
    code, out, err = run(*words, NSQ_RUN_DIR=str(tmp_path), NSQ_DB_URL=f"sqlite:///{tmp_path}/none.db")
    assert (code, out) == (2, "")
    assert err.startswith("kemi-nsq: URI is 'nonsense'")
    assert "JSON" not in err


def test_a_wrong_setting_is_exit_code_2(run: Run) -> None:
    code, _, err = run("settings", NSQ_MAX_IN_FLIGTH="5")
    assert code == 2
    assert err == (
        "kemi-nsq: NSQ_MAX_IN_FLIGTH (environment) is no setting of kemi-nsq; did you mean NSQ_MAX_IN_FLIGHT?\n"
    )


@pytest.mark.parametrize("words", [("publish",), ("query", "t"), ("nonsense",), ("query", "t", "{}", "--timeout", "x")])
def test_wrong_usage_is_exit_code_2_without_a_traceback(run: Run, words: tuple[str, ...]) -> None:
    code, _, err = run(*words)
    assert code == 2
    assert "Usage: kemi-nsq" in err
    assert "Traceback" not in err


# What needs nothing


@pytest.mark.parametrize("userinfo", ["kamailio:hunter2", "kamailio:hun%40ter2:hunter2", ":hunter2"])
def test_settings_hides_the_password_of_the_database(run: Run, userinfo: str) -> None:
    code, out, _ = run("settings", NSQ_DB_URL=f"postgres://{userinfo}@db.example/kamailio")
    assert code == 0
    assert f"//{userinfo.partition(':')[0]}:***@db.example/kamailio" in out
    assert "ter2" not in out


def test_settings_hides_the_options_of_the_url_of_the_database_and_of_nothing_else(run: Run) -> None:
    environment = {"NSQ_DB_URL": "postgres://kamailio@db.example/kamailio?password=hunter2&sslpassword=hunter3"}
    code, out, _ = run("settings", **environment, NSQ_PUA_STATES="lost=open:Where?")
    assert code == 0
    assert "//kamailio@db.example/kamailio?*** " in out
    assert "hunter" not in out
    assert "Where?" in out


def test_settings_shows_each_with_its_value(run: Run) -> None:
    code, out, err = run("settings", NSQ_MAX_IN_FLIGHT="77")
    assert (code, err) == (0, "")
    shown = {line.split()[0]: line for line in out.splitlines() if line.lstrip().startswith("NSQ_")}
    assert list(shown) == names()
    assert shown["NSQ_MAX_IN_FLIGHT"].split()[1] == "77"
    assert len(out.splitlines()) == len(names()) + 1, "in a pipe nothing is wrapped"
    said = json.loads(run("settings", "--json", NSQ_MAX_IN_FLIGHT="77")[1])
    assert ([*said], said["NSQ_MAX_IN_FLIGHT"]) == (names(), "77")


def test_reference_writes_the_page_of_the_docs(run: Run, tmp_path: Path) -> None:
    code, out, err = run("reference")
    assert (code, err) == (0, "")
    assert out == reference.markdown()
    assert run("reference", "--write", str(tmp_path / "page.md")) == (0, "", "")
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == out


def test_files_are_those_of_the_checkout(run: Run) -> None:
    shipped = Path(__file__).parents[3] / "kamailio"
    assert run("files") == (0, f"{shipped}\n", "")
    assert run("files", "examples/redirect.py") == (0, f"{shipped / 'examples/redirect.py'}\n", "")
    code, output, errors = run("files", "nsq.conf")
    assert (code, output) == (2, "")
    assert re.fullmatch(r"kemi-nsq: no file is called 'nsq.conf'; there are .*\bnsq\.cfg, nsq\.py\b.*\n", errors)


def test_an_installation_without_files_says_so(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(files, "_FOLDERS", (tmp_path / "share", tmp_path / "kamailio"))
    code, output, errors = run("files")
    assert (code, output) == (2, "")
    assert errors == (
        f"kemi-nsq: this installation has no nsq.py, neither in {tmp_path}/share nor in {tmp_path}/kamailio: "
        "install it anew\n"
    )


def test_a_kamailio_cfg_has_the_settings_and_wins_over_the_environment(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "kamailio.cfg"
    more = tmp_path / "more.cfg"
    config.write_text('#!define DEPTH 77\n#!define NSQ_MAX_IN_FLIGHT DEPTH\ninclude_file "more.cfg"\n')
    more.write_text("#!ifndef NSQ_BATCH\n#!define NSQ_BATCH 3\n#!endif\n#!trydef NSQ_MAX_IN_FLIGHT 5\n")
    environment = {"NSQ_MAX_IN_FLIGHT": "66", "NSQ_MAX_ATTEMPTS": "4", "COLUMNS": "200"}
    code, out, err = run("--config", str(config), "settings", **environment)
    shown = {line.split()[0]: line.split()[1] for line in out.splitlines() if line.lstrip().startswith("NSQ_")}
    assert (code, err) == (0, "")
    assert [shown[f"NSQ_{name}"] for name in ("MAX_IN_FLIGHT", "BATCH", "MAX_ATTEMPTS")] == ["77", "3", "4"]
    code, out, _ = run("settings", **environment)
    assert "66" in next(line for line in out.splitlines() if "NSQ_MAX_IN_FLIGHT" in line)


def test_other_verbs_take_the_settings_of_a_kamailio_cfg(run: Run, tmp_path: Path, nobody: str) -> None:
    config = tmp_path / "kamailio.cfg"
    config.write_text(f'#!define NSQ_NSQD_ADDRESS "{nobody}"\n#!define NSQ_NSQD_TCP_ADDRESS "{nobody}"\n')
    config.write_text(config.read_text() + f'#!define NSQ_RUN_DIR "{tmp_path}/run"\n')
    for words in (["publish", "t", "{}"], ["query", "t", "{}"], ["tail", "t"], ["dead-letters", "list", "--from", "t"]):
        code, _, err = run("--config", str(config), *words)
        assert (code, nobody in err) == (1, True), words
    for words in (["status"], ["pause"], ["presence", "reset", "all"]):
        code, out, err = run("--config", str(config), *words)
        assert code > 0
        assert f"{tmp_path}/run" in out + err


def test_a_kamailio_cfg_that_cannot_be_read_is_exit_code_2(run: Run) -> None:
    code, out, err = run("--config", "/nowhere/kamailio.cfg", "settings")
    assert (code, out, err) == (2, "", "kemi-nsq: --config /nowhere/kamailio.cfg: No such file or directory\n")
    code, out, err = run("doctor", "/nowhere/kamailio.cfg")
    assert (code, out, err) == (2, "", "kemi-nsq: /nowhere/kamailio.cfg: No such file or directory\n")


def test_a_wrong_setting_of_a_kamailio_cfg_is_exit_code_2(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "kamailio.cfg"
    config.write_text("#!define NSQ_MAX_IN_FLIGTH 5\n")
    code, _, err = run("--config", str(config), "settings")
    assert (code, err.startswith("kemi-nsq: NSQ_MAX_IN_FLIGTH (#!define) is no setting of kemi-nsq")) == (2, True)


def test_the_version_is_that_of_the_package(run: Run) -> None:
    assert run("--version") == (0, f"kemi-nsq {version('kemi-nsq')}\n", "")


def test_help_names_the_commands(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert {"publish", "query", "respond", "settings", "reference"} <= set(out.split())


# What an error becomes


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConnectionLost("gone"), 1, "kemi-nsq: gone\n"),
        (DeadlineExceeded("nothing came in time"), 1, "kemi-nsq: nothing came in time\n"),
        (QueryFailed("bad reply"), 1, "kemi-nsq: bad reply\n"),
        (UsageError("wrong"), 2, "kemi-nsq: wrong\n"),
        (PayloadError("wrong"), 2, "kemi-nsq: wrong\n"),
    ],
)
def test_an_error_becomes_a_line_and_a_code(
    error: NsqError, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    assert cli.run(fail) == code
    assert capsys.readouterr() == ("", line)


def test_an_interrupt_is_a_normal_end(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    assert cli.run(interrupt) == 0
    assert capsys.readouterr() == ("", "")


def test_query_prints_the_reply_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responder, "ask", lambda *_arguments, timeout_s: f'{{"timeout": {timeout_s}}}')
    result = CliRunner().invoke(cli.app, ["query", "t", "{}", "--timeout", "0.5", "--nsqd", "a:1"])
    assert (result.exit_code, result.output) == (0, '{"timeout": 0.5}\n')


# Responders


def test_a_fixed_answer_is_the_same_for_all() -> None:
    answer = responder.fixed('{"a": 1}')
    assert answer("{}") == answer('{"b": 2}') == {"a": 1}


def test_a_command_reads_the_request_and_prints_the_answer() -> None:
    assert responder.executed("cat")('{"ä": [1, "€"]}') == {"ä": [1, "€"]}


@pytest.mark.parametrize("command", ["/nowhere/at-all", "false", "echo no JSON", "echo []", r"printf '\xff'", "true"])
def test_a_command_that_fails_has_no_answer(command: str) -> None:
    answer = responder.executed(command)
    with pytest.raises(UsageError):  # of which `PayloadError` is one
        answer("{}")
