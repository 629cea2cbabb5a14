# SPDX-License-Identifier: GPL-2.0-or-later
"""The charts of the benchmark: bars as long as the numbers say, marks where the aims lie, texts beside them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba_array
from matplotlib.container import BarContainer
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox

from tests.bench.charts import Chart, Row
from tests.bench.drawing import draw, svg
from tests.bench.figures import number

SVG, DC = "{http://www.w3.org/2000/svg}", "{http://purl.org/dc/elements/1.1/}"
WHITE = (1, 1, 1, 1)
CHART = Chart(name="n", measures="m", unit="u", longer_is_better=True, title="T", baseline="the base")

LENGTHS = st.floats(min_value=0.001, max_value=1e7)
ROWS = st.builds(
    Row, label=st.text("abcdefg, 12", max_size=25), value=LENGTHS, baseline=st.none() | LENGTHS, aim=st.none() | LENGTHS
)
ROW = Row(label="a", value=12_345.6, baseline=5_000, aim=15_000)
# A chart takes some hundredths of a second.
few = settings(max_examples=20, deadline=None)


def axes(*rows: Row) -> Axes:
    """Return the axes of a chart."""
    return draw(CHART, rows).axes[0]


def bars(drawn: Axes) -> dict[str, list[float]]:
    """Return the lengths of the bars by the name in the legend."""
    containers = [each for each in drawn.containers if isinstance(each, BarContainer)]
    return {str(bars.get_label()): [bar.get_width() for bar in bars] for bars in containers}


def rectangles(drawn: Axes) -> list[Rectangle]:
    """Return the bars of all rows."""
    return [each for each in drawn.patches if isinstance(each, Rectangle)]


def marks(drawn: Axes) -> list[tuple[float, float, float]]:
    """Return length, top and bottom of each mark of an aim."""
    lines = [line for each in drawn.collections if isinstance(each, LineCollection) for line in each.get_segments()]
    assert all(start == end for (start, _), (end, _) in lines)
    return [(start, top, bottom) for (start, top), (_, bottom) in lines]


def texts(picture: bytes) -> list[str]:
    """Return the texts of an SVG file that are shown."""
    return [each.text or "" for each in etree.fromstring(picture).iter(f"{SVG}text")]


class TestBars:
    @given(st.lists(ROWS, min_size=1, max_size=8))
    @few
    def test_lengths_and_marks_are_those_of_the_rows_and_start_at_one_line(self, rows: list[Row]) -> None:
        drawn = axes(*rows)
        baselines = [row.baseline for row in rows if row.baseline is not None]
        assert bars(drawn) == {"kemi-nsq": [row.value for row in rows]} | ({"the base": baselines} if baselines else {})
        assert [length for length, _, _ in marks(drawn)] == [row.aim for row in rows if row.aim is not None]
        assert {bar.get_x() for bar in rectangles(drawn)} == {drawn.get_xlim()[0]} == {0}
        assert drawn.get_xscale() == "linear"

    @given(st.lists(ROWS, min_size=1, max_size=8))
    @few
    def test_no_text_lies_on_a_bar_or_a_mark_and_all_is_within_the_picture(self, rows: list[Row]) -> None:
        figure = draw(CHART, rows)
        figure.draw_without_rendering()
        drawn = figure.axes[0]
        corners = [((x, top), (x, bottom)) for x, top, bottom in marks(drawn)]
        shapes = [Bbox(drawn.transData.transform(each)) for each in corners]
        shapes += [bar.get_window_extent() for bar in drawn.patches]
        texts = [each.get_window_extent() for each in (*drawn.texts, *drawn.get_yticklabels(), drawn.title)]
        texts += [drawn.xaxis.label.get_window_extent(), figure.legends[0].get_window_extent()]
        assert not [(text, shape) for text in texts for shape in shapes if text.overlaps(shape)]
        assert Bbox.union([*shapes, *texts, figure.bbox]).bounds == pytest.approx(figure.bbox.bounds)

    @given(st.lists(ROWS, min_size=1, max_size=8))
    @few
    def test_each_bar_has_its_number_beside_it(self, rows: list[Row]) -> None:
        drawn = axes(*rows)
        beside = {round(text.get_position()[1], 6): text.get_text() for text in drawn.texts}
        assert beside == {round(bar.get_center()[1], 6): number(bar.get_width()) for bar in rectangles(drawn)}

    def test_a_row_without_a_baseline_has_one_bar(self) -> None:
        drawn = axes(Row(label="a", value=200, baseline=None, aim=None))
        assert (bars(drawn), len(drawn.texts), marks(drawn)) == ({"kemi-nsq": [200]}, 1, [])

    def test_bars_of_nothing_have_no_length(self) -> None:
        assert bars(axes(Row(label="a", value=0, baseline=0, aim=None))) == {"kemi-nsq": [0], "the base": [0]}

    def test_an_aim_that_is_further_than_the_bar_has_its_mark_beyond_it(self) -> None:
        drawn = axes(Row(label="a", value=200, baseline=100, aim=300))
        ((length, top, bottom),) = marks(drawn)
        assert length == 300 < drawn.get_xlim()[1]
        for bar in rectangles(drawn):
            assert top < bar.get_y() < bar.get_y() + bar.get_height() < bottom


class TestPicture:
    def test_it_says_what_it_shows_to_those_who_cannot_see_it(self) -> None:
        drawn = etree.fromstring(svg(CHART, [ROW, Row(label="b", value=3.14159, baseline=None, aim=None)]))
        assert drawn.tag == f"{SVG}svg"
        assert drawn.findtext(f"{SVG}title") == "T"
        assert next(drawn.iter(f"{DC}description")).text == (
            "Bars of kemi-nsq and of the base, in u; longer is better. "
            "a: kemi-nsq 12,346, baseline 5,000, aim 15,000. b: kemi-nsq 3.14."
        )

    @pytest.mark.parametrize(("longer", "better"), [(True, "longer"), (False, "shorter")])
    def test_title_unit_rows_and_numbers_are_text(self, longer: bool, better: str) -> None:
        shown = texts(svg(replace(CHART, longer_is_better=longer), [ROW, replace(ROW, label="b", value=1.5)]))
        assert {"T", f"u; {better} is better", "12,346", "5,000", "1.5"} < set(shown)
        assert [text for text in shown if text in {"a", "b"}] == ["a", "b"]

    @pytest.mark.parametrize(
        ("row", "words"),
        [
            (ROW, ["kemi-nsq", "the base", "aim"]),
            (replace(ROW, aim=None), ["kemi-nsq", "the base"]),
            (replace(ROW, aim=None, baseline=None), ["kemi-nsq"]),
        ],
    )
    def test_its_legend_explains_what_is_there_and_nothing_else(self, row: Row, words: list[str]) -> None:
        (legend,) = draw(CHART, [row]).legends
        assert [text.get_text() for text in legend.get_texts()] == words

    def test_it_has_a_light_background_of_its_own_and_each_kind_its_colour(self) -> None:
        figure = draw(CHART, [ROW])
        drawn = figure.axes[0]
        colours = [each.get_facecolor() for each in rectangles(drawn)]
        colours += [tuple(each) for each in to_rgba_array(drawn.collections[0].get_edgecolor())]
        assert len({*colours, WHITE}) == 4
        assert figure.get_facecolor() == drawn.get_facecolor() == WHITE

    def test_drawn_twice_it_is_the_same_file_without_a_date(self) -> None:
        drawn = svg(CHART, [ROW])
        assert svg(CHART, [ROW]) == drawn
        assert b"date" not in drawn

    @given(st.text(st.characters(codec="latin-1", exclude_categories=["Cc"])))
    @few
    def test_any_text_is_well_formed(self, text: str) -> None:
        assert text in [*texts(svg(CHART, [Row(label=text, value=1.0, baseline=None, aim=None)])), ""]


@pytest.mark.parametrize(
    ("value", "written"),
    [(0, "0"), (0.43689, "0.437"), (9.0707, "9.07"), (99.96, "100"), (999.7, "1,000"), (41_586.2, "41,586")],
)
def test_numbers_have_three_digits_or_groups_of_three(value: float, written: str) -> None:
    assert number(value) == written
