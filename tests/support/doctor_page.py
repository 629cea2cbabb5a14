# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of checks in docs/doctor.md, made from the code.

`python -m tests.support.doctor_page` writes it anew; a test compares.
"""

from __future__ import annotations

from pathlib import Path

from kemi_nsq.tools.doctor.table import markdown

PAGE = Path(__file__).parents[2] / "docs/doctor.md"
#: What follows it, to the end of the page, is made.
_MARK = "Those with a star are made at each start, too.\n\n"


def written() -> str:
    """Write the page with its table."""
    return PAGE.read_text(encoding="utf-8").partition(_MARK)[0] + _MARK + markdown()


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
