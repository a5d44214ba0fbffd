"""A synthetic comparison that looks like a replay's: consistent sums, bursts, gaps in the metrics.

The reports read only results, so the tests need no simulator. Each row is described by how it follows
demand (headroom, delay, spares kept); series, totals and misses follow from that and agree with one
another, as those of a replay do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from policies.arrays import FloatArray
from simulations.results import GPU_STATES, Comparison, PoolingGain, RunResult, RunSeries, TargetResult

NAMES = ("chat-8b", "code-32b", "embed", "vision-12b", "agent-70b")


@dataclass(frozen=True)
class RowSketch:
    row: str
    policy: str
    starts_from: str
    headroom: float
    delay_s: float
    spares: float
    bound: str = ""


ROWS = (
    RowSketch("static peak", "static", "restore", 0.0, 0.0, 0.0),
    RowSketch("hpa (cold)", "hpa", "cold", 1.45, 180.0, 0.0),
    RowSketch("hpa (restored)", "hpa", "restore", 1.40, 60.0, 2.0),
    RowSketch("kpa (cold)", "kpa", "cold", 1.30, 120.0, 0.0),
    RowSketch("kpa (restored)", "kpa", "restore", 1.25, 30.0, 2.0),
    RowSketch("planner (restored)", "planner", "restore", 1.35, 180.0, 1.0),
    RowSketch("forethaw", "forethaw", "restore", 1.15, 5.0, 8.0),
    RowSketch("informed", "informed", "restore", 1.08, 2.0, 5.0, "informed"),
    RowSketch("clairvoyant", "clairvoyant", "restore", 1.02, 0.0, 1.0, "clairvoyant"),
)


def comparison(
    targets: int = 3, sketches: tuple[RowSketch, ...] = ROWS, buckets: int = 288, bucket_s: float = 300.0
) -> Comparison:
    """A day by default; equal arguments give equal results."""
    demand = demands(targets, buckets)
    pool = int(np.ceil((demand.max(axis=1) * gpus_each(targets)).sum() * 1.9)) + 8
    return Comparison(
        title="ServeGen fleet, one day, 3 models <restored & cold>",
        command='forethaw simulate fleet.yaml --seed 7 --out "report.html"',
        seed=7,
        slo_wait_s=2.0,
        slo_share=0.999,
        miss_cost_gpu_s=30.0,
        scenario={
            "traces": "five synthetic days in the shape of a public serving trace",
            "licence": "CC BY 4.0",
            "citation": "A. Author & B. Author, A trace of serving, 2025",
            "arrival rule": "non-homogeneous gamma, CV 2.1",
            "lead times": "restore 0.65 s (measured, H200, image in memory); cold 52-102 s (published, B200)",
        },
        rows=tuple(run(s, demand, pool, bucket_s) for s in sketches),
        pooling=PoolingGain(9.4, 14.2, 1210.0, 1333.0, 410, 395),
        notes=("The first hour is replayed but not scored.",),
    )


def gpus_each(targets: int) -> FloatArray:
    return np.array([1.0, 2.0, 1.0, 2.0, 4.0][:targets])


def demands(targets: int, buckets: int) -> FloatArray:
    """(targets, buckets) replicas' worth: a day's shape, noise and a few bursts."""
    random = np.random.default_rng(11)
    day = np.linspace(0.0, 2 * np.pi, buckets)
    rows = []
    for i in range(targets):
        shape = 8.0 + 5.0 * np.sin(day - 1.5 - 0.6 * i) + random.gamma(2.0, 0.4, buckets)
        burst = random.random(buckets) < 0.02
        rows.append((shape + np.convolve(burst * 9.0, [1.0, 0.7, 0.3])[:buckets]) * (1.0 - 0.12 * i))
    return np.array(rows)


def run(sketch: RowSketch, demand: FloatArray, pool: int, bucket_s: float) -> RunResult:
    targets, buckets = demand.shape
    active = served(sketch, demand, bucket_s)
    starting = np.clip(np.diff(active, axis=1, prepend=active[:, :1]), 0, None) * min(sketch.delay_s / bucket_s, 1)
    draining = np.clip(-np.diff(active, axis=1, prepend=active[:, :1]), 0, None) * 0.1
    warm = np.full_like(active, 0.5 if sketch.policy == "forethaw" else 0.0)
    requests = np.rint(demand * 2.5 * bucket_s)
    late = np.clip(demand * (1 + sketch.delay_s / 900.0) - active, 0, None) / demand
    misses = np.rint(requests * np.clip(late, 0, 1) * 0.4 + (sketch.delay_s > 20) * 0.0006 * requests)
    gpus = states(sketch, pool, gpus_each(targets), active, starting, draining, warm)
    series = RunSeries(
        bucket_s=bucket_s,
        time_s=np.arange(buckets, dtype=np.float64) * bucket_s,
        offered_rps=demand * 2.5,
        demand_replicas=demand,
        **forecast(sketch, demand),
        active=active,
        starting=starting,
        draining=draining,
        warm=warm,
        **latencies(late, sketch),
        misses=misses,
        gpus=gpus,
        forecast_horizon_s=60.0,
    )
    gpu_seconds = {s: float(v.sum() * bucket_s) for s, v in gpus.items()}
    results = tuple(target(i, sketch, series, requests[i], bucket_s) for i in range(targets))
    held = sum(v for s, v in gpu_seconds.items() if s != "lent")
    missed = sum(t.misses for t in results)
    return RunResult(
        row=sketch.row,
        policy=sketch.policy,
        starts_from=sketch.starts_from,
        targets=results,
        requests=sum(t.requests for t in results),
        misses=missed,
        gpu_seconds=gpu_seconds,
        pool_gpus=pool,
        duration_s=buckets * bucket_s,
        cost_gpu_s=held + 30.0 * missed,
        decisions=buckets * 20,
        series=series,
        bound=sketch.bound,
    )


def served(sketch: RowSketch, demand: FloatArray, bucket_s: float) -> FloatArray:
    """Replicas active: the peak for a static row, else demand with headroom, seen too late."""
    if sketch.headroom == 0.0:
        return np.repeat(np.ceil(demand.max(axis=1, keepdims=True)), demand.shape[1], axis=1)
    before = np.concatenate([demand[:, :1], demand[:, :-1]], axis=1)
    late = min(sketch.delay_s / bucket_s, 1.0)
    return np.ceil(sketch.headroom * ((1 - late) * demand + late * before))


def forecast(sketch: RowSketch, demand: FloatArray) -> dict[str, FloatArray]:
    """A band around the last value; no forecast at first, and none at all for reactive rows."""
    middle = np.concatenate([demand[:, :1], demand[:, :-1]], axis=1)
    middle[:, : demand.shape[1] // 20] = np.nan
    if sketch.policy not in ("forethaw", "planner"):
        middle = np.full_like(demand, np.nan)
    return {
        "forecast_low": middle * 0.85,
        "forecast_median": middle,
        "forecast_high": middle * 1.2,
    }


def latencies(late: FloatArray, sketch: RowSketch) -> dict[str, FloatArray]:
    p50 = 0.12 + 0.5 * late
    p95 = 0.35 + 8.0 * late
    p99 = 0.6 + (10.0 + sketch.delay_s) * late
    p99[0, 3:5] = np.nan  # two buckets in which nobody asked
    return {"ttft_p50_s": p50, "ttft_p95_s": p95, "ttft_p99_s": p99}


def states(
    sketch: RowSketch,
    pool: int,
    each: FloatArray,
    active: FloatArray,
    starting: FloatArray,
    draining: FloatArray,
    warm: FloatArray,
) -> dict[str, FloatArray]:
    """(buckets,) by state; lent is what is left of the pool, so that the states sum to it."""
    gpus: dict[str, FloatArray] = {s: np.zeros(active.shape[1]) for s in GPU_STATES}
    for state, replicas in (
        ("active", active),
        ("starting", starting),
        ("draining", draining),
        ("standby", warm),
    ):
        gpus[state] = each @ replicas
    gpus["spare"] = np.full(active.shape[1], sketch.spares)
    gpus["lent"] = pool - np.sum(list(gpus.values()), axis=0)
    assert (gpus["lent"] >= 0).all(), "the pool is too small for the sketch"
    return gpus


def target(i: int, sketch: RowSketch, series: RunSeries, requests: FloatArray, bucket_s: float) -> TargetResult:
    each = int(gpus_each(i + 1)[i])
    rises = int(np.clip(np.diff(series.active[i]), 0, None).sum())
    replicas = {
        "active": series.active[i],
        "starting": series.starting[i],
        "draining": series.draining[i],
        "standby": series.warm[i],
    }
    p99 = float(np.nanmean(series.ttft_p99_s[i]))
    return TargetResult(
        name=NAMES[i],
        service="h200-vllm",
        gpus_per_replica=each,
        requests=int(requests.sum()),
        completed=int(requests.sum()) - 3,
        misses=int(series.misses[i].sum()),
        ttft_s={
            "p50": float(series.ttft_p50_s[i].mean()),
            "p90": float(series.ttft_p95_s[i].mean()) * 0.8,
            "p95": float(series.ttft_p95_s[i].mean()),
            "p99": p99,
            "p999": p99 * 3,
            "mean": float(series.ttft_p50_s[i].mean()) * 1.4,
        },
        wait_s={"p50": 0.0, "p90": 0.01, "p95": 0.05, "p99": p99 / 2, "p999": p99, "mean": 0.02},
        itl_mean_s=0.0213,
        replicas_mean=float(series.active[i].mean()),
        replicas_max=int(series.active[i].max()),
        starts={"staged": rises, "draining": 4, "failed": 1} if sketch.starts_from == "restore" else {"cold": rises},
        gpu_seconds={s: float(v.sum() * bucket_s) * each for s, v in replicas.items()},
    )


def with_row(given: Comparison, name: str, gpu_hours: float, misses: int) -> Comparison:
    """The same comparison with one row's GPU-hours held and misses set, its cost along with them."""
    rows = tuple(
        replace(
            r,
            misses=misses,
            gpu_seconds={"active": gpu_hours * 3600.0},
            cost_gpu_s=gpu_hours * 3600.0 + given.miss_cost_gpu_s * misses,
        )
        if r.row == name
        else r
        for r in given.rows
    )
    return replace(given, rows=rows)
