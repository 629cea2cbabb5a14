# SPDX-License-Identifier: GPL-2.0-or-later
"""The plots and the page of the benchmark show what the JSON of one run says, and nothing that it does not say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kemi_nsq.loading import load
from tests.bench import __main__ as bench
from tests.bench import growth, page, served, sink
from tests.bench.charts import CHARTS, Chart, Row
from tests.bench.figures import Aim, Figure, Result, read
from tests.support.markdown import ROOT, table

COMMITTED_PAGE = ROOT / "docs/sizing-and-speed.md"
COMMITTED = ROOT / "docs/plots"
EMPTY_PAGE = """# A page

<!-- plots -->
old
<!-- end of plots -->

Text.

<!-- figures --><!-- end of figures -->

End.
"""

LENGTHS = st.floats(min_value=0.001, max_value=1e7)
AIMS = st.builds(
    Aim,
    of=st.sampled_from(["value", "ratio"]),
    relation=st.sampled_from(["<=", ">="]),
    limit=st.integers(0, 999).map(lambda hundredths: hundredths / 100),
)
FIGURES = st.builds(
    Figure,
    measure=st.text("abcdefg, 12", min_size=1),
    value=LENGTHS,
    unit=st.sampled_from(["ms", "updates/s", ""]),
    baseline=st.none() | LENGTHS,
    aim=st.none() | AIMS,
)

#: As each measure names its figures, and the plot that shows it.
MEASURES = {
    ("updates, sqlite, 1 consumer", "updates/s"): "updates",
    ("updates to 500 watchers, mariadb, 2 consumers", "updates/s"): "watched",
    ("events into a native route", "events/s"): "routes",
    ("publish to NOTIFY p99", "ms"): "latency",
    ("publish p50", "us"): "publish",
    ("SIP with nsq_publish", "requests/s"): "sip",
    ("SIP with nsq_publish_async", "requests/s"): "sip",
    ("stored without a route", "updates/s"): None,
    ("the consumer's CPU without a route", "us/update"): None,
    ("query in a SIP worker p99", "us"): "queries",
    ("SIP with a plain socket", "requests/s"): None,
    ("SIP with http_client", "requests/s"): None,
    ("SIP with http_async_client", "requests/s"): None,
    ("Kamailio's CPU with nsq_publish", "us/request"): None,
    ("grown to 10000 presentities in the table", "updates/s"): "growth",
    ("grown to 100 live calls each", "updates/s"): "growth",
    ("grown to 20 watchers each", "updates/s"): "growth",
    ("the consumer's CPU, 10000 presentities in the table", "us/update"): None,
    ("NOTIFYs of 100 live calls", "NOTIFYs/s"): None,
    ("NOTIFYs to 20 watchers each", "NOTIFYs/s"): None,
    ("memory of a consumer after 100000 events", "MB"): "memory",
    ("publish fails, nsqd frozen, slowest", "ms"): None,
    ("publish p99, one of two nsqd killed", "ms"): None,
    ("wrong rows of 20000 events, sqlite", ""): None,
    ("shuffled events, watched, sqlite", "events/s"): None,
    ("seen updates, sqlite", "updates/s"): None,
}


def figure(measure: str = "updates, sqlite, 1 consumer", unit: str = "updates/s", **values: object) -> Figure:
    """Return a figure of 200 against 100 that should be three times that, or what is given instead."""
    given_or_not = {"value": 200.0, "baseline": 100.0, "aim": Aim(of="ratio", relation=">=", limit=3)} | values
    return Figure(measure=measure, unit=unit, **given_or_not)  # type: ignore[arg-type]


def rows(*figures: Figure) -> list[Row]:
    """Return what the plot of updates shows."""
    return CHARTS[0].rows(figures)


class TestCharts:
    @pytest.mark.parametrize(("named", "name"), MEASURES.items())
    def test_a_figure_is_in_its_plot_and_in_no_other(self, named: tuple[str, str], name: str | None) -> None:
        assert list(page.plots([figure(*named)])) == ([name] if name else [])

    def test_every_plot_has_figures(self) -> None:
        assert {name for name in MEASURES.values() if name} == {chart.name for chart in CHARTS}

    @pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)
    def test_a_chart_has_one_unit(self, chart: Chart) -> None:
        measure = next(measure for (measure, _), name in MEASURES.items() if name == chart.name)
        foreign = figure(measure, "furlongs")
        assert len(chart.rows([figure(measure, chart.unit), foreign])) == 1
        assert chart.rows([foreign]) == []

    def test_a_measure_without_a_figure_has_no_row_and_the_others_keep_their_order(self) -> None:
        all_four = [figure(f"updates, {name}, {count}") for name in ("sqlite", "mariadb") for count in (1, 2)]
        shown = rows(*all_four[:1], *all_four[2:])
        assert [row.label for row in shown] == ["sqlite, 1", "mariadb, 1", "mariadb, 2"]
        drawn = page.plots(all_four[:1] + all_four[2:])["updates"]
        labels = [f"{each}, {count}" for each in ("sqlite", "mariadb") for count in (1, 2)]
        assert [label for label in labels if f">{label}</text>".encode() in drawn] == [row.label for row in shown]

    def test_a_row_has_value_baseline_and_so_many_times_the_baseline_as_aim(self) -> None:
        assert rows(figure()) == [Row(label="sqlite, 1 consumer", value=200, baseline=100, aim=300)]

    def test_without_a_baseline_there_is_no_aim_either(self) -> None:
        assert rows(figure(baseline=None)) == [Row(label="sqlite, 1 consumer", value=200, baseline=None, aim=None)]

    @pytest.mark.parametrize("aim", [None, Aim(of="value", relation=">=", limit=3)])
    def test_no_aim_that_is_not_of_the_ratio(self, aim: Aim | None) -> None:
        assert rows(figure(aim=aim)) == [Row(label="sqlite, 1 consumer", value=200, baseline=100, aim=None)]

    def test_a_run_without_figures_has_no_plot(self) -> None:
        assert page.plots([]) == {}


class TestReading:
    @given(st.lists(FIGURES), st.dictionaries(st.text(), st.text()))
    def test_it_reads_what_a_run_writes(
        self, tmp_path_factory: pytest.TempPathFactory, figures: list[Figure], errors: dict[str, str]
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "result.json"
        result = Result(figures=figures, errors=errors)
        result.write(path)
        text = path.read_text(encoding="utf-8")
        assert read(text) == result
        assert [each["met"] for each in json.loads(text)["figures"]] == [each.met for each in figures]

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "{}",
            '{"figures": [{}], "errors": {}}',
            '{"figures": [{"measure": "m", "value": 1, "unit": "", "baseline": null, "aim": "much"}], "errors": {}}',
            '{"figures": [{"measure": "m", "value": 1, "unit": "", "baseline": null, "aim": "r > 1"}], "errors": {}}',
        ],
    )
    def test_it_refuses_what_is_no_result(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"."):
            read(text)


class TestPage:
    @given(st.text(), st.text(), st.text(), st.lists(FIGURES))
    def test_nothing_but_the_blocks_changes(self, head: str, middle: str, end: str, figures: list[Figure]) -> None:
        before = f"{head}<!-- plots -->old<!-- end of plots -->{middle}<!-- figures -->\n\n<!-- end of figures -->{end}"
        result = Result(figures=figures, errors={})
        written = page.page_with(before, result)
        assert written.startswith(f"{head}<!-- plots -->\n\n")
        assert f"\n\n<!-- end of plots -->{middle}<!-- figures -->\n\n" in written
        assert written.endswith(f"\n\n<!-- end of figures -->{end}")
        assert page.markdown_table(figures) in written
        assert page.page_with(written, result) == written

    def test_the_table_has_all_figures(self) -> None:
        figures = [
            figure(value=12_345.6, baseline=5_000.0),
            figure("OPTIONS in between p99", "ms", value=3.14159, baseline=None, aim=None),
            figure("wrong rows", "", value=0, baseline=None, aim=Aim(of="value", relation="<=", limit=0)),
        ]
        assert page.markdown_table(figures).splitlines()[2:] == [
            "| updates, sqlite, 1 consumer | 12,346 updates/s | 5,000 updates/s | 2.47 | ratio >= 3 | no |",
            "| OPTIONS in between p99 | 3.14 ms |  |  |  |  |",
            "| wrong rows | 0 |  |  | value <= 0 | yes |",
        ]

    def test_it_names_measures_that_were_spoiled_and_keeps_their_log_to_itself(self) -> None:
        written = page.page_with(EMPTY_PAGE, Result(figures=[], errors={"watched-sqlite": "ERROR: a log line"}))
        assert "\n\nWithout a figure in this run: `watched-sqlite`.\n\n<!-- end of figures -->" in written
        assert "log line" not in written
        assert "old" not in written

    def test_it_names_measures_that_were_left_when_the_run_was_interrupted(self) -> None:
        written = page.page_with(EMPTY_PAGE, Result(figures=[], errors={"sip": "lost"}, left=("query", "routes")))
        assert "\n\nWithout a figure in this run: `sip`, `query`, `routes`.\n\n" in written

    def test_every_image_has_words_and_fits_a_line(self) -> None:
        all_figures = [figure(measure, unit) for measure, unit in MEASURES]
        written = page.page_with(EMPTY_PAGE, Result(figures=all_figures, errors={}))
        images = [line for line in written.splitlines() if line.startswith("![")]
        assert [line.partition("](")[2] for line in images] == [f"plots/{chart.name}.svg)" for chart in CHARTS]
        assert all(len(line) <= 120 and line.index("]") > 20 for line in images)

    @pytest.mark.parametrize("text", ["", "<!-- plots --><!-- end of plots -->", EMPTY_PAGE.replace("end of", "")])
    def test_a_page_without_a_place_for_them_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="the page has no <!--"):
            page.page_with(text, Result(figures=[], errors={}))


def test_measuring_does_not_wait_for_the_plotting_library() -> None:
    program = "import sys, tests.bench.__main__; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


class TestWriting:
    @pytest.fixture
    def docs(self, tmp_path: Path) -> Path:
        """Return a folder with a page, and a plot of an earlier run beside a file that is none of ours."""
        docs = tmp_path / "docs"
        (docs / "plots").mkdir(parents=True)
        (docs / "plots/watched.svg").write_text("<svg/>")
        (docs / "plots/other.svg").write_text("<svg/>")
        (docs / page.PAGE).write_text(EMPTY_PAGE)
        return docs

    @pytest.fixture
    def result(self, tmp_path: Path) -> Path:
        """Return the JSON of a run with one figure."""
        path = tmp_path / "result.json"
        Result(figures=[figure()], errors={}).write(path)
        return path

    def test_the_command_writes_page_plots_and_json(
        self, docs: Path, result: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(page, "DOCS", docs)
        assert bench.main(["--plots", str(result)]) == 0
        assert {path.name for path in (docs / "plots").iterdir()} == {"updates.svg", "other.svg", "figures.json"}
        assert (docs / "plots/updates.svg").read_bytes() == page.plots([figure()])["updates"]
        assert (docs / "plots/figures.json").read_bytes() == result.read_bytes()
        assert (docs / page.PAGE).read_text() == page.page_with(EMPTY_PAGE, Result(figures=[figure()], errors={}))

    def test_its_own_copy_writes_the_same_again(self, docs: Path, result: Path) -> None:
        page.write(result, docs)
        before = {path: path.read_bytes() for path in docs.rglob("*.*")}
        page.write(docs / "plots/figures.json", docs)
        assert {path: path.read_bytes() for path in docs.rglob("*.*")} == before

    @pytest.mark.parametrize("spoil", [page.PAGE, "../result.json"])
    def test_what_cannot_be_used_changes_nothing(self, docs: Path, result: Path, spoil: str) -> None:
        (docs / spoil).write_text("{}")
        before = {path: path.read_bytes() for path in docs.rglob("*.*")}
        with pytest.raises(ValueError, match="no"):
            page.write(result, docs)
        assert {path: path.read_bytes() for path in docs.rglob("*.*")} == before


class TestWhatIsCommitted:
    """docs/ holds what `--plots docs/plots/figures.json` writes."""

    @pytest.fixture
    def result(self) -> Result:
        """Return the committed result."""
        return read((COMMITTED / page.FIGURES).read_text(encoding="utf-8"))

    def test_the_plots(self, result: Result) -> None:
        committed = {path.stem: path.read_bytes() for path in COMMITTED.glob("*.svg")}
        assert committed == page.plots(result.figures), "run `make bench ARGS='--plots docs/plots/figures.json'`"

    def test_the_page(self, result: Result) -> None:
        written = COMMITTED_PAGE.read_text(encoding="utf-8")
        assert written == page.page_with(written, result), "run `make bench ARGS='--plots docs/plots/figures.json'`"

    def test_options_that_the_page_says_it_was_measured_with(self) -> None:
        found = {option: (default, used) for option, default, used in table(COMMITTED_PAGE, "option")}
        defaults = load({})
        in_flight, batch = str(defaults.max_in_flight), str(defaults.batch)
        assert found == {
            "NSQ_MAX_IN_FLIGHT": (in_flight, str(served.IN_FLIGHT)),
            "`NSQ_MAX_IN_FLIGHT`, events into a route": (in_flight, str(sink.READY)),
            "NSQ_BATCH": (batch, str(served.BATCH)),
            "`NSQ_BATCH`, watchers that become more": (batch, str(growth.WATCHED_BATCH)),
            "`NSQ_PUA_MAX_DIALOGS`, live calls that become more": (
                str(defaults.pua_max_dialogs),
                str(growth.MAX_DIALOGS),
            ),
            "`-m` of Kamailio: MB of shared memory": ("64", str(served.SHARED_MEMORY_MB)),
        }
