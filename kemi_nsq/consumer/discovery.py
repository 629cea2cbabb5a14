# SPDX-License-Identifier: GPL-2.0-or-later
"""What is wrong with discovery: said once, counted, and shown until it is mended; no thread or clock in here."""

from __future__ import annotations

from collections.abc import Sequence

from kemi_nsq.counters import Counter
from kemi_nsq.errors import TransientError
from kemi_nsq.host import Level, Report
from kemi_nsq.names import Address
from kemi_nsq.nsq.nodes import Listed

NO_ROOM = "it names more nsqd than there is room for"


class Discovery:
    """Judges what came of asking each nsqlookupd.

    Attributes:
        wrong: what is wrong now, in words; '' if nothing is.
    """

    def __init__(self) -> None:
        self._wrong: dict[Address, list[str]] = {}
        self.wrong = ""

    def failed(self, lookupd: Address, error: TransientError) -> list[Report]:
        """Take that a nsqlookupd did not answer; return what is to be said of it now."""
        # The error begins with the address of whom it is about.
        return self._judge(lookupd, [str(error).removeprefix(f"{lookupd}: ")], Counter.LOOKUP_FAILED)

    def answered(self, lookupd: Address, listed: Listed, *, room: bool) -> list[Report]:
        """Take what a nsqlookupd answered, and whether there is room for all that it names."""
        return self._judge(lookupd, listed.refused + [NO_ROOM] * (not room), Counter.NODES_REFUSED)

    def _judge(self, lookupd: Address, wrong: Sequence[str], counter: Counter) -> list[Report]:
        before = self._wrong.pop(lookupd, [])
        if wrong:
            self._wrong[lookupd] = list(wrong)
        self.wrong = "; ".join(f"nsqlookupd {each}: {_short(texts)}" for each, texts in sorted(self._wrong.items()))
        new = [
            Report(level=Level.WARNING, text=f"nsqlookupd {lookupd}: {text}", counter=counter)
            for text in wrong
            if text not in before
        ]
        if before and not wrong:
            new.append(Report(level=Level.INFO, text=f"nsqlookupd {lookupd}: it answers well again"))
        return new


def _short(texts: Sequence[str]) -> str:
    """Leave room for what is wrong with others."""
    return texts[0] if len(texts) == 1 else f"{texts[0]}, and {len(texts) - 1} more"
