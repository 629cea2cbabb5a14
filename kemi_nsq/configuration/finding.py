# SPDX-License-Identifier: GPL-2.0-or-later
"""What a check is, and what it finds."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from kemi_nsq.configuration.model import Configuration, Parameter
from kemi_nsq.settings import KEMI, Settings

Looked = TypeVar("Looked")
#: Names of the engine of kamailio.cfg itself (core/kemi.c, sr_kemi_eng_set).
_NATIVE = ("native", "default")
#: How the reason of a check begins that has nothing to look at; it is OK.
_DOES_NOT_APPLY = "does not apply: "


class Grade(enum.Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    UNKNOWN = "unknown"


class Finding(NamedTuple):
    """What a check has found.

    Attributes:
        grade: how bad it is.
        reason: what is so, and what comes of it.
        mend: what to do; '' where there is nothing to be done.
    """

    grade: Grade
    reason: str
    mend: str = ""

    @property
    def applies(self) -> bool:
        """Whether there was something to look at."""
        return not self.reason.startswith(_DOES_NOT_APPLY)


class CannotLook(Exception):  # it is no error: the answer is that nobody knows
    """A check cannot be made; its text says why."""


class DoesNotApply(Exception):  # it is no error
    """There is nothing for a check to look at; its text says why."""


@dataclass(frozen=True, slots=True)
class Check(Generic[Looked]):
    """One check.

    Attributes:
        name: its id.
        looks_at: what it looks at, for the page of checks.
        look: yields what is wrong, nothing if all is well. It raises CannotLook or DoesNotApply.
        at_start: whether Kamailio's start makes it, too.
    """

    name: str
    looks_at: str
    look: Callable[[Looked], Iterable[Finding]]
    at_start: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """What checks of the text look at.

    Attributes:
        configuration: what kamailio.cfg says.
        settings: those that hold; None where they are wrong, so that no process would start with them.
        problems: what is wrong with them, a line each.
        release: of Kamailio, as (5, 6, 3); empty where nobody knows.
        wrong_function: says what is wrong with a name that is given to `python_exec`; '' for nothing.
    """

    configuration: Configuration
    settings: Settings | None
    problems: Sequence[str] = ()
    release: tuple[int, ...] = ()
    wrong_function: Callable[[str], str] = lambda _name: ""

    @property
    def valid(self) -> Settings:
        """The settings that hold.

        Raises:
            CannotLook: they are wrong.
        """
        if self.settings is None:
            raise CannotLook("the settings are wrong")
        return self.settings

    @property
    def engine(self) -> Parameter | None:
        """What says that routes are not native: `cfgengine`; None where they are."""
        found = self.configuration.parameter("", "cfgengine")
        return None if found is None or found.value.lower() in _NATIVE else found

    @property
    def kemi(self) -> bool:
        """Whether routes are written in Python."""
        return self.engine is not None or KEMI in self.configuration.defines


def made(check: Check[Looked], at: Looked) -> list[Finding]:
    """Make a check and return what it found; one finding that is OK if all is well.

    A right that whoever asks does not have is no fault of what is looked at.
    """
    try:
        return list(check.look(at)) or [Finding(Grade.OK, check.looks_at)]
    except CannotLook as reason:
        return [Finding(Grade.UNKNOWN, str(reason))]
    except DoesNotApply as reason:
        return [Finding(Grade.OK, f"{_DOES_NOT_APPLY}{reason}")]
    except PermissionError as error:
        return [Finding(Grade.UNKNOWN, f"you may not look at {error.filename}", "ask as root, or as Kamailio's user")]
    except Exception as error:  # a fault of one check hides no other
        return [Finding(Grade.UNKNOWN, f"the check fails: {type(error).__name__}: {error}; please report this")]
