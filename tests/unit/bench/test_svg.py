# SPDX-License-Identifier: GPL-2.0-or-later
"""The charts of the benchmark: bars as long as the numbers say, marks where the aims lie, texts beside them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from tests.bench.figures import number
from tests.bench.svg import WIDTH, Chart, Row, draw

SVG = "{http://www.w3.org/2000/svg}"

LENGTHS = st.floats(min_value=0.001, max_value=1e7)
ROWS = st.builds(
    Row, label=st.text("abcdefg, 12", max_size=25), value=LENGTHS, baseline=st.none() | LENGTHS, aim=st.none() | LENGTHS
)
ROW = Row(label="a", value=12_345.6, baseline=5_000, aim=15_000)


def chart(*rows: Row) -> etree._Element:
    """Return the drawing of a chart."""
    return etree.fromstring(draw(Chart(title="T", unit="u", longer_is_better=True, baseline="the base", rows=rows)))


def of_class(element: etree._Element, name: str) -> list[etree._Element]:
    """Return the elements of a class, those of the legend left out."""
    return [each for group in element.iterfind(f"{SVG}g[@class='row']") for each in group if each.get("class") == name]


def at(element: etree._Element, name: str) -> float:
    """Return an attribute that is a number."""
    return float(element.get(name) or "nan")


def text_width(element: etree._Element) -> float:
    """Return more than a text is wide in fonts of this size."""
    return 7.5 * len(element.text or "")


class TestBars:
    @given(st.lists(ROWS, min_size=1, max_size=8))
    def test_lengths_and_marks_are_proportional_and_start_at_one_line(self, rows: list[Row]) -> None:
        drawn = chart(*rows)
        values, baselines, aims = (of_class(drawn, name) for name in ("value", "baseline", "aim"))
        left = at(values[0], "x")
        assert {at(bar, "x") for bar in values + baselines} == {left}
        shown = [
            *zip((row.value for row in rows), (at(bar, "width") for bar in values), strict=True),
            *zip((row.baseline for row in rows if row.baseline), (at(bar, "width") for bar in baselines), strict=True),
            *zip((row.aim for row in rows if row.aim), (at(tick, "x1") - left for tick in aims), strict=True),
        ]
        longest, most = max(shown)
        assert all(px == pytest.approx(most * value / longest, abs=0.02) for value, px in shown)
        assert all(tick.get("x1") == tick.get("x2") for tick in aims)

    @given(st.lists(ROWS, min_size=1, max_size=8))
    def test_no_text_lies_on_a_bar_or_a_mark_and_all_is_within_the_picture(self, rows: list[Row]) -> None:
        drawn = chart(*rows)
        bars = of_class(drawn, "value") + of_class(drawn, "baseline")
        ends = [at(bar, "x") + at(bar, "width") for bar in bars] + [at(tick, "x1") for tick in of_class(drawn, "aim")]
        labels, numbers = of_class(drawn, "label"), of_class(drawn, "number")
        assert max(at(text, "x") + text_width(text) for text in labels) <= at(bars[0], "x")
        assert max(ends) <= min(at(text, "x") - text_width(text) for text in numbers)
        assert max(at(text, "x") for text in numbers) <= at(drawn, "width") == WIDTH
        assert max(at(bar, "y") + at(bar, "height") for bar in bars) <= at(drawn, "height")

    @given(st.lists(ROWS, min_size=1, max_size=8))
    def test_each_bar_has_its_number_beside_it(self, rows: list[Row]) -> None:
        drawn = chart(*rows)
        numbers = [text.text for text in of_class(drawn, "number")]
        assert numbers == [number(each) for row in rows for each in (row.value, row.baseline) if each is not None]

    def test_a_row_without_a_baseline_has_one_bar(self) -> None:
        drawn = chart(Row(label="a", value=200, baseline=None, aim=None))
        assert [len(of_class(drawn, name)) for name in ("value", "baseline", "number", "aim")] == [1, 0, 1, 0]

    def test_bars_of_nothing_have_no_length(self) -> None:
        drawn = chart(Row(label="a", value=0, baseline=0, aim=None))
        assert [at(bar, "width") for bar in of_class(drawn, "value") + of_class(drawn, "baseline")] == [0, 0]

    def test_an_aim_that_is_further_than_the_bar_has_its_mark_beyond_it(self) -> None:
        drawn = chart(Row(label="a", value=200, baseline=100, aim=300))
        (bar,), (tick,) = of_class(drawn, "value"), of_class(drawn, "aim")
        assert (at(tick, "x1") - at(bar, "x")) / at(bar, "width") == pytest.approx(300 / 200, abs=1e-3)
        assert at(tick, "y1") < at(bar, "y") < at(bar, "y") + at(bar, "height") < at(tick, "y2")


class TestPicture:
    def test_it_says_what_it_shows_to_those_who_cannot_see_it(self) -> None:
        drawn = chart(ROW, Row(label="b", value=3.14159, baseline=None, aim=None))
        assert (drawn.tag, drawn.get("role")) == (f"{SVG}svg", "img")
        named = [each.get("id") for each in (drawn.find(f"{SVG}title"), drawn.find(f"{SVG}desc")) if each is not None]
        assert drawn.get("aria-labelledby") == " ".join(filter(None, named)) == "title desc"
        assert drawn.findtext(f"{SVG}title") == "T"
        assert drawn.findtext(f"{SVG}desc") == (
            "Bars of kemi-nsq and of the base, in u; longer is better. "
            "a: kemi-nsq 12,346, baseline 5,000, aim 15,000. b: kemi-nsq 3.14."
        )

    @pytest.mark.parametrize(
        ("row", "words"),
        [
            (ROW, ["kemi-nsq", "the base", "aim"]),
            (replace(ROW, aim=None), ["kemi-nsq", "the base"]),
            (replace(ROW, aim=None, baseline=None), ["kemi-nsq"]),
        ],
    )
    def test_its_legend_explains_what_is_there_and_nothing_else(self, row: Row, words: list[str]) -> None:
        legend = chart(row).find(f"{SVG}g[@class='legend']")
        assert legend is not None
        assert [text.text for text in legend.iterfind(f"{SVG}text")] == words
        assert [each.get("class") for each in legend if each.get("class")] == ["value", "baseline", "aim"][: len(words)]

    def test_every_class_has_a_colour_for_light_and_for_dark(self) -> None:
        drawn = chart(ROW)
        light, _, dark = (drawn.findtext(f"{SVG}style") or "").partition("@media (prefers-color-scheme: dark)")
        for name in (".paper", "text", ".note", ".value", ".baseline", ".aim"):
            assert f"{name} {{" in light
            assert f"{name} {{" in dark

    @given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn", "Co"])))
    def test_any_text_is_well_formed(self, text: str) -> None:
        drawn = chart(Row(label=text, value=1.0, baseline=None, aim=None))
        assert (of_class(drawn, "label")[0].text or "") == text


@pytest.mark.parametrize(
    ("value", "written"),
    [(0, "0"), (0.43689, "0.437"), (9.0707, "9.07"), (99.96, "100"), (999.7, "1,000"), (41_586.2, "41,586")],
)
def test_numbers_have_three_digits_or_groups_of_three(value: float, written: str) -> None:
    assert number(value) == written
