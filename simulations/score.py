"""From a finished replay to a row of results: what was served, what it cost.

Only what happened after the warm-up counts. Requests are booked under the moment they arrived, so a
miss belongs to the decision that let it happen, however late it was served.
"""

from __future__ import annotations

import numpy as np

from policies.arrays import FloatArray
from simulations.results import GPU_STATES, UNHELD, RunResult, RunSeries, TargetResult
from simulations.scenario.rows import Row
from simulations.scenario.scenario import Scenario
from simulations.world.cluster import SimulatedCluster
from simulations.world.ledger import POOL_STATES, TARGET_STATES
from simulations.world.recorder import SeriesRecorder

TTFT_PERCENTS = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p999": 99.9}


def score_run(scenario: Scenario, row: Row, cluster: SimulatedCluster, recorder: SeriesRecorder) -> RunResult:
    """Return the `RunResult` of a cluster that has reached the end of its replay."""
    targets = tuple(_target(scenario, cluster, i) for i in range(len(scenario.targets)))
    misses = sum(t.misses for t in targets)
    gpu_seconds = {state: cluster.ledger.gpu_seconds(None, state) for state in (*TARGET_STATES, *POOL_STATES)}
    held = sum(v for k, v in gpu_seconds.items() if k not in UNHELD)
    lent_cost = sum(s.holding_cost for s in scenario.supply[1:-1])  # the last step is never held
    held += lent_cost * gpu_seconds["lent"]
    return RunResult(
        row=row.name,
        policy=row.policy.name,
        starts_from="restore" if row.restored else "cold",
        targets=targets,
        requests=sum(t.requests for t in targets),
        misses=misses,
        gpu_seconds={state: gpu_seconds[state] for state in GPU_STATES},
        pool_gpus=scenario.pool_gpus,
        duration_s=scenario.duration_s - scenario.warmup_s,
        cost_gpu_s=held + scenario.miss_cost * misses,
        decisions=recorder.decisions,
        series=_series(scenario, cluster, recorder),
        bound=row.bound,
    )


def _target(scenario: Scenario, cluster: SimulatedCluster, i: int) -> TargetResult:
    target = scenario.targets[i]
    summary = cluster.serving[target.key].fleet.summary(scenario.warmup_s)
    gpus = target.service.gpus_per_replica
    scored_s = scenario.duration_s - scenario.warmup_s
    seconds = {state: cluster.ledger.gpu_seconds(target.key, state) for state in TARGET_STATES}
    first = _first_scored(scenario)
    peak = cluster.ledger.bucket_gpus(target.key, "active")[first:].max(initial=0.0) / gpus
    return TargetResult(
        name=target.name,
        service=target.service.name,
        gpus_per_replica=gpus,
        requests=summary.arrived,
        completed=summary.completed,
        misses=summary.misses,
        ttft_s={
            **{k: summary.ttft.percentile(p) for k, p in TTFT_PERCENTS.items()},
            "mean": summary.ttft_mean_s,
        },
        wait_s={
            **{k: summary.wait.percentile(p) for k, p in TTFT_PERCENTS.items()},
            "mean": summary.wait_mean_s,
        },
        itl_mean_s=summary.itl_mean_s,
        replicas_mean=seconds["active"] / gpus / scored_s,
        replicas_max=int(np.ceil(peak - 1e-9)),
        starts=dict(sorted(cluster.starts[target.key].items())),
        gpu_seconds=seconds,
    )


def _first_scored(scenario: Scenario) -> int:
    return round(scenario.warmup_s / scenario.bucket_s)


def _series(scenario: Scenario, cluster: SimulatedCluster, recorder: SeriesRecorder) -> RunSeries:
    first = _first_scored(scenario)
    ledger = cluster.ledger
    n = len(scenario.targets)

    def replicas(state: str) -> FloatArray:
        return np.array(
            [ledger.bucket_gpus(t.key, state)[first:] / t.service.gpus_per_replica for t in scenario.targets]
        )

    fleets = [cluster.serving[t.key].fleet for t in scenario.targets]
    arrived = np.array([f.bucket_arrived[first:] for f in fleets], dtype=float)
    percentiles = np.array([f.bucket_ttft_percentiles((50.0, 95.0, 99.0))[:, first:] for f in fleets])
    buckets = arrived.shape[1]
    work = np.array([_work_per_request(scenario, i) for i in range(n)])
    low, median, high = recorder.band[:, :, first:]
    return RunSeries(
        bucket_s=scenario.bucket_s,
        time_s=np.arange(buckets, dtype=np.float64) * scenario.bucket_s,
        offered_rps=arrived / scenario.bucket_s,
        demand_replicas=arrived / scenario.bucket_s * work[:, None],
        forecast_low=low,
        forecast_median=median,
        forecast_high=high,
        active=replicas("active"),
        starting=replicas("starting"),
        draining=replicas("draining"),
        warm=replicas("standby") + replicas("parked"),
        ttft_p50_s=percentiles[:, 0],
        ttft_p95_s=percentiles[:, 1],
        ttft_p99_s=percentiles[:, 2],
        misses=np.array([f.bucket_misses[first:] for f in fleets], dtype=float),
        gpus={state: ledger.bucket_gpus(None, state)[first:] for state in GPU_STATES},
        forecast_horizon_s=recorder.horizon_s,
    )


def _work_per_request(scenario: Scenario, i: int) -> float:
    """Replica-seconds of the mean request: turns offered requests into demand for the plots."""
    target = scenario.targets[i]
    return (
        target.work.per_request_s
        + target.mean_prompt_tokens * target.work.per_prompt_token_s
        + target.mean_output_tokens * target.work.per_output_token_s
    )
