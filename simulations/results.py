"""What a replay leaves behind: frozen results that the table, the report, JSON and CSV all read.

Nothing here depends on the wall clock, so that equal seeds give equal bytes. A `Comparison` holds
one `RunResult` per row of the table; the report (`simulations/report/`) draws it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from policies.arrays import FloatArray

GPU_STATES = ("active", "draining", "starting", "standby", "parked", "spare", "reclaiming", "lent", "absent")
UNHELD = ("lent", "absent")
"""States that keep no GPU from other work: lent to preemptible work, or with a node that the pool does not have."""
"""Every GPU of the pool is in exactly one of these at every moment; only `lent` is not ours to pay."""


@dataclass(frozen=True, slots=True)
class TargetResult:
    """What became of one target within the scored time. Latencies are in seconds."""

    name: str
    service: str
    gpus_per_replica: int
    requests: int
    completed: int
    misses: int
    """Requests that waited longer than the SLO before their prefill began."""
    ttft_s: Mapping[str, float]
    """p50, p90, p95, p99, p999, mean."""
    wait_s: Mapping[str, float]
    itl_mean_s: float
    """Mean seconds between output tokens."""
    replicas_mean: float
    replicas_max: int
    starts: Mapping[str, int]
    """Replica starts by the tier they came from (cancelled drains under `draining`), failures under `failed`."""
    gpu_seconds: Mapping[str, float]
    """GPU-seconds by state of this target's replicas (active, starting, draining, standby, parked)."""


@dataclass(frozen=True, slots=True)
class RunSeries:
    """Means over buckets of `bucket_s`; target arrays are (targets, buckets), NaN where unknown."""

    bucket_s: float
    time_s: FloatArray
    """Start of each bucket, seconds from the start of the replay, (buckets,)."""
    offered_rps: FloatArray
    demand_replicas: FloatArray
    forecast_low: FloatArray
    """10% quantile of the forecast made `forecast_horizon_s` before, in replicas."""
    forecast_median: FloatArray
    forecast_high: FloatArray
    """90% quantile."""
    active: FloatArray
    starting: FloatArray
    draining: FloatArray
    warm: FloatArray
    """Standby and parked replicas."""
    ttft_p50_s: FloatArray
    ttft_p95_s: FloatArray
    ttft_p99_s: FloatArray
    misses: FloatArray
    gpus: Mapping[str, FloatArray]
    """GPUs by state (GPU_STATES), (buckets,)."""
    forecast_horizon_s: float


@dataclass(frozen=True, slots=True)
class RunResult:
    """One row of the table: what its policy served and what that cost."""

    row: str
    """Name of the row in the table, such as `forethaw` or `hpa (cold)`."""
    policy: str
    starts_from: str
    """`restore` or `cold`: what a new replica starts from."""
    targets: tuple[TargetResult, ...]
    requests: int
    misses: int
    gpu_seconds: Mapping[str, float]
    """By GPU_STATES; sums to pool_gpus x duration_s."""
    pool_gpus: int
    duration_s: float
    cost_gpu_s: float
    """Held GPU-seconds plus misses at their cost."""
    decisions: int
    series: RunSeries | None = None
    bound: str = ""
    """Empty for a policy; `clairvoyant` or `informed` for a bound."""

    @property
    def miss_share(self) -> float:
        """Return misses as a share of the requests, 0 to 1."""
        return self.misses / self.requests if self.requests else 0.0

    @property
    def held_gpu_hours(self) -> float:
        """GPU-hours that the row kept from other work: every state but lent and absent."""
        return sum(v for k, v in self.gpu_seconds.items() if k not in UNHELD) / 3600.0


@dataclass(frozen=True, slots=True)
class PoolingGain:
    """Spares sized together against spares sized apart, means over the replay, in GPUs."""

    spare_gpus_pooled: float
    spare_gpus_apart: float
    held_gpu_hours_pooled: float
    held_gpu_hours_apart: float
    misses_pooled: int
    misses_apart: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """All rows of one scenario, with the settings that they share."""

    title: str
    command: str
    """The command line that makes these numbers again."""
    seed: int
    slo_wait_s: float
    slo_share: float
    """Share of requests that should meet the SLO, such as 0.999."""
    miss_cost_gpu_s: float
    scenario: Mapping[str, str]
    """Facts of the scenario for the reader: traces, their licences, lead times, rules of arrival."""
    rows: tuple[RunResult, ...]
    pooling: PoolingGain | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)

    def row(self, name: str) -> RunResult:
        """Return the row of that name; raises KeyError if there is none."""
        for r in self.rows:
            if r.row == name:
                return r
        raise KeyError(name)

    def bound(self, name: str) -> RunResult | None:
        """Return the row that is the bound `name`; None if it was not computed."""
        return next((r for r in self.rows if r.bound == name), None)
