"""Numbers that follow from a `Comparison` but are not stored in it.

The ingredients are kept in the results and the verdicts are derived here, so that the table, the page
and the CSV file cannot disagree. `verdict.py` turns these numbers into sentences.

Regret is the usual one of decision theory: the cost of a row less the cost of a bound on the same
arrivals (Savage, "The theory of statistical decision", 1951), in GPU-seconds. It can be negative
against the informed bound, which knows the true rate but not the arrivals, and so can be unlucky.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from simulations.results import Comparison, RunResult, TargetResult

CLAIRVOYANT = "clairvoyant"
INFORMED = "informed"

OUR_POLICY = "forethaw"

SHOWN_QUANTILES = ("p50", "p95", "p99")

SNAPSHOT_TIERS = ("standby", "parked", "staged", "remote")
"""Starts from one of these spared a cold start."""

START_KINDS = (*SNAPSHOT_TIERS, "cold", "draining", "failed")
"""All that `TargetResult.starts` counts; a cancelled drain stands under `draining`."""

_NAMED_BY_START = re.compile(r"\s*[(\[]?\b(cold|restored?)\b[)\]]?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Standing:
    """One row of the table in numbers; a regret is None where the comparison has no such bound."""

    run: RunResult
    mean_gpus: float
    worst_ttft_s: Mapping[str, float]
    """p50, p95 and p99 of the target with the highest value of each; NaN where none is known."""
    snapshot_starts: int
    cold_starts: int
    meets_slo: bool
    """All requests of the row together reach the SLO's share."""
    targets_meeting_slo: int
    regret_gpu_s: Mapping[str, float | None]
    """By bound: `clairvoyant`, `informed`."""


def standings(comparison: Comparison) -> tuple[Standing, ...]:
    """Every row in the order given, policies first and bounds last."""
    return tuple(standing(comparison, r) for r in (*policies(comparison), *bounds(comparison)))


def standing(comparison: Comparison, run: RunResult) -> Standing:
    """Return what the table shows of `run` beside the others."""
    share = comparison.slo_share
    return Standing(
        run=run,
        mean_gpus=run.held_gpu_hours * 3600.0 / run.duration_s if run.duration_s > 0 else math.nan,
        worst_ttft_s={q: worst(t.ttft_s.get(q, math.nan) for t in run.targets) for q in SHOWN_QUANTILES},
        snapshot_starts=sum(snapshot_starts(t) for t in run.targets),
        cold_starts=sum(t.starts.get("cold", 0) for t in run.targets),
        meets_slo=meets(run.misses, run.requests, share),
        targets_meeting_slo=sum(meets(t.misses, t.requests, share) for t in run.targets),
        regret_gpu_s={b: regret_gpu_s(comparison, run, b) for b in (CLAIRVOYANT, INFORMED)},
    )


def policies(comparison: Comparison) -> tuple[RunResult, ...]:
    """Return the rows that are no bounds."""
    return tuple(r for r in comparison.rows if not r.bound)


def bounds(comparison: Comparison) -> tuple[RunResult, ...]:
    """Return the rows that are bounds."""
    return tuple(r for r in comparison.rows if r.bound)


def ours(comparison: Comparison) -> RunResult | None:
    """Our row: the policy named `forethaw`, from restores where there is a choice, the first given."""
    rows = [r for r in policies(comparison) if r.policy == OUR_POLICY]
    return next((r for r in rows if r.starts_from == "restore"), rows[0] if rows else None)


def baselines(comparison: Comparison) -> tuple[RunResult, ...]:
    """Other people's policies: neither a bound nor a variant of ours."""
    return tuple(r for r in policies(comparison) if r.policy != OUR_POLICY)


def snapshot_starts(target: TargetResult) -> int:
    """Start that a snapshot or a warm replica shortened; cancelled drains and failures do not count."""
    return sum(target.starts.get(tier, 0) for tier in SNAPSHOT_TIERS)


def meets(misses: int, requests: int, share: float) -> bool:
    """Whether at least `share` of the requests met the SLO; no requests, nothing missed.

    The allowance is counted in whole requests with a hair's width for the rounding of `1 - share`.
    """
    return misses <= (1.0 - share) * requests + 1e-9 * max(requests, 1)


def regret_gpu_s(comparison: Comparison, run: RunResult, bound: str) -> float | None:
    """Cost of `run` above that of the bound, in GPU-seconds; None without that bound."""
    floor = comparison.bound(bound)
    return None if floor is None else run.cost_gpu_s - floor.cost_gpu_s


def worst(values: Iterable[float]) -> float:
    """Return the largest known value; NaN if none is known."""
    return max((v for v in values if not math.isnan(v)), default=math.nan)


def relative(value: float, reference: float) -> float:
    """(value - reference) / reference: -0.2 is 20% less. NaN where the reference is zero and value not."""
    if value == reference:
        return 0.0
    return (value - reference) / reference if reference else math.nan


def dominates(a: RunResult, b: RunResult) -> bool:
    """Return whether `a` holds no more GPU-hours, misses no more requests, and is better in one of the two."""
    pair_a, pair_b = (a.held_gpu_hours, a.misses), (b.held_gpu_hours, b.misses)
    return pair_a[0] <= pair_b[0] and pair_a[1] <= pair_b[1] and pair_a != pair_b


def pareto_front(runs: Iterable[RunResult]) -> tuple[RunResult, ...]:
    """Rows that no other row dominates in (GPU-hours held, misses), fewest GPU-hours first."""
    rows = tuple(runs)
    front = [r for r in rows if not any(dominates(other, r) for other in rows)]
    return tuple(sorted(front, key=lambda r: (r.held_gpu_hours, r.misses)))


def family(run: RunResult) -> str:
    """Return the row's name without what it starts from: `hpa` for `hpa (cold)` and `hpa (restored)`."""
    return _NAMED_BY_START.sub("", run.row).strip() or run.policy


def restore_pairs(comparison: Comparison) -> tuple[tuple[RunResult, RunResult], ...]:
    """(cold, restored) rows of the same policy and family, in the order of the cold ones.

    Such a pair differs in one thing only, so its difference is what restores are worth to that policy.
    """
    restored: dict[tuple[str, str], RunResult] = {}
    for run in policies(comparison):
        if run.starts_from == "restore":
            restored.setdefault((run.policy, family(run)), run)
    cold = (r for r in policies(comparison) if r.starts_from == "cold")
    return tuple((c, restored[c.policy, family(c)]) for c in cold if (c.policy, family(c)) in restored)


def best_baseline(comparison: Comparison) -> RunResult | None:
    """Return the baseline to beat; None without baselines.

    It has the same restores as ours if there is one such, meets the SLO if any does, and of those is the cheapest by
    the stated cost (the first given wins a tie).
    """
    rows = baselines(comparison)
    rows = tuple(r for r in rows if r.starts_from == "restore") or rows
    fine = tuple(r for r in rows if meets(r.misses, r.requests, comparison.slo_share))
    return min(fine or rows, key=lambda r: r.cost_gpu_s, default=None)
