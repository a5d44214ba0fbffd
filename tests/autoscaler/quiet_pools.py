"""Pools whose load is set by hand: the simulated cluster serves no request, and metrics say what a test says.

Replicas, nodes, lead times and snapshots are the simulator's own, so a pass meets a real cluster; only the load
(`Load`), the policy where a fixed plan is wanted (`Fixed`) and the record (`Kept`) are made for tests.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autoscaler.acting.modes import Mode
from autoscaler.config import ManagedTarget, ReconcileConfig
from autoscaler.errors import PortError
from autoscaler.leadtimes.parts import LeadTimeFile
from autoscaler.planbook import PlanBook
from autoscaler.ports import Cluster, Forecaster, MetricFrame, PassRecord
from autoscaler.rating.service import load_service
from autoscaler.reconcile import Ports, ReconcileState, initial_state, reconcile
from policies.capacity import WorkRate
from policies.keys import SnapshotKey, TargetKey
from policies.leadtime import LeadTime
from policies.reasons import ReasonCode, because, for_count
from policies.types import (
    ACTIVE,
    COLD,
    FREE,
    PARKED,
    STAGED,
    Decision,
    DecisionInput,
    Phase,
    Plan,
    Policy,
    PoolSpec,
    SupplyStep,
    TargetPlan,
    TargetSpec,
    TierSpec,
)
from simulations.engine import Fleet
from simulations.planner_forecasts import NoForecast
from simulations.replay import first_replicas
from simulations.traces import ArrivalStream, Chunk, TraceInfo, TrueRate
from simulations.world.cluster import SimulatedCluster, WorldConfig
from simulations.world.ledger import Ledger
from simulations.world.metrics import COLUMNS
from simulations.world.serving import Serving

MODEL = "h100"
LONGEST_S = 7200.0
AT_ONCE = LeadTime((0.0,))
RECLAIM_S, RESTORE_S, COLD_S = 4.0, 1.0, 60.0
SUPPLY = (SupplyStep(FREE, AT_ONCE, 1.0), SupplyStep("lent", LeadTime((RECLAIM_S,)), 0.0, 20.0))
WORK = WorkRate(per_request_s=0.1, per_prompt_token_s=0.0, per_output_token_s=0.0)
"""A replica serves ten requests a second, so 100 requests a second are ten replicas of demand."""


def key(name: str) -> TargetKey:
    return TargetKey("default", name)


def ladder(gpus: int = 1, restore_s: float = RESTORE_S) -> tuple[TierSpec, ...]:
    """Active, parked, staged and cold, each with one lead time and no failures."""
    return (
        TierSpec(ACTIVE, AT_ONCE, 1.0, float(gpus)),
        TierSpec(PARKED, LeadTime((restore_s / 2,)), 0.05, 0.05 * gpus),
        TierSpec(STAGED, LeadTime((restore_s,)), 0.0, 0.001, needs_snapshot=True),
        TierSpec(COLD, LeadTime((COLD_S,)), 0.0, 0.0),
    )


def spec(name: str, gpus: int = 1, most: int = 1000, rungs: tuple[TierSpec, ...] | None = None) -> TargetSpec:
    return TargetSpec(
        key=key(name),
        gpus_per_replica=gpus,
        min_replicas=0,
        max_replicas=most,
        slo_wait_s=2.0,
        miss_cost=1.0,
        rated_rps=10.0,
        rated_concurrency=100.0,
        ladder=rungs or ladder(gpus),
        artifact_bytes=10,
        snapshot=SnapshotKey(key(name), "sha256:1"),
    )


def managed(
    name: str, *, mode: Mode = Mode.SCALE, work: WorkRate = WORK, gpus: int = 1, most: int = 1000
) -> ManagedTarget:
    return ManagedTarget(spec(name, gpus, most), work, mean_prompt_tokens=50.0, mean_output_tokens=10.0, mode=mode)


class Load:
    """Implements `MetricSource`: columns as set by target and moment, one sample a second, NaN before the first."""

    def __init__(self) -> None:
        self._changes: dict[TargetKey, list[tuple[float, dict[str, float]]]] = {}
        self.down = False
        self.until_s = np.inf
        """Samples that end later are not there yet."""

    def put(self, name: str, from_s: float, **columns: float) -> None:
        """Let the target's samples that end after `from_s` have these columns; others stay, and begin at zero."""
        changes = self._changes.setdefault(key(name), [(-np.inf, dict.fromkeys(COLUMNS, np.nan))])
        before = changes[-1][1] if len(changes) > 1 else dict.fromkeys(COLUMNS, 0.0)
        changes.append((from_s, {**before, **columns}))

    def silence(self, name: str, from_s: float) -> None:
        """Let all columns be missing from `from_s` on."""
        self.put(name, from_s, **dict.fromkeys(COLUMNS, np.nan))

    def read(self, keys: Collection[TargetKey], after_s: float, until_s: float) -> MetricFrame:
        if self.down:
            raise PortError("the metrics do not answer")
        begin = int(after_s)
        ends_s = np.arange(begin + 1, int(max(min(until_s, self.until_s), begin)) + 1, dtype=float)
        there = tuple(k for k in keys if k in self._changes)
        values = np.array([[self._at(k, end_s) for end_s in ends_s] for k in there])
        values = values.reshape(len(there), len(ends_s), len(COLUMNS))
        columns = {name: values[:, :, c] for c, name in enumerate(COLUMNS)}
        return MetricFrame(keys=there, start_s=float(begin), period_s=1.0, **columns)

    def _at(self, of: TargetKey, end_s: float) -> list[float]:
        changes = self._changes[of]
        newest = bisect_left(changes, end_s, key=lambda change: change[0]) - 1
        return list(changes[newest][1].values())


