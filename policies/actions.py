"""Plan minus observed: the ordered, idempotent steps that remain.

Every action speaks of the difference between what is and what should be, so applying the actions of
a plan leaves none for the same plan, and a crash between any two of them is survived by computing
the difference again. The order matters where steps share GPUs: stops come first, since they free
some (and a drain that a start of the same pass could have used is never begun: one target either
starts or stops); then starts, which take spares; what is short or over after those is reclaimed or
lent; snapshots move last, for they help only later wakes. An eviction precedes the fetch whose room
it makes.
"""

from __future__ import annotations

from policies.types import (
    PARKED,
    Action,
    DecisionInput,
    NodeObservation,
    Plan,
    Reason,
    TargetObservation,
    TargetPlan,
    TargetSpec,
)

WARM = (PARKED,)
"""Tiers of single processes that a plan may hold; snapshots are staged per node instead, and standby,
which costs what active costs, is dominated on any ladder that has both."""


def plan_actions(plan: Plan, given: DecisionInput) -> tuple[Action, ...]:
    """Steps from `given` to `plan`, in the order in which to apply them."""
    starts: list[Action] = []
    stops: list[Action] = []
    warm: list[Action] = []
    gpus_taken = 0
    for spec, planned, seen in zip(given.targets, plan.targets, given.observed, strict=True):
        missing = planned.active - seen.active - seen.starting
        if missing > 0:
            starts.append(Action("start", spec.name, missing, reason=_first(planned)))
            gpus_taken += _gpus_for(spec, seen, missing)
        elif missing < 0:
            stops.append(Action("stop", spec.name, -missing, reason=_first(planned)))
        warm.extend(_warm(spec, planned, seen))
    return (*stops, *starts, *_supply(plan, given, gpus_taken), *warm, *_snapshots(plan, given.nodes))


def _gpus_for(spec: TargetSpec, seen: TargetObservation, starts: int) -> int:
    """GPUs that the starts will take from the spares: a cancelled drain has its own."""
    return max(starts - seen.draining, 0) * spec.gpus_per_replica


def _first(planned: TargetPlan) -> Reason:
    return planned.reasons[0] if planned.reasons else Reason("unexplained", "the policy gave no reason")


def _warm(spec: TargetSpec, planned: TargetPlan, seen: TargetObservation) -> list[Action]:
    actions = []
    for tier in WARM:
        missing = planned.warm.get(tier, 0) - seen.ready.get(tier, 0)
        if missing > 0:
            actions.append(Action("park", spec.name, missing, reason=Reason(tier, f"{missing} more {tier}")))
        elif missing < 0:
            why = Reason(tier, f"{-missing} too many {tier}")
            actions.append(Action("unpark_release", spec.name, -missing, reason=why))
    return actions


def _supply(plan: Plan, given: DecisionInput, gpus_taken: int) -> list[Action]:
    free = sum(n.free_gpus for n in given.nodes)
    coming = sum(n.reclaiming_gpus for n in given.nodes)
    lent = sum(n.lent_gpus for n in given.nodes)
    # What the starts lack they take back themselves, so spares are only short of the plan's own.
    at_hand = max(free - gpus_taken, 0) + coming
    short_for_starts = max(gpus_taken - free, 0)
    if at_hand < plan.spare_gpus:
        count = min(plan.spare_gpus - at_hand, max(lent - short_for_starts, 0))
        return [Action("reclaim", count=count, reason=_pool_reason(plan))] if count > 0 else []
    over = min(at_hand - plan.spare_gpus, max(free - gpus_taken, 0))
    return [Action("lend", count=over, reason=_pool_reason(plan))] if over > 0 else []


def _pool_reason(plan: Plan) -> Reason:
    return plan.reasons[0] if plan.reasons else Reason("spare-gpus", f"{plan.spare_gpus} spare GPUs planned")


def _snapshots(plan: Plan, nodes: tuple[NodeObservation, ...]) -> list[Action]:
    """Only nodes that the placement names are touched: silence about a node means leave it alone."""
    actions = []
    for node in nodes:
        if node.name not in plan.placement:
            continue
        wanted = plan.placement[node.name]
        have = node.snapshots | node.fetching
        for target in sorted(have - set(wanted)):
            why = Reason("placement", "no longer placed here")
            actions.append(Action("evict", target, node=node.name, reason=why))
        for target in wanted:
            if target not in have:
                why = Reason("placement", "a wake may come here")
                actions.append(Action("stage", target, node=node.name, reason=why))
    return actions
