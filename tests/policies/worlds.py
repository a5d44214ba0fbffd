"""Small, complete decision inputs for the policy tests, with every number in view."""

from __future__ import annotations

import numpy as np

from policies.paths import DemandPaths
from policies.types import (
    ACTIVE,
    COLD,
    REMOTE,
    STAGED,
    DecisionInput,
    LeadTime,
    NodeObservation,
    SupplyStep,
    TargetObservation,
    TargetSpec,
    TierSpec,
)

STEP_ENDS_S = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
AT_ONCE = LeadTime((0.0,))


def ladder(gpus: int, wake_s: float = 1.0, cold_s: float = 60.0) -> tuple[TierSpec, ...]:
    return (
        TierSpec(ACTIVE, AT_ONCE, 1.0, float(gpus)),
        TierSpec(STAGED, LeadTime((wake_s,)), 0.0, 0.001, needs_snapshot=True),
        TierSpec(REMOTE, LeadTime((wake_s + 20.0,)), 0.0, 0.0005, needs_snapshot=True),
        TierSpec(COLD, LeadTime((cold_s,)), 0.0, 0.0),
    )


def target(name: str = "a", gpus: int = 1, least: int = 1, most: int = 1000, miss_cost: float = 1.0) -> TargetSpec:
    return TargetSpec(
        name=name,
        gpus_per_replica=gpus,
        min_replicas=least,
        max_replicas=most,
        slo_wait_s=2.0,
        miss_cost=miss_cost,
        rated_rps=20.0,
        rated_concurrency=100.0,
        ladder=ladder(gpus),
        artifact_bytes=10,
    )


def seen(
    active: int, starting: int = 0, known: bool = True, backlog_replica_s: float = 0.0, standing: float = 0.0
) -> TargetObservation:
    return TargetObservation(
        ready={ACTIVE: active},
        starting=starting,
        draining=0,
        demand_replicas=np.full(60, float(active)),
        concurrency=np.full(60, 70.0 * active),
        demand_known=known,
        backlog_replica_s=backlog_replica_s,
        standing_backlog_replica_s=standing,
    )


def nodes(targets: tuple[TargetSpec, ...], count: int, free: int = 0, lent: int = 8) -> tuple[NodeObservation, ...]:
    """`count` nodes with `free` and `lent` GPUs each, all snapshots on all of them."""
    names = frozenset(t.name for t in targets)
    return tuple(
        NodeObservation(f"node-{i}", 8, free, lent, 0, names, frozenset(), cache_free_bytes=1000) for i in range(count)
    )


def given(
    targets: tuple[TargetSpec, ...],
    observed: tuple[TargetObservation, ...],
    paths: np.ndarray,
    budget: int = 1000,
    pool: tuple[NodeObservation, ...] | None = None,
    known: tuple[bool, ...] | None = None,
) -> DecisionInput:
    return DecisionInput(
        now_s=100.0,
        sample_period_s=1.0,
        targets=targets,
        observed=observed,
        supply=(SupplyStep("free", AT_ONCE, 1.0), SupplyStep("lent", LeadTime((8.0,)), 0.0, 10.0)),
        nodes=pool if pool is not None else nodes(targets, 10),
        gpu_budget=budget,
        paths=DemandPaths(
            tuple(t.key for t in targets),
            STEP_ENDS_S,
            paths,
            frozenset(t.key for t, k in zip(targets, known or (True,) * len(targets), strict=True) if k),
        ),
        tick_s=2.0,
    )


def steady(levels: tuple[float, ...], n_paths: int = 50) -> np.ndarray:
    """Paths that stay at each target's level: (targets, paths, steps)."""
    return np.array([np.full((n_paths, len(STEP_ENDS_S)), level) for level in levels])
