"""JSON that reads back as what was written, and CSV whose sums agree with the results."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.report import ReportFormatError, from_json, render_html, to_json, write_csv
from simulations.results import GPU_STATES, Comparison
from tests.simulations.report_fixture import comparison


def assert_same(found: Any, wanted: Any, rtol: float = 0.0) -> None:
    """Equal in type and value, arrays and NaN included; floats to within `rtol`."""
    assert type(found) is type(wanted)
    if is_dataclass(wanted):
        for f in fields(wanted):
            assert_same(getattr(found, f.name), getattr(wanted, f.name), rtol)
    elif isinstance(wanted, np.ndarray):
        np.testing.assert_allclose(found, wanted, rtol=rtol, atol=0.0)
    elif isinstance(wanted, Mapping):
        assert set(found) == set(wanted)
        for key, value in wanted.items():
            assert_same(found[key], value, rtol)
    elif isinstance(wanted, tuple):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other, rtol)
    elif isinstance(wanted, float):
        np.testing.assert_allclose(found, wanted, rtol=rtol, atol=0.0)
    else:
        assert found == wanted


def test_a_comparison_reads_back_as_it_was_to_nine_digits() -> None:
    assert_same(from_json(to_json(comparison(buckets=48))), comparison(buckets=48), rtol=1e-8)


def test_what_was_read_writes_the_same_bytes_and_reads_the_same_again() -> None:
    text = to_json(comparison(buckets=48))
    once = from_json(text)

    assert to_json(once) == text
    assert_same(from_json(to_json(once)), once)


def test_equal_comparisons_give_equal_bytes_whatever_the_order_of_their_mappings() -> None:
    given_ = comparison(targets=1, buckets=12)
    turned = replace(given_, scenario=dict(reversed(list(given_.scenario.items()))))

    assert to_json(turned) == to_json(given_) == to_json(comparison(targets=1, buckets=12))


def test_json_has_a_version_sorted_keys_and_no_nan() -> None:
    """The fixture holds unknown latencies; strict readers of other languages must not stumble."""
    text = to_json(comparison(buckets=48))
    read = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))

    assert read["schema_version"] == 1
    assert json.dumps(read, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n" == text
    assert read["comparison"]["rows"][0]["series"]["ttft_p99_s"][0][3] is None


def test_a_page_drawn_from_the_archive_is_the_page_drawn_at_once() -> None:
    """Nine digits are more than the page shows."""
    given_ = comparison(targets=2, buckets=48)

    assert render_html(from_json(to_json(given_))) == render_html(given_)


@settings(deadline=None)
@given(st.floats(allow_nan=True, allow_infinity=True), st.floats(0.0, 1e12))
def test_every_float_survives(odd: float, cost_gpu_s: float) -> None:
    """NaN, infinities, minus zero and subnormal numbers included."""
    given_ = comparison(targets=1, sketches=(), buckets=2)
    one = replace(given_, slo_wait_s=odd, miss_cost_gpu_s=cost_gpu_s)

    read = from_json(to_json(one))

    assert_same(read.miss_cost_gpu_s, cost_gpu_s, rtol=5e-9)
    assert read.slo_wait_s == pytest.approx(odd, rel=5e-9, abs=1e-320, nan_ok=True)


def edited(change: Any) -> str:
    document = json.loads(to_json(comparison(targets=1, buckets=4)))
    change(document)
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "not JSON"),
        ("[]", "no schema_version"),
        (edited(lambda d: d.update(schema_version=2)), "schema_version 2: this version reads 1"),
        (edited(lambda d: d["comparison"].pop("seed")), "comparison: field 'seed' is missing"),
        (edited(lambda d: d["comparison"].update(sede=1)), "comparison: unknown field 'sede'"),
        (edited(lambda d: d["comparison"].update(seed="7")), "comparison.seed: expected int, found str '7'"),
        (
            edited(lambda d: d["comparison"]["rows"][0]["targets"][0].update(misses=1.5)),
            "comparison.rows[0].targets[0].misses: expected int",
        ),
        (
            edited(lambda d: d["comparison"]["rows"][0]["gpu_seconds"].update(active="many")),
            "comparison.rows[0].gpu_seconds.active: expected a number",
        ),
        (
            edited(lambda d: d["comparison"]["rows"][1]["series"].update(active=[[1.0], [1.0, 2.0]])),
            "comparison.rows[1].series.active: rows of unequal length",
        ),
    ],
)
def test_a_file_that_is_not_quite_a_report_is_refused_with_the_place(text: str, named: str) -> None:
    with pytest.raises(ReportFormatError) as refused:
        from_json(text)

    assert named in str(refused.value)


def test_a_field_that_is_younger_than_the_file_takes_its_default() -> None:
    text = edited(lambda d: [d["comparison"].pop("notes"), d["comparison"].pop("pooling")])

    assert (from_json(text).notes, from_json(text).pooling) == ((), None)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    path: Path = tmp_path_factory.mktemp("csv") / "report.csv"
    write_csv(comparison(), path)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_a_line_for_every_row_and_target_and_one_for_each_pool(lines: list[dict[str, str]]) -> None:
    wanted = [
        (r.row, scope, name)
        for r in comparison().rows
        for scope, name in [*(("target", t.name) for t in r.targets), ("pool", "")]
    ]

    assert [(one["row"], one["scope"], one["target"]) for one in lines] == wanted


@pytest.mark.parametrize("column", ["requests", "completed", "misses", "starts_staged", "starts_cold", "starts_failed"])
def test_targets_sum_to_their_pool(lines: list[dict[str, str]], column: str) -> None:
    for run in comparison().rows:
        mine = [one for one in lines if one["row"] == run.row]
        parts = sum(int(one[column]) for one in mine if one["scope"] == "target")
        (whole,) = (int(one[column]) for one in mine if one["scope"] == "pool")
        assert parts == whole, run.row


def test_gpu_seconds_sum_to_the_pool_over_the_replay(lines: list[dict[str, str]]) -> None:
    """Every GPU is in one state at every moment; held hours leave the lent and the absent ones out."""
    for one in (x for x in lines if x["scope"] == "pool"):
        seconds = {s: float(one[f"gpu_s_{s}"]) for s in GPU_STATES}
        assert sum(seconds.values()) == pytest.approx(int(one["pool_gpus"]) * float(one["duration_s"]))
        assert float(one["held_gpu_h"]) * 3600 == pytest.approx(
            sum(seconds.values()) - seconds["lent"] - seconds["absent"]
        )
        parts = [x for x in lines if x["row"] == one["row"] and x["scope"] == "target"]
        assert sum(float(x["gpu_s_active"]) for x in parts) == pytest.approx(seconds["active"])


def test_csv_leaves_a_cell_empty_where_nothing_is_known(tmp_path: Path) -> None:
    """No bound, no regret; no request, no latency; a spare belongs to no target."""
    given_ = comparison(targets=1, buckets=12)
    run = given_.row("forethaw")
    silent = replace(run.targets[0], ttft_s={"p50": math.nan})
    write_csv(replace(given_, rows=(replace(run, targets=(silent,)),)), tmp_path / "one.csv")
    with (tmp_path / "one.csv").open(encoding="utf-8", newline="") as file:
        target, pool = csv.DictReader(file)

    assert (target["ttft_p50_s"], target["ttft_p99_s"], target["gpu_s_spare"]) == ("", "", "")
    assert (pool["regret_informed_gpu_s"], pool["regret_clairvoyant_gpu_s"]) == ("", "")
    assert float(pool["gpu_s_spare"]) == run.gpu_seconds["spare"]


def test_regret_of_a_bound_against_itself_is_nothing(lines: list[dict[str, str]]) -> None:
    pools = {one["row"]: one for one in lines if one["scope"] == "pool"}
    given_: Comparison = comparison()

    assert float(pools["informed"]["regret_informed_gpu_s"]) == 0.0
    assert float(pools["forethaw"]["regret_clairvoyant_gpu_s"]) == pytest.approx(
        given_.row("forethaw").cost_gpu_s - given_.row("clairvoyant").cost_gpu_s
    )
