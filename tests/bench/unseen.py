# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmark's presence server without what `kemi-nsq status`, the metrics and `presence explain` are made of."""

from __future__ import annotations

import lamps  # type: ignore[import-not-found]  # lies beside this file; it makes the package known

# isort: split
from kemi_nsq.consumer.tally import Tally
from kemi_nsq.presence.history import History
from kemi_nsq.runtime.page import Page

#: Class to what it does for each event, batch or NOTIFY only so that somebody can see it.
_SEEN = {Tally: ("came", "ran"), History: ("committed", "dropped", "told"), Page: ("observe",)}


def _nothing(*_given: object) -> None:
    pass


for _owner, _names in _SEEN.items():
    for _name in _names:
        if not callable(getattr(_owner, _name)):
            raise TypeError(f"{_owner.__name__}.{_name} is no method any more")
        setattr(_owner, _name, _nothing)

mod_init = lamps.mod_init
