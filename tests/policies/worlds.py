"""Small, complete decision inputs for the policy tests, with every number in view."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from policies.arrays import FloatArray
from policies.keys import SnapshotKey, TargetKey
from policies.leadtime import LeadTime
from policies.paths import DemandPaths
from policies.types import (
    ACTIVE,
    COLD,
    FREE,
    PARKED,
    REMOTE,
    STAGED,
    DecisionInput,
    NodeObservation,
    PoolSpec,
    SupplyStep,
    TargetObservation,
    TargetSpec,
    TierSpec,
)

STEP_ENDS_S = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
AT_ONCE = LeadTime((0.0,))
PARKED_SHARE = 0.05
"""Of its GPUs that a parked replica takes from the budget, as in the shipped lead times."""

FREE_STEP = SupplyStep(FREE, AT_ONCE, 1.0)
LENT_STEP = SupplyStep("lent", LeadTime((8.0,)), 0.0, taking_cost=10.0)
NODE_STEP = SupplyStep("node", LeadTime((120.0,)), 1.0, taking_cost=60.0, whole_nodes=True)
LENDS = (FREE_STEP, LENT_STEP)
BUYS = (FREE_STEP, NODE_STEP)
LENDS_AND_BUYS = (FREE_STEP, LENT_STEP, NODE_STEP)


def key(name: str) -> TargetKey:
    """Return the key of the target `name` in the one namespace of these tests."""
    return TargetKey("default", name)


def snapshot(name: str) -> SnapshotKey:
    """Return the snapshot that a wake of the target `name` restores."""
    return SnapshotKey(key(name), "sha256:1")


def ladder(gpus: int, wake_s: float = 1.0, cold_s: float = 60.0) -> tuple[TierSpec, ...]:
    """Active, parked, staged, remote and cold; a parked replica serves in half the time of a staged one."""
    return (
        TierSpec(ACTIVE, AT_ONCE, 1.0, float(gpus)),
        TierSpec(PARKED, LeadTime((wake_s / 2.0,)), PARKED_SHARE, PARKED_SHARE * gpus),
        TierSpec(STAGED, LeadTime((wake_s,)), 0.0, 0.001, needs_snapshot=True),
        TierSpec(REMOTE, LeadTime((wake_s + 20.0,)), 0.0, 0.0005, needs_snapshot=True),
        TierSpec(COLD, LeadTime((cold_s,)), 0.0, 0.0),
    )


def target(
    name: str = "a", gpus: int = 1, least: int = 1, most: int = 1000, miss_cost: float = 1.0, slo_wait_s: float = 2.0
) -> TargetSpec:
    """A target with a snapshot, called `name`."""
    return TargetSpec(
        key=key(name),
        gpus_per_replica=gpus,
        min_replicas=least,
        max_replicas=most,
        slo_wait_s=slo_wait_s,
        miss_cost=miss_cost,
        rated_rps=20.0,
        rated_concurrency=100.0,
        ladder=ladder(gpus),
        artifact_bytes=10,
        snapshot=snapshot(name),
    )


def seen(
    active: int,
    starting: int = 0,
    known: bool = True,
    backlog_replica_s: float = 0.0,
    standing: float = 0.0,
    parked: int = 0,
) -> TargetObservation:
    """What is observed of a target whose demand has been its active replicas' work for a minute."""
    return TargetObservation(
        ready={ACTIVE: active, PARKED: parked},
        starting=starting,
        draining=0,
        demand_replicas=np.full(60, float(active)),
        concurrency=np.full(60, 70.0 * active),
        demand_known=known,
        backlog_replica_s=backlog_replica_s,
        standing_backlog_replica_s=standing,
    )


def nodes(targets: tuple[TargetSpec, ...], count: int, free: int = 0, lent: int = 8) -> tuple[NodeObservation, ...]:
    """`count` nodes of eight GPUs with `free` and `lent` of them idle, all snapshots on all of them."""
    cached = frozenset(t.snapshot for t in targets if t.snapshot is not None)
    return tuple(
        NodeObservation(f"node-{i}", 8, free, lent, 0, cached, frozenset(), cache_free_bytes=1000) for i in range(count)
    )


def given(
    targets: tuple[TargetSpec, ...],
    observed: tuple[TargetObservation, ...],
    paths: FloatArray,
    budget: int = 1000,
    pool: tuple[NodeObservation, ...] | None = None,
    known: Iterable[str] | None = None,
) -> DecisionInput:
    """A pool at 100 s; `observed` and `paths` (targets, paths, steps) are in the order of `targets`.

    `known` names the targets whose forecast has something to stand on; all of them if it is left out.
    """
    keys = tuple(t.key for t in targets)
    forecast = frozenset(keys if known is None else map(key, known))
    return DecisionInput(
        now_s=100.0,
        sample_period_s=1.0,
        tick_s=2.0,
        pool=PoolSpec("pool", "", LENDS),
        gpu_budget=budget,
        targets=targets,
        observed=dict(zip(keys, observed, strict=True)),
        nodes=pool if pool is not None else nodes(targets, 10),
        paths=DemandPaths(keys, STEP_ENDS_S, paths, forecast),
    )


def steady(levels: tuple[float, ...], n_paths: int = 50) -> FloatArray:
    """Paths that stay at each target's level: (targets, paths, steps)."""
    return np.array([np.full((n_paths, len(STEP_ENDS_S)), level) for level in levels])
