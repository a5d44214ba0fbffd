"""The page: one file, complete, quiet on the network, whatever the size of the comparison."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from simulations.report import render_html, verdict, write_html
from simulations.report.labelling import label_places
from simulations.report.plots import STATE_COLOURS, frontier, gpu_hours_by_state
from simulations.report.timeline import packed, thinned_by_max, thinned_by_mean, timelines
from simulations.report.timeplots import timeline_template
from simulations.results import GPU_STATES, Comparison
from tests.simulations.report_fixture import ROWS, comparison, with_row

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Reads the page strictly: every element closed in order; keeps texts, attributes and scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.ids: list[str] = []
        self._script: dict[str, str | None] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self._script = dict(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append((self._script, data))
        elif self.open and self.open[-1] != "style":
            self.texts.append(data.strip())

    def block(self, name: str) -> Any:
        (text,) = (body for attrs, body in self.scripts if attrs.get("id") == name)
        return json.loads(text, parse_constant=pytest.fail)


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render_html(comparison()))


def test_the_page_is_whole_html_and_names_every_row_target_fact_and_sentence(page: Page) -> None:
    given_ = comparison()

    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    shown = set(page.texts)
    assert {r.row for r in given_.rows} <= shown
    assert {t.name for t in given_.rows[0].targets} <= shown
    assert set(given_.scenario) | set(given_.scenario.values()) | {given_.command} | set(given_.notes) <= shown
    together = " ".join(page.texts)
    for sentence in verdict(given_):
        assert sentence.text.partition(": ")[2] in together


def test_the_page_loads_nothing_and_forbids_itself_to(page: Page) -> None:
    loading = {"src", "href", "srcset", "data", "action", "poster", "xlink:href"}

    assert [a for a in page.attributes if a[1] in loading] == []
    assert ("meta", "http-equiv", "Content-Security-Policy") in page.attributes
    (policy,) = (v for t, n, v in page.attributes if (t, n) == ("meta", "content") and "default-src" in v)
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_plotly_is_inlined_once(page: Page) -> None:
    assert [body.count("plotly.js v") for _, body in page.scripts if "plotly.js v" in body] == [1]


def test_the_slo_line_stands_in_the_latency_panel_at_the_slo(page: Page) -> None:
    traces = page.block("figures")["timeline"]["data"]
    latency = [t for t in traces if t["series"].startswith("ttft_")]
    (slo,) = (t for t in traces if t["series"] == "constant")

    assert slo["value"] == 2.0
    assert "SLO" in slo["name"]
    assert {t["yaxis"] for t in latency} == {slo["yaxis"]}


def test_every_axis_has_a_title_with_its_unit(page: Page) -> None:
    figures = page.block("figures")
    titles = []
    for figure in (*figures["still"].values(), figures["timeline"]):
        titles += [v["title"]["text"] for k, v in figure["layout"].items() if k.startswith(("xaxis", "yaxis"))]

    # The bars' vertical axes carry the names of the rows and need no title.
    assert sorted(t for t in titles if t) == sorted(
        [
            "GPU-hours held",
            "misses (requests, logarithmic)",
            "GPU-hours held, by what the GPU was doing",
            "regret in GPU-hours: cost (misses priced in) above the bound",
            "$time_axis",
            "replicas' worth",
            "replicas",
            "seconds (log)",
            "requests/min",
            "GPUs",
        ]
    )


def test_every_series_that_the_figure_draws_is_in_the_data(page: Page) -> None:
    traces = page.block("figures")["timeline"]["data"]
    data = page.block("timelines")

    for row in data["rows"]:
        for name in (t["series"] for t in traces if t["series"] != "constant"):
            places = [row["gpus"][name[5:]]] if name.startswith("gpus.") else [t[name] for t in row["targets"]]
            for place in places:
                assert len(data["arrays"][place]) in (1, row["points"])


def test_rows_share_what_they_have_in_common(page: Page) -> None:
    """All rows met the same arrivals: the demand of a target is stored once."""
    rows = page.block("timelines")["rows"]

    assert {row["targets"][0]["demand"] for row in rows} == {rows[0]["targets"][0]["demand"]}
    assert rows[1]["targets"][0]["active"] != rows[6]["targets"][0]["active"]


def test_ours_is_shown_first_and_a_row_without_series_is_still_in_the_list() -> None:
    given_ = comparison(targets=1, buckets=12)
    rows = tuple(replace(r, series=None) if r.row == "forethaw" else r for r in given_.rows)
    page = Page(render_html(replace(given_, rows=rows)))

    assert page.block("figures")["row"] == 6
    assert "points" not in page.block("timelines")["rows"][6]
    assert "No series were kept for this row." in page.texts


def test_a_name_cannot_break_out_of_the_page() -> None:
    """Names, facts and commands come from files of others."""
    nasty = "</script><script>alert(1)</script><!-- \u2028 & \" '"
    given_ = comparison(targets=1, buckets=12)
    first = replace(given_.rows[6], row=nasty, targets=(replace(given_.rows[6].targets[0], name=nasty, service=nasty),))
    page = Page(
        render_html(replace(given_, title=nasty, command=nasty, rows=(first,), scenario={nasty: nasty}, notes=(nasty,)))
    )

    assert page.open == []
    assert len(page.scripts) == 4
    assert page.block("timelines")["rows"][0]["name"] == nasty


@pytest.mark.parametrize(("targets", "rows"), [(1, 1), (5, 15)])
def test_any_size_stays_below_eight_megabytes(tmp_path: Path, targets: int, rows: int) -> None:
    """The largest asked for: 15 rows that share as little as rows can, 5 targets, 1,500 buckets."""
    sketches = tuple(
        replace(ROWS[i % len(ROWS)], row=f"row {i}", headroom=1.1 + 0.013 * i, bound="") for i in range(rows)
    )
    write_html(comparison(targets, sketches, buckets=1500, bucket_s=57.6), tmp_path / "report.html")

    assert (tmp_path / "report.html").stat().st_size < 8_000_000


def test_an_empty_comparison_is_a_page_too() -> None:
    page = Page(render_html(replace(comparison(targets=1, buckets=12), rows=(), pooling=None)))

    assert page.open == []
    assert "The rows of this comparison leave nothing to compare." in page.texts


def test_series_too_large_for_the_page_are_thinned_until_they_fit() -> None:
    block = timelines(comparison(buckets=600), max_points=600, max_bytes=60_000)

    assert block.thinned
    assert len(block.as_json()) < 66_000
    assert block.rows[0]["points"] >= 16
    assert block.rows[0]["step_s"] * block.rows[0]["points"] >= 600 * 300.0


known = st.one_of(st.floats(0.0, 1e6), st.just(float("nan")))


@settings(deadline=None)
@given(arrays.arrays(np.float64, st.integers(1, 60), elements=known), st.integers(1, 9))
def test_thinning_keeps_means_and_maxima(values: np.ndarray[Any, np.dtype[np.float64]], factor: int) -> None:
    """Each point is the mean of its group, or its highest spike; what is unknown stays unknown."""
    means, maxima = thinned_by_mean(values, factor), thinned_by_max(values, factor)

    assert len(means) == len(maxima) == -(-len(values) // factor)
    for i, (mean, highest) in enumerate(zip(means, maxima, strict=True)):
        group = values[i * factor : (i + 1) * factor]
        group = group[~np.isnan(group)]
        if group.size:
            assert mean == pytest.approx(group.mean())
            assert highest == group.max()
        else:
            assert np.isnan(mean)
            assert np.isnan(highest)


@settings(deadline=None)
@given(arrays.arrays(np.float64, st.integers(1, 40), elements=known))
def test_packing_keeps_four_digits_and_says_a_constant_once(
    values: np.ndarray[Any, np.dtype[np.float64]],
) -> None:
    read = [np.nan if v is None else v for v in json.loads(packed(values))]
    unpacked = np.array(read * len(values) if len(read) == 1 else read)

    np.testing.assert_allclose(unpacked, values, rtol=6e-4, atol=1e-12)


def test_a_row_without_misses_has_a_place_on_the_logarithmic_axis() -> None:
    given_ = with_row(comparison(), "forethaw", 100.0, 0)
    figure = frontier(given_)
    (ours,) = (t for t in figure["data"] if t["name"] == "ours")
    axis = figure["layout"]["yaxis"]

    assert ours["y"] == [axis["tickvals"][0]]
    assert axis["ticktext"][0] == "0"
    assert 10 ** axis["range"][0] < ours["y"][0]


def test_the_pareto_line_leaves_the_bounds_out() -> None:
    """A bound dominates everything: on the line it would hide which policies are worth a look."""
    given_: Comparison = comparison()
    (line,) = (t for t in frontier(given_)["data"] if t["mode"] == "lines")

    assert round(given_.row("clairvoyant").held_gpu_hours, 4) not in line["x"]
    assert line["x"] == sorted(line["x"])
    assert line["y"] == sorted(line["y"], reverse=True)


def test_every_state_of_a_gpu_has_a_colour_of_its_own() -> None:
    assert set(STATE_COLOURS) == set(GPU_STATES)
    assert len(set(STATE_COLOURS.values())) == len(GPU_STATES)


def test_colours_by_name_are_defined_for_light_and_dark() -> None:
    """`$lent` and `$absent` are the style sheet's variables, one value for each scheme."""
    named = [colour[1:] for colour in STATE_COLOURS.values() if colour.startswith("$")]
    sheet = render_html(comparison())

    assert named == ["lent", "absent"]
    for name in named:
        values = re.findall(rf"--{name}: (#[0-9a-f]{{6}});", sheet)
        assert len(values) == len(set(values)) == 2


