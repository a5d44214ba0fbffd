"""What the documents say is what was measured, and what they name is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.gpu_bench.table import table
from restore_driver.errors import Reason

ROOT = Path(__file__).parent.parent
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("gpu_restore_*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_the_table_of_restores_is_the_measured_one(path: Path) -> None:
    assert table(json.loads(path.read_text())) in (ROOT / "docs" / "restore.md").read_text("utf-8")


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_the_headline_of_each_result_follows_from_its_rows(path: Path) -> None:
    results = json.loads(path.read_text())
    rows = results["rows"]

    assert results["restore_s"] == rows["restore"]["total_s"]
    assert results["unpark_s"] == rows["unpark"]["total_s"]
    assert results["ratio_cold_over_restore"] == pytest.approx(rows["cold"]["cold_cache_s"] / results["restore_s"])
    assert results["ratio_warm_over_restore"] == pytest.approx(rows["cold"]["warm_cache_s"] / results["restore_s"])
    assert results["pinned_h2d_share"] == pytest.approx(
        rows["restore"]["weights_bytes_per_s"] / rows["holder"]["yardstick_bytes_per_s"]
    )


def test_every_reason_has_its_hint() -> None:
    """docs/restore.md sorts all reasons by what to do."""
    text = (ROOT / "docs" / "restore.md").read_text("utf-8")
    told = set(re.findall(r"`([A-Z]\w+)`", text + (ROOT / "docs" / "storage.md").read_text("utf-8")))

    assert {reason.value for reason in Reason} - told - {"StoreUnreachable"} == set()
    assert "StoreUnreachable" in (ROOT / "docs" / "storage.md").read_text("utf-8")


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_links_within_the_project_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text("utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target
