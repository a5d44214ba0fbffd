"""What a policy is shown: the view's replicas counted by tier, the windows of demand, and the pool."""

from __future__ import annotations

from collections.abc import Iterable

from autoscaler.config import ReconcileConfig
from autoscaler.demand import DemandState
from autoscaler.ports import ClusterView
from policies.deadlines import is_overdue
from policies.keys import TargetKey
from policies.paths import DemandPaths
from policies.types import (
    ACTIVE,
    PARKED,
    STANDBY,
    DecisionInput,
    Phase,
    PoolSpec,
    ReplicaView,
    SupplyStep,
    TargetObservation,
    TargetSpec,
)


def pool_view(view: ClusterView, pool: PoolSpec, keys: Iterable[TargetKey]) -> ClusterView:
    """Return the part of `view` that belongs to one pool: its targets, and the nodes with its GPU model.

    Its budget is the view's, and never more than the GPUs of its own nodes, those that it may still buy included.
    """
    nodes = tuple(n for n in view.nodes if n.gpu_model == pool.gpu_model)
    return ClusterView(
        view.synced_at_s,
        {key: view.replicas.get(key, ()) for key in keys},
        view.running,
        nodes,
        min(view.gpu_budget, sum(n.gpus for n in nodes)),
        view.reserved,
    )


def decision_input(  # noqa: PLR0913, PLR0917 - each is a part of what it returns
    config: ReconcileConfig,
    specs: tuple[TargetSpec, ...],
    pool: PoolSpec,
    view: ClusterView,
    demand: DemandState,
    paths: DemandPaths | None,
    now_s: float,
    tick_s: float,
) -> DecisionInput:
    """Return all that the policy may look at in this pass; `specs` and `pool` carry the lead times known now."""
    # By the age of the newest sample, not by the window: a source that has fallen behind sends no samples at all.
    known = now_s - demand.newest_s < config.stale_after_s
    standing = demand.backlog.min(axis=1)
    observed = {}
    for i, spec in enumerate(specs):
        ready, starting, draining = counted(view.replicas.get(spec.key, ()), spec, pool.supply, now_s)
        observed[spec.key] = TargetObservation(
            ready=ready,
            starting=starting,
            draining=draining,
            demand_replicas=demand.demand[i],
            concurrency=demand.concurrency[i],
            demand_known=bool(known[i]),
            backlog_replica_s=float(demand.backlog[i, -1]),
            standing_backlog_replica_s=float(standing[i]),
        )
    return DecisionInput(
        now_s=now_s,
        sample_period_s=config.sample_period_s,
        tick_s=tick_s,
        pool=pool,
        gpu_budget=view.gpu_budget,
        targets=specs,
        observed=observed,
        nodes=view.nodes,
        paths=paths,
    )


def counted(
    replicas: tuple[ReplicaView, ...], spec: TargetSpec, supply: tuple[SupplyStep, ...], now_s: float
) -> tuple[dict[str, int], int, int]:
    """Return ready replicas by tier, those on their way to serving, and those that drain.

    A start that has outlived its allowance is no capacity and is not counted; one that will park counts as parked.
    """
    ready = {ACTIVE: 0}
    starting = draining = 0
    for replica in replicas:
        if replica.phase is Phase.ACTIVE:
            ready[ACTIVE] += 1
        elif replica.goal == PARKED or replica.phase is Phase.PARKED:
            ready[PARKED] = ready.get(PARKED, 0) + 1
        elif replica.phase is Phase.STANDBY:
            ready[STANDBY] = ready.get(STANDBY, 0) + 1
        elif replica.phase is Phase.DRAINING:
            draining += 1
        elif not is_overdue(spec, supply, replica, now_s):
            starting += 1
    return ready, starting, draining
