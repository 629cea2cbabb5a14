# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m tests.screens` writes the screens into the pages. A second run changes nothing."""

from __future__ import annotations

from tests.screens.shots import pages, taken

if __name__ == "__main__":
    for page, text in pages(taken()).items():
        page.write_text(text, encoding="utf-8")
