# SPDX-License-Identifier: GPL-2.0-or-later
"""How much memory a process has, as the kernel says it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.bench.memory import pss_mb

ROLLUP = """55f0-7ffd ---p 00000000 00:00 0                          [rollup]
Rss:               20480 kB
Pss:               10000 kB
Pss_Dirty:          4096 kB
SwapPss:               0 kB
"""


def test_it_is_the_share_of_what_is_resident_in_megabytes() -> None:
    assert pss_mb(ROLLUP) == 10.24


def test_the_kernel_says_it_that_way() -> None:
    assert 1 < pss_mb(Path(f"/proc/{os.getpid()}/smaps_rollup").read_text(encoding="utf-8")) < 10_000


def test_what_does_not_say_it_is_refused() -> None:
    with pytest.raises(AssertionError):
        pss_mb(ROLLUP.replace("\nPss:", "\nPrivate:"))
