# SPDX-License-Identifier: GPL-2.0-or-later
"""What one thread has another do: done, failed, not begun, and begun but not ready."""

from __future__ import annotations

import pytest

from kemi_nsq.consumer import errand as module
from kemi_nsq.consumer.errand import Errand
from kemi_nsq.errors import DatabaseError, DeadlineExceeded
from kemi_nsq.jsontext import JsonValue


def fail() -> JsonValue:
    raise DatabaseError("away")


def test_the_answer_of_the_other_thread_is_returned_and_its_error_raised() -> None:
    done = Errand(lambda: 7)
    done.run()
    assert done.wait("somebody") == 7
    failed = Errand(fail)
    failed.run()
    with pytest.raises(DatabaseError, match="away"):
        failed.wait("somebody")


def test_what_was_not_begun_in_time_is_not_done_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.01)
    done: list[int] = []
    errand = Errand(lambda: done.append(1))
    with pytest.raises(DeadlineExceeded, match="the main thread is busy; nothing was done"):
        errand.wait("the main thread")
    errand.run()
    assert done == []


def test_what_was_begun_is_not_called_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.01)

    def wait_too() -> JsonValue:
        with pytest.raises(DeadlineExceeded, match="the main thread does it still"):
            errand.wait("the main thread")
        return None

    errand = Errand(wait_too)
    errand.run()
