# SPDX-License-Identifier: GPL-2.0-or-later
"""How a tool asks a consumer process that runs: by a Unix stream socket in the runtime folder, one question at a time.

A page (`page`) is there whatever becomes of its process, and has a fixed size. What has no fixed size, or must be done
by the process, is asked for here. Somebody answers only while a thread of Python's runs: not while a native route
blocks.

A question is a line of JSON, `{"verb": ..., "arguments": {...}}`. The answer is `{"answer": ...}`, or `{"error": text,
"usage": whether the question was wrong}`, until the end of the stream. Both have a size and a time that they may take.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import orjson

from kemi_nsq.errors import ConnectionLost, DeadlineExceeded, NsqError, RunFolderError, UsageError
from kemi_nsq.jsontext import JsonObject, JsonValue
from kemi_nsq.runtime.listening import ListeningSocket
from kemi_nsq.runtime.place import SETTING, SOCKET

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Answers a verb: from its arguments to what it has to say. It raises NsqError where it cannot.
Answerer: TypeAlias = Callable[[str, JsonObject], JsonValue]

#: Seconds in which a tool must have asked, and in which it must have read the answer.
PATIENCE_S = 2.0
_LARGEST_QUESTION = 64 * 1024
_LARGEST_ANSWER = 16 * 1024 * 1024
_CHUNK = 64 * 1024


def console_name(pid: int) -> str:
    """Return the name of the socket of a process."""
    return f"console-{pid}{SOCKET}"


class Listener(ListeningSocket):
    """The socket of a process at which tools ask. Only this user, and root, is answered."""

    def serve(self, answer: Answerer, wait_s: float) -> None:
        """Answer the next question, if one comes within `wait_s` seconds. What a tool does wrong is its own loss."""
        if self.fileno() < 0:
            time.sleep(wait_s)
            return
        asking = self.accept(wait_s)
        if asking is None:
            return
        with asking, suppress(OSError, NsqError):
            question = receive(asking, _LARGEST_QUESTION, time.monotonic() + PATIENCE_S, end=b"\n")
            if _has_gone(asking):  # this process stood still, and its operator was told that nothing came of it
                return
            send(asking, _answered(question, answer), time.monotonic() + PATIENCE_S)


def ask(folder: Path, pid: int, verb: str, arguments: JsonObject | None = None, *, timeout_s: float) -> JsonValue:
    """Ask a consumer process, and return what it says.

    Args:
        folder: the runtime folder, NSQ_RUN_DIR.
        pid: the process.
        verb: what to ask for.
        arguments: its arguments.
        timeout_s: seconds, for all of it.

    Raises:
        UsageError: the process says that the question is wrong.
        RunFolderError: the folder cannot be reached.
        ConnectionLost: nobody is there, or it could not do what was asked.
        DeadlineExceeded: it did not answer in time: no thread of it runs, say.
    """
    deadline = time.monotonic() + timeout_s
    with _connected(folder, pid, deadline) as asking:
        send(asking, orjson.dumps({"verb": verb, "arguments": arguments or {}}) + b"\n", deadline)
        said = receive(asking, _LARGEST_ANSWER, deadline)
    try:
        answer = orjson.loads(said)
    except orjson.JSONDecodeError as error:
        raise ConnectionLost(f"consumer {pid} ended while it answered") from error
    if "error" in answer:
        raise (UsageError if answer["usage"] else ConnectionLost)(answer["error"])
    found: JsonValue = answer["answer"]
    return found


@contextmanager
def _connected(folder: Path, pid: int, deadline: float) -> Iterator[socket.socket]:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise RunFolderError(f"{SETTING} {folder} cannot be read: {error.strerror}") from None
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            try:
                asking.settimeout(max(0.001, deadline - time.monotonic()))
                # By the folder's descriptor: a socket's path has 107 bytes at most (unix(7)).
                asking.connect(f"/proc/self/fd/{descriptor}/{console_name(pid)}")
                yield asking
            except TimeoutError:
                raise DeadlineExceeded(f"consumer {pid} does not answer") from None
            except OSError as error:
                raise ConnectionLost(f"consumer {pid} cannot be asked: {error.strerror}") from None
    finally:
        os.close(descriptor)


def _has_gone(peer: socket.socket) -> bool:
    """Whether who asked does not wait for the answer any more."""
    peer.setblocking(False)
    try:
        return not peer.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False


def _answered(question: bytes, answer: Answerer) -> bytes:
    """Return what is answered to a question. A bug in an answer must not end who answers."""
    try:
        asked = orjson.loads(question)
        said = orjson.dumps({"answer": answer(str(asked["verb"]), dict(asked["arguments"]))})
        if len(said) > _LARGEST_ANSWER:
            raise UsageError("the answer is too large: ask for less")
        return said
    except NsqError as error:
        return orjson.dumps({"error": str(error), "usage": isinstance(error, UsageError)})
    except Exception as error:
        return orjson.dumps({"error": f"{type(error).__name__}: {error}; please report this", "usage": False})


def receive(peer: socket.socket, most: int, deadline: float, end: bytes = b"") -> bytes:
    """Return what a peer sends until `end`, or until it closes; all of it must come by a monotonic second.

    Raises:
        DeadlineExceeded: it does not, or has more than `most` bytes.
        OSError: the peer is gone, or silent.
    """
    data = bytearray()
    while not (end and data.endswith(end)):
        peer.settimeout(max(0.001, deadline - time.monotonic()))
        chunk = peer.recv(_CHUNK)
        if not chunk:
            break
        data += chunk
        if len(data) > most or time.monotonic() > deadline:
            raise DeadlineExceeded("too much, or too slow")
    return bytes(data)


def send(peer: socket.socket, data: bytes, deadline: float) -> None:
    """Send all of it by a monotonic second; raises OSError if the peer does not take it."""
    peer.settimeout(max(0.001, deadline - time.monotonic()))
    peer.sendall(data)
