# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests read out of the pages is what a reader sees there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.markdown import anchors, code_words, links, prose, table

PAGE = r"""# A `name` and [a link](https://example.com)

Text with `code that
goes on`, [a link](other.md#there), `[none](no.md)` and ![a picture](plots/one.svg).

1. A step:

   ```sh
   [none](no.md) `none`
   ```

| `first` | second |
| --- | --- |
| `a\|b` | see `c` |
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Return a page with one of everything."""
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return path


def test_links_are_those_outside_of_code(page: Path) -> None:
    assert links(page) == ["https://example.com", "other.md#there", "plots/one.svg"]


def test_code_may_go_on_in_the_next_line(page: Path) -> None:
    assert code_words(page) == ["name", "code that goes on", "[none](no.md)", "first", r"a|b", "c"]


def test_an_anchor_is_made_of_what_is_shown_of_a_heading(page: Path) -> None:
    assert anchors(page) == {"a-name-and-a-link"}


def test_a_table_is_found_by_its_first_heading(page: Path) -> None:
    assert table(page, "first") == [["a|b", "see `c`"]]
    with pytest.raises(LookupError, match="no table that begins with second"):
        table(page, "second")


def test_a_fenced_block_is_no_prose_unless_it_is_not_closed(page: Path) -> None:
    assert "none`" not in prose(page)
    page.with_name("open.md").write_text(PAGE.replace("   ```\n", ""))
    assert "```sh" in prose(page.with_name("open.md"))