def test_lent_and_absent_gpus_are_in_the_pool_over_time_and_not_among_the_held() -> None:
    given_ = comparison()

    over_time = [trace["name"] for trace in timeline_template(given_)["data"] if trace["name"] in GPU_STATES]
    held = [trace["name"] for trace in gpu_hours_by_state(given_)["data"]]

    assert over_time[-2:] == ["lent", "absent"]
    assert {"active", "spare"} <= set(held)
    assert set(held).isdisjoint({"lent", "absent"})


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 200)), min_size=1, max_size=15))
def test_labels_never_cover_each_other(points: list[tuple[int, int]]) -> None:
    names = [f"row {i}" for i in range(len(points))]
    places = label_places(points, names, 400.0, 200.0)

    boxes = [label_box(p, n, place) for p, n, place in zip(points, names, places, strict=True) if place]
    for i, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[:i]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


def label_box(point: tuple[int, int], name: str, place: str) -> tuple[float, float, float, float]:
    """Where the label lies, worked out here anew: 6.6 px a character, 16 px high, 9 px from the point."""
    vertical, horizontal = place.split()
    width = 6.6 * len(name)
    left = point[0] + {"left": -9 - width, "center": -width / 2, "right": 9}[horizontal]
    top = point[1] + {"top": -25.0, "middle": -8.0, "bottom": 9.0}[vertical]
    return left, top, left + width, top + 16


def test_equal_comparisons_give_equal_pages() -> None:
    assert render_html(comparison(targets=1, buckets=24)) == render_html(comparison(targets=1, buckets=24))
