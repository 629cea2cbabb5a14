# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages show what the verbs show beside real servers: `make screens` would change nothing but times."""

from __future__ import annotations

import re

import pytest

from tests.screens.shots import pages, taken

#: On a machine that is busy something may happen in a later step.
_TIME = re.compile(r"\b\d\d:\d\d:\d\d\b")


def without_times(text: str) -> list[str]:
    return _TIME.sub("TIME", text).splitlines()


@pytest.mark.alone
def test_the_pages_show_what_a_terminal_shows() -> None:
    for page, written in pages(taken()).items():
        assert without_times(page.read_text(encoding="utf-8")) == without_times(written), "run `make screens`"
