"""Lead times add up from their parts, scale with the model, and refuse what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.input_error import InputError
from autoscaler.leadtimes.parts import FOLDER, load_lead_times

H100 = load_lead_times("h100")
SHIPPED = (FOLDER / "h100.toml").read_text("utf-8")


def test_the_measured_paths_come_out() -> None:
    """13 GB on one card: unpark near 0.44 s and restore near 0.62 s, plus trigger and gate of 0.15 s."""
    ladder = {t.name: t for t in H100.ladder(1, 13 * 10**9, restored=True)}

    assert ladder["parked"].lead_time.at(0.5) == pytest.approx(0.44 + 0.15, abs=0.05)
    assert ladder["staged"].lead_time.at(0.5) == pytest.approx(0.62 + 0.15, abs=0.05)
    assert 40.0 < ladder["cold"].lead_time.at(0.5) < 60.0


def test_without_restores_there_is_only_the_cold_start() -> None:
    assert [t.name for t in H100.ladder(2, 10**9, restored=False)] == ["active", "cold"]


def test_failures_stay_apart_and_are_followed_by_a_cold_start() -> None:
    ladder = {t.name: t.lead_time for t in H100.ladder(1, 13 * 10**9, restored=True)}

    for restore in (ladder["parked"], ladder["staged"], ladder["remote"]):
        assert restore.failure_probability == H100.failures.restore_probability
        assert restore.after_failure_s == ladder["cold"].quantiles_s
    assert max(ladder["staged"].quantiles_s) < 2.0
    assert ladder["staged"].at(0.999) > 40.0
    assert ladder["cold"].failure_probability == 0.0


@given(st.integers(1, 8), st.integers(0, 400), st.integers(0, 100))
def test_ladders_ascend_and_larger_models_take_longer(gpus: int, weights_gb: int, more_gb: int) -> None:
    small = H100.ladder(gpus, weights_gb * 10**9, restored=True)
    large = H100.ladder(gpus, (weights_gb + more_gb) * 10**9, restored=True)

    for tier in small:
        assert list(tier.lead_time.quantiles_s) == sorted(tier.lead_time.quantiles_s)
    for a, b in zip(small, large, strict=True):
        assert b.lead_time.mean_s >= a.lead_time.mean_s - 1e-9
    assert small[1].lead_time.mean_s <= small[2].lead_time.mean_s <= small[3].lead_time.mean_s


def test_gpu_supply_is_a_ladder_of_its_own() -> None:
    steps = H100.supply("lent+node")

    assert [s.name for s in steps] == ["free", "lent", "node"]
    assert steps[0].lead_time.mean_s == 0.0
    assert steps[1].lead_time.mean_s < steps[2].lead_time.mean_s
    assert max(steps[1].lead_time.quantiles_s) <= 30.0


def test_lent_gpus_cost_what_lending_does_not_recover_only_where_the_node_could_be_given_up() -> None:
    costs = {kind: [s.holding_cost for s in H100.supply(kind)] for kind in ("lent+node", "lent", "node")}

    assert costs == {"lent+node": [1.0, 0.7, 0.0], "lent": [1.0, 0.0], "node": [1.0, 0.0]}


@pytest.mark.parametrize("kind", ["node+lent", "lent+lent", "lent+node+lent", "borrowed", "lent+", "", "free+lent"])
def test_a_supply_out_of_order_repeated_or_unknown_is_refused(kind: str) -> None:
    with pytest.raises(InputError, match=r"supply.*one or more of lent, node, nearest first"):
        H100.supply(kind)


def test_a_file_may_name_further_supply_steps(tmp_path: Path) -> None:
    """GPUs reserved elsewhere that move over in a minute, between lent GPUs and new nodes."""
    entry = '[supply.moved]\nuniform = [50.0, 70.0]\ntaking_cost = 5.0\nholding_cost = 0.4\nsource = "Assumed."\n'
    file = tmp_path / "mine.toml"
    file.write_text(f"{SHIPPED}\n{entry}", "utf-8")

    steps = load_lead_times(str(file)).supply("lent+moved+node")

    assert [(s.name, s.holding_cost) for s in steps] == [("free", 1.0), ("lent", 0.7), ("moved", 0.4), ("node", 0.0)]


def test_every_entry_names_its_source() -> None:
    assert all(len(text) > 20 for text in H100.sources().values())


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("[parts.unpark]\nmedian_s = 0.44", "[parts.unpark]\nmedian_s = -0.44", "parts.unpark.median_s"),
        ("[parts.unpark]\nmedian_s = 0.44", '[parts.unpark]\nmedian_s = "fast"', "parts.unpark.median_s"),
        ("uniform = [0.0, 10.0]", "uniform = [10.0, 1.0]", "parts.probe"),
        ("[parts.gate]", "[parts.gatee]", "parts.gate"),
        ("uniform = [0.0, 10.0]", "uniform = [0.0, 10.0]\nmedian_s = 5.0", "parts.probe"),
        ("cap_s = 30.0", "cap_s = 3.0", "supply.lent"),
        ("taking_cost = 60.0", "taking_cost = inf", "supply.node.taking_cost"),
        ("holding_cost = 0.7", "holding_cost = 1.2", "supply.lent.holding_cost"),
        ("[supply.node]", "[supply.free]", "supply.free"),
        ("[supply.node]", '[supply."a+b"]', "supply.a+b"),
        ("restore_probability = 0.005", "restore_probability = 1.5", "failures.restore_probability"),
        ("store_bytes_per_s = 1e9", "store_bytes_per_s = nan", "rates.store_bytes_per_s"),
    ],
)
def test_a_bad_entry_is_refused_by_file_field_and_value(tmp_path: Path, old: str, new: str, field: str) -> None:
    file = tmp_path / "mine.toml"
    assert old in SHIPPED
    file.write_text(SHIPPED.replace(old, new), "utf-8")

    with pytest.raises(InputError) as refused:
        load_lead_times(str(file))

    assert "mine.toml" in str(refused.value)
    assert field in str(refused.value)


def test_a_refusal_names_the_line_and_for_a_missing_entry_the_table_that_lacks_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    lines = SHIPPED.splitlines()
    lent, cap = lines.index("[supply.lent]") + 1, lines.index("cap_s = 30.0") + 1

    file.write_text(SHIPPED.replace("cap_s = 30.0", "cap_s = -1"), "utf-8")
    with pytest.raises(InputError) as negative:
        load_lead_times(str(file))
    file.write_text(SHIPPED.replace("taking_cost = 20.0\n", ""), "utf-8")
    with pytest.raises(InputError) as missing:
        load_lead_times(str(file))

    assert (negative.value.line, negative.value.field, negative.value.value) == (cap, "supply.lent.cap_s", -1)
    assert (missing.value.line, missing.value.field) == (lent, "supply.lent.taking_cost")
    assert "add the entry" in str(missing.value)


def test_what_is_not_toml_or_not_there_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "broken.toml"
    file.write_text("name = ", "utf-8")

    with pytest.raises(InputError, match="not TOML"):
        load_lead_times(str(file))
    with pytest.raises(InputError, match="h100, h200"):
        load_lead_times("nothing")