@dataclass
class Fixed:
    """A policy that plans the counts it holds, and counts its decisions in its memory."""

    active: dict[str, int]
    spare: int = 0
    parked: dict[str, int] = field(default_factory=dict)
    placement: Mapping[str, tuple[SnapshotKey, ...]] = field(default_factory=dict)
    change: Callable[[Plan], Plan] = lambda plan: plan
    """What a bad policy makes of a good plan."""
    name: str = "fixed"
    interval_s: float = 2.0
    wants_paths: bool = False

    def initial(self) -> int:
        return 0

    def decide(self, given: DecisionInput, memory: int) -> Decision[int]:
        targets = {k: self._plan(k, given.observed[k].current) for k in given.keys}
        supply = {FREE: self.spare} if self.spare else {}
        return Decision(self.change(Plan(targets, supply, self.placement)), memory + 1)

    def _plan(self, of: TargetKey, current: int) -> TargetPlan:
        count = self.active[of.name]
        warm = {PARKED: n} if (n := self.parked.get(of.name, 0)) else {}
        return TargetPlan(count, warm, (for_count(current, count), because(ReasonCode.FIXED_COUNT, wanted=count)))


class Kept:
    """Implements `Recorder`: every record, the newest last."""

    def __init__(self) -> None:
        self.records: list[PassRecord] = []
        self.begun: list[PassRecord] = []
        """Records as they were before anything acted."""

    def begin(self, record: PassRecord) -> None:
        self.begun.append(record)
        self.records.append(record)

    def complete(self, record: PassRecord) -> None:
        at = max(i for i, r in enumerate(self.records) if (r.pool, r.now_s) == (record.pool, record.now_s))
        self.records[at] = record

    def last(self, pool: str) -> PassRecord | None:
        return next((r for r in reversed(self.records) if r.pool == pool), None)


class _Silence:
    """A record of load without a single request."""

    duration_s = LONGEST_S

    def next_chunk(self) -> Chunk:
        none = np.zeros(0, np.int32)
        return Chunk(np.zeros(0), none, none, LONGEST_S)

    def gaps_s(self) -> list[tuple[float, float]]:
        return []

    def true_rate(self) -> TrueRate:
        one, none = np.ones(1), np.zeros(1)
        edges_s = np.array([0.0, LONGEST_S])
        return TrueRate(edges_s, none, one, none, none, none, none, none, stand_in=False, note="No requests.")

    def mean_tokens(self) -> tuple[float, float]:
        return 0.0, 0.0


