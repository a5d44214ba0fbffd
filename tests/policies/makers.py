"""Small specs for the tests of single policy modules, with every number in view."""

from __future__ import annotations

import numpy as np

from policies.keys import SnapshotKey, TargetKey
from policies.leadtime import LeadTime
from policies.types import ACTIVE, COLD, FREE, PARKED, REMOTE, STAGED, NodeObservation, SupplyStep, TargetSpec, TierSpec

STEP_ENDS_S = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
AT_ONCE = LeadTime((0.0,))
SPARE = SupplyStep(FREE, AT_ONCE, 1.0)


def key(name: str = "a") -> TargetKey:
    return TargetKey("test", name)


def snapshot(name: str = "a") -> SnapshotKey:
    return SnapshotKey(key(name), "v1")


def ladder(gpus: int = 1, wake_s: float = 1.0, cold_s: float = 60.0) -> tuple[TierSpec, ...]:
    """Return active, staged, remote and cold for replicas of `gpus` GPUs."""
    return (
        TierSpec(ACTIVE, AT_ONCE, 1.0, float(gpus)),
        TierSpec(STAGED, LeadTime((wake_s,)), 0.0, 0.001, needs_snapshot=True),
        TierSpec(REMOTE, LeadTime((wake_s + 20.0,)), 0.0, 0.0005, needs_snapshot=True),
        TierSpec(COLD, LeadTime((cold_s,)), 0.0, 0.0),
    )


def with_parked(gpus: int = 1, share: float = 0.05, cost: float = 0.05, lead_s: float = 0.0) -> tuple[TierSpec, ...]:
    """Return `ladder` with a parked rung after active."""
    active, *others = ladder(gpus)
    return (active, TierSpec(PARKED, LeadTime((lead_s,)), share, cost), *others)


def spec(
    name: str = "a",
    gpus: int = 1,
    least: int = 1,
    miss_cost: float = 1.0,
    artifact_bytes: int = 10,
    rungs: tuple[TierSpec, ...] | None = None,
) -> TargetSpec:
    """Return a target of 20 requests/s a replica and an SLO of 2 s, with a snapshot."""
    return TargetSpec(
        key=key(name),
        gpus_per_replica=gpus,
        min_replicas=least,
        max_replicas=1000,
        slo_wait_s=2.0,
        miss_cost=miss_cost,
        rated_rps=20.0,
        rated_concurrency=100.0,
        ladder=rungs or ladder(gpus),
        artifact_bytes=artifact_bytes,
        snapshot=snapshot(name),
    )


def node(
    name: str = "n0",
    gpus: int = 8,
    free: int = 0,
    lent: int = 0,
    reclaiming: int = 0,
    lying: tuple[str, ...] = (),
    fetching: tuple[str, ...] = (),
    absent: bool = False,
) -> NodeObservation:
    """Return a node with the snapshots of the targets named."""
    return NodeObservation(
        name=name,
        gpus=gpus,
        free_gpus=free,
        lent_gpus=lent,
        reclaiming_gpus=reclaiming,
        snapshots=frozenset(snapshot(n) for n in lying),
        fetching=frozenset(snapshot(n) for n in fetching),
        cache_free_bytes=0,
        absent=absent,
    )
