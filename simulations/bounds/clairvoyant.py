"""The clairvoyant bound: the least cost of any policy that knows every arrival, as a linear programme.

A fluid relaxation per target, over bins of `bin_s`. Capacity c_t (replicas, fractional) does work x_t;
a rise of capacity costs the GPU-seconds that a start holds before it serves. Of the work that arrives,
the prefill must have been done by the deadline (bin's end + SLO) unless the bin's requests are missed,
pro rata, at `miss_cost` each; the whole of it `finish_s` later. Missed work need never be done.

    minimise   gpus * (bin_s * sum c + start_s * sum u) + miss_cost * sum requests * m
    subject to X_t - X_{t-1} <= bin_s * c_t,  X_t <= A_t,  c_t - c_{t-1} <= u_t,  0 <= m <= 1
               X_t + MP_{t-d} >= AP_{t-d},  X_t + M_{t-d-f} >= A_{t-d-f}

with X, A, AP, M, MP cumulative service, arrived work, arrived prefill work, missed work and missed
prefill. Every step relaxes what a real policy faces: replicas are divisible, work arrives at its bin's
start and may be served to its bin's end + SLO, service may be in any order (any service counts towards
the deadlines), each request costs its *least* work (`ServiceModel.least_work`), starts happen exactly
when wanted, the pool never binds (so targets are solved apart), and what runs at the start is free. So
no policy costs less, as long as it finishes what it admits within `finish_s` of its deadline, and the
requests of a bin share one fate, as first-come-first-served makes them. Solved by HiGHS
(Huangfu and Hall, 2018) through scipy.

`clairvoyant_bound` is the programme of one target; `clairvoyant_row` reads every arrival of a scenario once and makes
the row of the table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array, csr_array

from policies.arrays import FloatArray
from simulations.results import GPU_STATES, RunResult, TargetResult
from simulations.scenario.scenario import Scenario, TargetScenario

FINISH_S = 120.0
"""An admitted request's decode may last this long past its deadline."""
MOST_BINS = 1200
"""The programme grows faster than its bins; coarser bins only relax it."""
PIECE_S = 60.0


@dataclass(frozen=True, slots=True)
class BoundInput:
    """One target; arrays are (bins,)."""

    bin_s: float
    work_s: FloatArray
    """Least replica-seconds that arrived in the bin."""
    prefill_s: FloatArray
    """The part of it that is prefill."""
    requests: FloatArray
    slo_wait_s: float
    gpus_per_replica: int
    start_s: float
    """Least GPU-holding seconds from taking a GPU to serving."""
    min_replicas: int
    miss_cost: float
    """GPU-seconds per missed request."""


@dataclass(frozen=True, slots=True)
class ClairvoyantBound:
    """The least cost of one target; seconds and costs in GPU-seconds, `misses` in requests (fractional)."""

    held_gpu_s: float
    misses: float
    cost_gpu_s: float
    capacity: FloatArray
    """Replicas per bin, fractional, (bins,)."""


class _Rows:
    """Sparse `A x <= b`, row block by row block."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._entries: list[tuple[FloatArray, FloatArray, FloatArray]] = []
        self._limits: list[FloatArray] = []
        self._count = 0

    def add(self, limit: FloatArray, *terms: tuple[np.ndarray, FloatArray | float]) -> None:
        """One row per element of `limit`; each term is (columns, coefficients); column -1 is no variable."""
        rows = self._count + np.arange(len(limit))
        for columns, coefficients in terms:
            keep = columns >= 0
            values = np.broadcast_to(np.asarray(coefficients, dtype=float), columns.shape)
            self._entries.append((rows[keep].astype(float), columns[keep].astype(float), values[keep]))
        self._limits.append(limit)
        self._count += len(limit)

    def matrix(self) -> tuple[csr_array, FloatArray]:
        rows, columns, values = (np.concatenate(part) for part in zip(*self._entries, strict=True))
        shape = (self._count, self._columns)
        return coo_array((values, (rows.astype(int), columns.astype(int))), shape).tocsr(), np.concatenate(self._limits)


def clairvoyant_bound(given: BoundInput) -> ClairvoyantBound:
    """Solve the programme; raises RuntimeError if the solver fails, which a feasible programme does not."""
    n = len(given.work_s)
    bins = np.arange(n)
    c, u, x, m, lost, lost_prefill = (bins + k * n for k in range(6))
    arrived, prefill = np.cumsum(given.work_s), np.cumsum(given.prefill_s)

    def previous(columns: np.ndarray) -> np.ndarray:
        return np.where(bins > 0, columns - 1, -1)

    rows = _Rows(6 * n)
    zero = np.zeros(n)
    rows.add(zero, (x, 1.0), (previous(x), -1.0), (c, -given.bin_s))
    rows.add(zero, (previous(x), 1.0), (x, -1.0))
    free_start = np.where(bins == 0, 1e12, 0.0)
    rows.add(free_start, (c, 1.0), (previous(c), -1.0), (u, -1.0))
    # Misses add up: equality as two inequalities is not needed, a larger loss only relaxes.
    rows.add(zero, (lost, 1.0), (previous(lost), -1.0), (m, -given.work_s))
    rows.add(zero, (lost_prefill, 1.0), (previous(lost_prefill), -1.0), (m, -given.prefill_s))
    late = int(np.ceil(given.slo_wait_s / given.bin_s - 1e-9))
    finish = late + int(np.ceil(FINISH_S / given.bin_s - 1e-9))
    for lag, total, missed in ((late, prefill, lost_prefill), (finish, arrived, lost)):
        due = bins[lag:]
        if due.size:
            rows.add(-total[: n - lag], (x[due], -1.0), (missed[: n - lag], -1.0))
    matrix, limits = rows.matrix()
    gpus = float(given.gpus_per_replica)
    cost = np.concatenate(
        (
            np.full(n, gpus * given.bin_s),
            np.full(n, gpus * given.start_s),
            zero,
            given.miss_cost * given.requests,
            zero,
            zero,
        )
    )
    low = np.concatenate((np.full(n, float(given.min_replicas)), np.zeros(5 * n)))
    high = np.concatenate((np.full(2 * n, np.inf), arrived, np.ones(n), np.full(2 * n, np.inf)))
    solved = linprog(cost, matrix, limits, bounds=np.column_stack((low, high)), method="highs")
    if not solved.success:
        raise RuntimeError(f"the bound's programme was not solved: {solved.message}")
    capacity = solved.x[:n]
    misses = float(solved.x[3 * n : 4 * n] @ given.requests)
    held = float(cost[: 2 * n] @ solved.x[: 2 * n])
    return ClairvoyantBound(held, misses, float(solved.fun), capacity)


@dataclass(frozen=True, slots=True)
class _Profile:
    work_s: FloatArray
    prefill_s: FloatArray
    requests: FloatArray


def clairvoyant_row(scenario: Scenario) -> RunResult:
    """Return the bound as a row of the table; its latencies are unknown, since nothing is replayed."""
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