def _serving(gpus: int) -> Serving:
    info = TraceInfo("silence", "arrivals", "", "", LONGEST_S, 0, "No requests.")
    fleet = Fleet(load_service("llama-3.1-8b-h100"), gpus, 2.0, LONGEST_S, LONGEST_S)
    return Serving(fleet, ArrivalStream(_Silence(), info), gpus)


def quiet_cluster(
    targets: tuple[TargetSpec, ...], gpus: int = 16, supply: tuple[SupplyStep, ...] = SUPPLY
) -> SimulatedCluster:
    """Return a cluster of eight-GPU nodes, all GPUs lent (or absent, where nodes are bought), snapshots on all."""
    keys = [s.key for s in targets]
    begin = "absent" if any(s.whole_nodes for s in supply) else "lent"
    world = WorldConfig(targets, supply, gpus, 8, MODEL, cache_bytes=1000, fetch_bytes_per_s=1.0, seed=1)
    ledger = Ledger(keys, gpus, LONGEST_S, LONGEST_S, 0.0, begin=begin)
    cluster = SimulatedCluster(world, {k: _serving(gpus) for k in keys}, ledger)
    cluster.snapshots.stage_everywhere(targets)
    return cluster


def of_model(cluster: SimulatedCluster, model: str, *nodes: str) -> None:
    """Let these nodes of `cluster` have GPUs of another model."""
    for name in nodes:
        cluster.nodes[name].gpu_model = model
        cluster.node_changed(cluster.nodes[name])


@dataclass
class Pool:
    """One pool on a cluster that other pools may share, stepped pass by pass."""

    world: SimulatedCluster
    load: Load
    kept: Kept
    book: PlanBook
    ports: Ports[Any]
    policy: Policy[Any]
    config: ReconcileConfig
    state: ReconcileState[Any]

    def step(self, now_s: float) -> PassRecord:
        """Let the world go on to `now_s` and run a pass; return its record."""
        self.world.advance(now_s)
        self.state, _ = reconcile(self.ports, self.policy, self.config, self.state, now_s)
        return self.last

    def steps(self, until_s: float) -> list[PassRecord]:
        """Run passes from the next due moment to `until_s`, both included."""
        done = []
        while (now_s := self.due_s) <= until_s:
            done.append(self.step(now_s))
        return done

    @property
    def due_s(self) -> float:
        last = self.kept.last(self.config.pool.name)
        return last.now_s + self.policy.interval_s if last else self.policy.interval_s

    @property
    def last(self) -> PassRecord:
        last = self.kept.last(self.config.pool.name)
        assert last is not None
        return last

    def names(self, name: str, *phases: Phase) -> list[str]:
        """The target's replicas in the world in any of `phases`; without phases all that serve or are to serve."""
        wanted = phases or (Phase.PENDING, Phase.STARTING, Phase.ACTIVE)
        members = self.world.replicas[key(name)].values()
        return sorted(r.name for r in members if r.phase in wanted and (phases or r.goal == ACTIVE))


def quiet_pool(
    targets: tuple[ManagedTarget, ...],
    policy: Policy[Any],
    *,
    gpus: int = 16,
    first: Mapping[str, int] | None = None,
    supply: tuple[SupplyStep, ...] = SUPPLY,
    world: SimulatedCluster | None = None,
    pool: PoolSpec | None = None,
    forecaster: Forecaster[Any] | None = None,
    lead_times: LeadTimeFile | None = None,
    seen_as: Callable[[SimulatedCluster], Cluster] = lambda cluster: cluster,
) -> Pool:
    """Return a pool with `first` replicas serving at time 0; `seen_as` stands between passes and the cluster."""
    world = world or quiet_cluster(tuple(t.spec for t in targets), gpus, supply)
    config = ReconcileConfig(pool or PoolSpec("pool", MODEL, supply), targets, lead_times=lead_times)
    world.settle(first_replicas(world, config, {key(name): n for name, n in (first or {}).items()}))
    load, kept, book = Load(), Kept(), PlanBook()
    for target in targets:
        load.put(target.spec.key.name, 0.0)
    ports: Ports[Any] = Ports(load, seen_as(world), forecaster or NoForecast(), kept, book)
    return Pool(world, load, kept, book, ports, policy, config, initial_state(ports, policy, config, 0.0))
