"""Loads that once broke a replay: a gap in one target's record, a pool too small, silence, one replica more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autoscaler.ports import PassRecord
from policies.keys import TargetKey
from policies.reasons import ReasonCode
from simulations.replay import replay
from simulations.scenario.build import build_scenario
from simulations.scenario.options import TargetRequest
from simulations.scenario.rows import ROWS
from tests.simulations.command_line import counts_file, forethaw
from tests.simulations.test_replay import options

SIX_REPLICAS, ONE_REPLICA = 6000, 90
"""Requests a minute, at the mean tokens that counts are given."""


def simulated(folder: Path, *words: str) -> dict[str, Any]:
    """Return the only row of a `forethaw simulate` that ran through."""
    done = forethaw("simulate", *words, "--warmup", "60", "--no-progress", "--json", str(folder / "out.json"))
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((folder / "out.json").read_text("utf-8"))["comparison"]["rows"]
    assert isinstance(row, dict)
    return row


def test_a_gap_and_a_pool_too_small_for_both_targets_hold_one_and_never_exceed_the_pool(tmp_path: Path) -> None:
    """Six replicas wanted by each of two targets on eight GPUs; from minute 4 on one of them has no record."""
    gap = counts_file(tmp_path / "gap.csv", [SIX_REPLICAS] * 4 + [None] * 6 + [SIX_REPLICAS])
    steady = counts_file(tmp_path / "steady.csv", [SIX_REPLICAS] * 11)

    row = simulated(tmp_path, "--target", f"gap={gap}", "--target", f"steady={steady}", "--gpus", "8")

    active = dict(zip(("gap", "steady"), row["series"]["active"], strict=True))
    # Scored minutes 1 to 9; the record of minute 4 to 9 is missing.
    in_gap = active["gap"][4:9]
    assert len(set(in_gap)) == 1
    assert in_gap[0] >= 1
    busy = ("active", "draining", "starting", "spare", "reclaiming", "lent")
    for bucket in range(len(active["gap"])):
        assert sum(row["series"]["gpus"][state][bucket] for state in busy) == pytest.approx(8)
        assert active["gap"][bucket] + active["steady"][bucket] <= 8 + 1e-9
    assert row["gpu_seconds"]["lent"] < 0.1 * 8 * row["duration_s"]


def test_a_target_without_metrics_is_held_for_that_reason_while_the_other_is_planned(tmp_path: Path) -> None:
    gap = counts_file(tmp_path / "gap.csv", [SIX_REPLICAS] * 4 + [None] * 4 + [SIX_REPLICAS])
    steady = counts_file(tmp_path / "steady.csv", [SIX_REPLICAS] * 9)
    targets = tuple(
        TargetRequest(name=name, trace=trace, service="llama-3.1-8b-h100")
        for name, trace in (("gap", gap), ("steady", steady))
    )
    scenario = build_scenario(options(targets=targets, gpus=8, duration_s=480.0, warmup_s=60.0))
    reasons: dict[str, set[str]] = {"gap": set(), "steady": set()}
    counts: set[int] = set()

    def keep(record: PassRecord) -> None:
        assert record.violations == ()
        if 300.0 <= record.now_s <= 470.0:
            for key, plan in record.plan.targets.items():
                reasons[key.name] |= {reason.code for reason in plan.reasons}
            counts.add(record.plan.targets[TargetKey("simulation", "gap")].active)

    replay(scenario, ROWS["forethaw"](scenario), keep=keep)

    assert ReasonCode.METRICS_UNKNOWN in reasons["gap"]
    assert ReasonCode.METRICS_UNKNOWN not in reasons["steady"]
    assert len(counts) == 1


def test_silence_takes_a_target_to_its_minimum_within_three_minutes(tmp_path: Path) -> None:
    quiet = counts_file(tmp_path / "quiet.csv", [SIX_REPLICAS] * 5 + [0] * 7)

    row = simulated(tmp_path, quiet)

    (active,) = row["series"]["active"]
    assert max(active[:4]) >= 5
    # Scored from minute 1 on: index 7 is the minute that begins three minutes after the last request.
    assert active[7:] == [1.0] * len(active[7:])


@pytest.mark.parametrize("gpus", [1, 2])
def test_a_pool_too_small_is_released_soon_after_its_backlog_is_served(tmp_path: Path, gpus: int) -> None:
    """Three replicas' load for two minutes on one or two GPUs, then next to none: one replica is left at the end."""
    short = counts_file(tmp_path / "short.csv", [SIX_REPLICAS // 2] * 2 + [ONE_REPLICA] * 10)

    row = simulated(tmp_path, short, "--gpus", str(gpus))

    (active,) = row["series"]["active"]
    assert max(active) == gpus
    assert active[-1] == 1.0
    (target,) = row["targets"]
    assert target["misses"] > 0


def test_one_replica_more_is_planned_and_granted_within_one_lead_time(tmp_path: Path) -> None:
    """Load that grows by a tenth of ten replicas, twice; a wake takes 4 to 40 s with its GPU taken back for it."""
    rows = [
        f"{at + i / rate:.6f},1000,200" for at, rate in ((0, 146), (240, 161), (480, 176)) for i in range(240 * rate)
    ]
    trace = tmp_path / "plus_one.csv"
    trace.write_text("time_s,prompt_tokens,output_tokens\n" + "\n".join(rows) + "\n", "utf-8")
    target = TargetRequest(name="web", trace=str(trace), service="llama-3.1-8b-h100")
    scenario = build_scenario(options(targets=(target,), duration_s=700.0))
    planned: list[int] = []
    behind_s: list[float] = [0.0]

    def keep(record: PassRecord) -> None:
        plan, seen = record.plan.targets[target_key], record.given.observed[target_key]
        planned.append(plan.active)
        behind_s.append(behind_s[-1] + record.given.tick_s if plan.active > seen.active else 0.0)

    target_key = TargetKey("simulation", "web")
    result = replay(scenario, ROWS["forethaw"](scenario), keep=keep)

    assert planned[-1] - min(planned[60:110]) == 2
    assert 0.0 < max(behind_s) <= 45.0
    assert result.misses == 0
