"""A `Comparison` as CSV: one line per (row, target) and one per row for the pool.

`scope` tells the two apart, so a sum over `scope == "target"` never counts twice. Units are in the
names of the columns; an unknown value is an empty cell. The figures are not rounded: CSV is read by
programs.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from simulations.report import derived
from simulations.results import GPU_STATES, Comparison, RunResult, TargetResult

QUANTILES = ("p50", "p90", "p95", "p99", "p999", "mean")

COLUMNS = (
    "row",
    "policy",
    "starts_from",
    "bound",
    "scope",
    "target",
    "service",
    "gpus_per_replica",
    "requests",
    "completed",
    "misses",
    "miss_share",
    "meets_slo",
    *(f"ttft_{q}_s" for q in QUANTILES),
    *(f"wait_{q}_s" for q in QUANTILES),
    "itl_mean_s",
    "replicas_mean",
    "replicas_max",
    *(f"starts_{kind}" for kind in derived.START_KINDS),
    *(f"gpu_s_{state}" for state in GPU_STATES),
    "held_gpu_h",
    "cost_gpu_s",
    "regret_clairvoyant_gpu_s",
    "regret_informed_gpu_s",
    "decisions",
    "pool_gpus",
    "duration_s",
    "slo_wait_s",
    "slo_share",
    "miss_cost_gpu_s",
    "seed",
)

Cell = str | int | float | None


def write_csv(comparison: Comparison, path: Path) -> None:
    """Write the comparison to `path` as UTF-8 with line feeds; equal inputs give equal bytes."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for line in _lines(comparison):
            writer.writerow({k: _cell(v) for k, v in line.items()})


def _lines(comparison: Comparison) -> Iterator[dict[str, Cell]]:
    for run in comparison.rows:
        for target in run.targets:
            yield _common(comparison, run) | _target_line(comparison, target)
        yield _common(comparison, run) | _pool_line(comparison, run)


def _common(comparison: Comparison, run: RunResult) -> dict[str, Cell]:
    return {
        "row": run.row,
        "policy": run.policy,
        "starts_from": run.starts_from,
        "bound": run.bound,
        "pool_gpus": run.pool_gpus,
        "duration_s": run.duration_s,
        "slo_wait_s": comparison.slo_wait_s,
        "slo_share": comparison.slo_share,
        "miss_cost_gpu_s": comparison.miss_cost_gpu_s,
        "seed": comparison.seed,
    }


def _target_line(comparison: Comparison, target: TargetResult) -> dict[str, Cell]:
    line: dict[str, Cell] = {
        "scope": "target",
        "target": target.name,
        "service": target.service,
        "gpus_per_replica": target.gpus_per_replica,
        "itl_mean_s": target.itl_mean_s,
        "replicas_mean": target.replicas_mean,
        "replicas_max": target.replicas_max,
    }
    line |= _requests(comparison, target.requests, target.completed, target.misses)
    line |= {f"ttft_{q}_s": target.ttft_s.get(q) for q in QUANTILES}
    line |= {f"wait_{q}_s": target.wait_s.get(q) for q in QUANTILES}
    return line | _starts(target.starts) | _gpu_seconds(target.gpu_seconds)


def _pool_line(comparison: Comparison, run: RunResult) -> dict[str, Cell]:
    starts = {kind: sum(t.starts.get(kind, 0) for t in run.targets) for kind in derived.START_KINDS}
    line: dict[str, Cell] = {
        "scope": "pool",
        "held_gpu_h": run.held_gpu_hours,
        "cost_gpu_s": run.cost_gpu_s,
        "decisions": run.decisions,
        "regret_clairvoyant_gpu_s": derived.regret_gpu_s(comparison, run, derived.CLAIRVOYANT),
        "regret_informed_gpu_s": derived.regret_gpu_s(comparison, run, derived.INFORMED),
    }
    line |= _requests(comparison, run.requests, sum(t.completed for t in run.targets), run.misses)
    return line | _starts(starts) | _gpu_seconds(run.gpu_seconds)


def _requests(comparison: Comparison, requests: int, completed: int, misses: int) -> dict[str, Cell]:
    return {
        "requests": requests,
        "completed": completed,
        "misses": misses,
        "miss_share": misses / requests if requests else 0.0,
        "meets_slo": "yes" if derived.meets(misses, requests, comparison.slo_share) else "no",
    }


def _starts(starts: Mapping[str, int]) -> dict[str, Cell]:
    return {f"starts_{kind}": starts.get(kind, 0) for kind in derived.START_KINDS}


def _gpu_seconds(gpu_seconds: Mapping[str, float]) -> dict[str, Cell]:
    """Empty where a state is none of this scope's: spares belong to the pool, not to a target."""
    return {f"gpu_s_{state}": gpu_seconds.get(state) for state in GPU_STATES}


def _cell(value: Cell) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return repr(float(value)) if isinstance(value, float) else str(value)
