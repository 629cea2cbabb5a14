# SPDX-License-Identifier: GPL-2.0-or-later
"""Questions to a process by its socket in the runtime folder: from its own user, in time, of a bounded size."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from kemi_nsq.errors import ConnectionLost, DeadlineExceeded, RunFolderError, UsageError
from kemi_nsq.jsontext import JsonObject, JsonValue
from kemi_nsq.runtime import console
from kemi_nsq.runtime.console import Listener, ask, console_name
from kemi_nsq.runtime.place import Place
from tests.support.answering import answering
from tests.support.places import NOBODY, new_place, run_as
from tests.support.until import until

PID = os.getpid()
IN_TIME_S = 5.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def place(path: Path) -> Place:
    return new_place(path)


def echo(verb: str, arguments: JsonObject) -> JsonValue:
    """Answer with the question; fail as its verb says."""
    match verb:
        case "wrong":
            raise UsageError("that is no question")
        case "busy":
            raise ConnectionLost("not now")
        case "bug":
            raise ZeroDivisionError("oh")
        case "huge":
            return "x" * 17_000_000
        case "large":
            return "x" * 5_000_000
        case _:
            return {"verb": verb, **arguments}


@contextmanager
def connected(path: Path) -> Iterator[socket.socket]:
    with closing(socket.socket(socket.AF_UNIX)) as asking:
        asking.settimeout(IN_TIME_S)
        asking.connect(str(path / console_name(PID)))
        yield asking


def test_a_question_is_answered(place: Place, path: Path) -> None:
    with answering(place, echo):
        assert ask(path, PID, "status", {"a": [1, "é"]}, timeout_s=IN_TIME_S) == {"verb": "status", "a": [1, "é"]}
        assert stat.S_IMODE((path / console_name(PID)).stat().st_mode) == 0o600
    assert not (path / console_name(PID)).exists()


@pytest.mark.parametrize(
    ("verb", "kind", "said"),
    [
        ("wrong", UsageError, "that is no question"),
        ("busy", ConnectionLost, "not now"),
        ("bug", ConnectionLost, "ZeroDivisionError: oh; please report this"),
        ("huge", UsageError, "the answer is too large: ask for less"),
    ],
)
def test_what_cannot_be_answered_is_said_and_the_next_question_is_answered(
    place: Place, path: Path, verb: str, kind: type[Exception], said: str
) -> None:
    with answering(place, echo):
        with pytest.raises(kind) as caught:
            ask(path, PID, verb, timeout_s=IN_TIME_S)
        assert str(caught.value) == said
        assert ask(path, PID, "x", timeout_s=IN_TIME_S) == {"verb": "x"}


def test_an_answer_may_be_large(place: Place, path: Path) -> None:
    with answering(place, echo):
        assert ask(path, PID, "large", timeout_s=IN_TIME_S) == "x" * 5_000_000


@pytest.mark.parametrize(
    "question", [b"\n", b"no json\n", b"[]\n", b'{"verb": "x"}\n', b'{"verb": 1, "arguments": 2}\n', b"x" * 100_000]
)
def test_nonsense_is_refused_and_costs_nobody_anything(place: Place, path: Path, question: bytes) -> None:
    with answering(place, echo):
        with connected(path) as asking:
            try:
                asking.sendall(question)
                said = asking.recv(100_000)
            except (BrokenPipeError, ConnectionResetError):  # it was too much
                said = b""
            assert said == b"" or "error" in json.loads(said)
        assert ask(path, PID, "x", timeout_s=IN_TIME_S) == {"verb": "x"}


def test_who_asks_and_says_nothing_is_left_alone_soon(
    place: Place, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "PATIENCE_S", 0.2)
    with answering(place, echo), connected(path) as silent:
        assert ask(path, PID, "x", timeout_s=IN_TIME_S) == {"verb": "x"}
        assert silent.recv(1) == b""


def test_who_does_not_read_the_answer_is_left_alone_soon(
    place: Place, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "PATIENCE_S", 0.2)
    with answering(place, echo), connected(path) as deaf:
        deaf.sendall(b'{"verb": "large", "arguments": {}}\n')
        assert ask(path, PID, "x", timeout_s=IN_TIME_S) == {"verb": "x"}


def test_who_is_stuck_costs_who_asks_no_more_than_his_time(place: Place, path: Path) -> None:
    with answering(place, echo) as listener:
        with connected(path), pytest.raises(DeadlineExceeded, match=f"consumer {PID} does not answer"):
            ask(path, PID, "x", timeout_s=0.1)
        assert listener is not None


def test_what_its_operator_was_told_has_failed_is_not_done_later(place: Place, path: Path) -> None:
    asked: list[str] = []

    def answer(verb: str, _arguments: JsonObject) -> JsonValue:
        asked.append(verb)
        return None

    listener = Listener(place, console_name(PID))
    listener.keep_open()  # and nobody serves: the process stands still
    with pytest.raises(DeadlineExceeded):
        ask(path, PID, "pause", timeout_s=0.05)
    with connected(path) as asking:
        asking.sendall(b'{"verb": "status", "arguments": {}}\n')
        listener.serve(answer, IN_TIME_S)
        listener.serve(answer, IN_TIME_S)
    listener.close()
    assert asked == ["status"]


def test_nobody_there_and_no_folder_are_told(place: Place, path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConnectionLost, match=f"consumer {PID} cannot be asked: No such file or directory"):
        ask(path, PID, "x", timeout_s=1)
    with pytest.raises(RunFolderError, match="cannot be read: No such file or directory"):
        ask(tmp_path / "none", PID, "x", timeout_s=1)


def test_a_socket_that_was_removed_is_there_again(place: Place, path: Path) -> None:
    with answering(place, echo):
        (path / console_name(PID)).unlink()
        assert until(lambda: ask(path, PID, "x", timeout_s=1), what="an answer") == {"verb": "x"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_stranger_who_gets_at_the_socket_is_not_answered(place: Place, path: Path) -> None:
    """The folder keeps strangers away; here it was opened to them."""
    with answering(place, echo):
        for opened, mode in ((path, 0o755), (path / console_name(PID), 0o666), *((up, 0o755) for up in path.parents)):
            if opened.stat().st_uid == os.geteuid() and opened != Path("/"):
                opened.chmod(opened.stat().st_mode | mode)
        program = """
            import socket, sys
            asking = socket.socket(socket.AF_UNIX)
            asking.settimeout(5)
            asking.connect(sys.argv[1])
            try:
                asking.sendall(b'{"verb": "x", "arguments": {}}\\n')
                print(asking.recv(1000))
            except ConnectionError:
                print(b"")
        """
        assert run_as(NOBODY, program, str(path / console_name(PID))) == "b''\n"
