# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's own kamailio.cfg, as its package has it, and what docs/existing-configuration.md adds to it."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from tests.support.markdown import examples

STOCK = Path("/etc/kamailio/kamailio.cfg")


def stock_text() -> str:
    """Return Debian's file.

    Raises:
        AssertionError: it is not there, or not as Debian's package has it.
    """
    text = STOCK.read_bytes() if STOCK.exists() else b""
    conffiles = subprocess.check_output(["dpkg-query", "--show", "--showformat=${Conffiles}", "kamailio"], text=True)
    recorded = dict(line.split()[:2] for line in conffiles.splitlines() if line.strip())
    # MD5 is what dpkg keeps.
    found = hashlib.md5(text, usedforsecurity=False).hexdigest()
    assert found == recorded.get(str(STOCK)), f"{STOCK} is not that of Debian's package kamailio: put it back"
    return text.decode()


def added() -> dict[str, list[str]]:
    """Return the lines that the page adds, by the line of Debian's file after which they stand."""
    (diff,) = (example for example in examples("diff") if example.page.name == "existing-configuration.md")
    parts = [part.splitlines() for part in diff.text.split("...\n")]
    return {anchor[1:]: [line.removeprefix("+") for line in lines] for anchor, *lines in parts}


def with_lines(text: str, groups: dict[str, list[str]]) -> str:
    """Return a configuration with lines added after lines of it, of which there is one each."""
    lines = text.splitlines()
    for anchor, more in groups.items():
        assert lines.count(anchor) == 1, f"{lines.count(anchor)} lines are {anchor!r}"
        at = lines.index(anchor) + 1
        lines[at:at] = more
    return "\n".join(lines) + "\n"
