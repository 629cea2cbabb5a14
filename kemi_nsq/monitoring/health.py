# SPDX-License-Identifier: GPL-2.0-or-later
"""How things are, in the words and exit codes of monitoring plug-ins (Monitoring Plugins Development Guidelines)."""

from __future__ import annotations

import enum
from collections.abc import Iterable


class Health(enum.IntEnum):
    """How things are; the value is the exit code."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


#: From good to bad: what nobody knows is worse than a warning, and better than what is known to be broken.
_WORSE = (Health.OK, Health.WARNING, Health.UNKNOWN, Health.CRITICAL)


def worst(found: Iterable[Health]) -> Health:
    """Return the worst of some; OK where there is none."""
    return max(found, key=_WORSE.index, default=Health.OK)
