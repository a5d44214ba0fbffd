"""The clairvoyant row of a scenario: every arrival read once, one linear programme a target."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.arrays import FloatArray
from simulations.bounds.clairvoyant import BoundInput, clairvoyant_bound
from simulations.results import GPU_STATES, RunResult, TargetResult
from simulations.scenario.scenario import Scenario, TargetScenario

MOST_BINS = 1200
"""The programme grows faster than its bins; coarser bins only relax it."""
PIECE_S = 60.0


@dataclass(frozen=True, slots=True)
class _Profile:
    work_s: FloatArray
    prefill_s: FloatArray
    requests: FloatArray


def clairvoyant_row(scenario: Scenario) -> RunResult:
    """The bound as a row of the table; its latencies are unknown, since nothing is replayed."""
    scored_s = scenario.duration_s - scenario.warmup_s
    bin_s = max(1.0, float(np.ceil(scored_s / MOST_BINS)))
    targets = tuple(_target(scenario, t, bin_s) for t in scenario.targets)
    held = sum(t.gpu_seconds["active"] for t in targets)
    misses = sum(t.misses for t in targets)
    gpu_seconds = dict.fromkeys(GPU_STATES, 0.0)
    gpu_seconds["active"] = held
    gpu_seconds["lent"] = scenario.pool_gpus * scored_s - held
    return RunResult(
        row="clairvoyant",
        policy="clairvoyant",
        starts_from="restore",
        targets=targets,
        requests=sum(t.requests for t in targets),
        misses=misses,
        gpu_seconds=gpu_seconds,
        pool_gpus=scenario.pool_gpus,
        duration_s=scored_s,
        cost_gpu_s=held + scenario.miss_cost * misses,
        decisions=0,
        bound="clairvoyant",
    )


def _target(scenario: Scenario, target: TargetScenario, bin_s: float) -> TargetResult:
    profile = _profile(scenario, target, bin_s)
    gpus = target.service.gpus_per_replica
    bound = clairvoyant_bound(
        BoundInput(
            bin_s=bin_s,
            work_s=profile.work_s,
            prefill_s=profile.prefill_s,
            requests=profile.requests,
            slo_wait_s=scenario.slo_wait_s,
            gpus_per_replica=gpus,
            start_s=min(t.lead_time.quantiles_s[0] for t in target.wanted.ladder[1:]),
            min_replicas=target.wanted.min_replicas,
            miss_cost=scenario.miss_cost,
        )
    )
    unknown = dict.fromkeys(("p50", "p90", "p95", "p99", "p999", "mean"), float("nan"))
    requests = int(profile.requests.sum())
    return TargetResult(
        name=target.name,
        service=target.service.name,
        gpus_per_replica=gpus,
        requests=requests,
        completed=requests,
        misses=int(bound.misses),
        ttft_s=unknown,
        wait_s=unknown,
        itl_mean_s=float("nan"),
        replicas_mean=float(bound.capacity.mean()),
        replicas_max=int(np.ceil(bound.capacity.max())),
        starts={},
        gpu_seconds={"active": bound.held_gpu_s, "draining": 0.0, "starting": 0.0, "standby": 0.0, "parked": 0.0},
    )


def _profile(scenario: Scenario, target: TargetScenario, bin_s: float) -> _Profile:
    """Least work, its prefill, and requests by bin from the end of the warm-up, in one streamed pass."""
    stream = target.open_stream()
    stream.take_until(scenario.warmup_s)
    n_bins = int(np.ceil((scenario.duration_s - scenario.warmup_s) / bin_s - 1e-9))
    work, prefill, requests = np.zeros(n_bins), np.zeros(n_bins), np.zeros(n_bins)
    at_s = scenario.warmup_s
    while at_s < scenario.duration_s:
        at_s = min(at_s + PIECE_S, scenario.duration_s)
        times_s, prompts, outputs = stream.take_until(at_s)
        bins = np.minimum(((times_s - scenario.warmup_s) / bin_s).astype(np.int64), n_bins - 1)
        work += np.bincount(bins, target.service.least_work(prompts, outputs), n_bins)
        prefill += np.bincount(bins, target.service.least_work(prompts, np.zeros_like(outputs)), n_bins)
        requests += np.bincount(bins, minlength=n_bins)
    return _Profile(work, prefill, requests)
