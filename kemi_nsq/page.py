# SPDX-License-Identifier: GPL-2.0-or-later
"""What a process shows of itself, for whoever looks from outside, also while it is stuck."""

from __future__ import annotations

import enum


class Fact(enum.StrEnum):
    """What is shown besides the counters: one name each, and what it says. Empty where there is nothing to say."""

    meaning: str

    def __new__(cls, name: str, meaning: str) -> Fact:
        """Make a member from its name and a sentence that says what it shows."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.meaning = meaning
        return member

    HANDLING = "handling", "ids of the messages whose route runs, or that are being committed"
    DATABASE = "database", "since when the database fails, and why"
    DEAD_LETTERS = "dead_letters_blocked", "since when no nsqd takes dead letters, and why"
    BACKOFF = "backoff", "topics whose routes fail for every event, and until when nothing is taken from them"


class Page:
    """The facts of one process."""

    def __init__(self) -> None:
        self._facts: dict[Fact, str] = {}

    def show(self, fact: Fact, text: str) -> None:
        """Show a fact, from any thread; '' takes it back."""
        self._facts[fact] = text

    def shown(self, fact: Fact) -> str:
        """Return what is shown."""
        return self._facts.get(fact, "")
