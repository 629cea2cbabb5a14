# SPDX-License-Identifier: GPL-2.0-or-later
"""Linphone as the watcher of dialogs: a phone's SIP stack that others wrote, run by `linphone_program`.

Linphone hands on a dialog-info document as it came and shows no lamp itself, so a test reads the document.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from tests.support.documents import DialogInfo, parse_dialog_info
from tests.support.process import ChildProcess
from tests.support.sip_endpoint import Target
from tests.support.until import until

T = TypeVar("T")

PROGRAM = Path(__file__).with_name("linphone_program.py")

#: An answer to a NOTIFY in the library's log, which holds each SIP message in full.
_ANSWER = re.compile(r"^SIP/2\.0 (\d{3}) .*\n(?:.+\n)*?CSeq: (\d+) NOTIFY", re.MULTILINE)


class LinphonePhone:
    """A phone that watches the dialogs of others.

    Entering the context starts it, which subscribes; leaving it ends the program, without an un-SUBSCRIBE.
    """

    def __init__(self, server: Target, folder: Path, *watched: str) -> None:
        """Prepare it.

        Args:
            server: host and port of the SIP server, which gets every SUBSCRIBE.
            folder: where its files go; must be there.
            watched: URIs of those whose dialogs it subscribes to.
        """
        host, port = server
        self._folder = folder
        self._reports = folder / "reports.jsonl"
        self._command = [sys.executable, str(PROGRAM), str(folder), f"{host}:{port}", *watched]

    def __enter__(self) -> Self:
        self._reports.touch(exist_ok=False)
        # Nothing of the user's: no configuration of theirs and no sound server.
        environment = {"HOME": str(self._folder), "LANG": "C.UTF-8", "PATH": os.defpath}
        self._process = ChildProcess("linphone", self._command, folder=self._folder, environment=environment)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stop()
        if error is None:
            assert self._process.exit_code == 0, self._process.log_text()

    def states(self, uri: str) -> list[str]:
        """Return the states of a subscription so far: `progress`, `active`, `terminated`, `error 404` and so on."""
        return [report["state"] for report in self._reported(uri) if "state" in report]

    def documents(self, uri: str) -> list[DialogInfo]:
        """Return the documents that a subscription brought so far.

        Raises:
            AssertionError: one had another media type.
            DocumentError: one is no dialog-info.
        """
        bodies = [report for report in self._reported(uri) if "body" in report]
        assert all(body["type"] == "application/dialog-info+xml" for body in bodies), bodies
        return [parse_dialog_info(body["body"].encode()) for body in bodies]

    def answers(self) -> list[tuple[int, int]]:
        """Return the CSeq number of each NOTIFY that it answered so far, and with which status."""
        log = self._process.log_text().replace("\r\n", "\n")
        return [(int(cseq), int(status)) for status, cseq in _ANSWER.findall(log)]

    def wait_state(self, uri: str, state: str) -> None:
        """Wait until a subscription is in a state that `states` returns."""
        self._wait(lambda: self.states(uri)[-1:] == [state], what=f"{uri} to be {state}")

    def wait_document(self, uri: str, *states: str, after: int = 0) -> DialogInfo:
        """Wait for a document whose dialogs have these states, in any order; pass over the first `after`."""

        def shown() -> DialogInfo | None:
            later = self.documents(uri)[after:]
            return next((info for info in later if sorted(info.states) == sorted(states)), None)

        return self._wait(shown, what=f"dialogs of {uri} that are {states}")

    def refresh(self) -> None:
        """Let it refresh its subscriptions."""
        os.kill(self._process.pid, signal.SIGUSR1)

    def unsubscribe(self) -> None:
        """Let it end its subscriptions."""
        os.kill(self._process.pid, signal.SIGUSR2)

    def _reported(self, uri: str) -> list[dict[str, str]]:
        lines = self._reports.read_text(encoding="utf-8").splitlines(keepends=True)
        reports = [json.loads(line) for line in lines if line.endswith("\n")]  # a last one may be half written
        return [report for report in reports if report["uri"] == uri]

    def _wait(self, fact: Callable[[], T | None], *, what: str) -> T:
        try:
            return until(fact, timeout_s=10, what=what)
        except AssertionError as error:
            ended = f"exit code {self._process.exit_code}"
            raise AssertionError(f"{error}\n{self._process.log_text()}\n{ended}") from None
