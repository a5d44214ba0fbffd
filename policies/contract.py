"""What every plan must satisfy, whichever policy made it; a target whose plan does not is held.

    known names      only targets of the pool, only nodes that are there, only snapshots that fit their caches
    counts           active from 0 to the target's maximum (a budget may leave less than its minimum), warm counts
                     never negative and of tiers that the target has
    unknown demand   never fewer active replicas than there are, unless what runs exceeds the budget and the plan says
                     so (GpuBudget): unknown is not zero
    budget           active and warm replicas (by their tiers' share of a GPU) and kept supply within the GPU budget

A violation is of one target, of one node's placement, or of the pool's GPUs. The target is held at what it has (and
its bounds allow), the placement of the node is left as it is, and over the budget growth is cut until the plan fits;
the others go on. What was checked passes when it is checked again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from policies.keys import SnapshotKey, TargetKey
from policies.reasons import HOLDING, Reason, ReasonCode, because, for_count
from policies.types import ACTIVE, DecisionInput, NodeObservation, Plan, TargetObservation, TargetPlan, TargetSpec

ROUNDING = 1e-6
"""GPUs: sums of shares are floats."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken clause: whose it is (a target, a node, or neither for the pool) and what is wrong, in words."""

    text: str
    target: TargetKey | None = None
    node: str = ""


def checked(plan: Plan, given: DecisionInput) -> tuple[Plan, tuple[Violation, ...]]:
    """Return `plan` with whatever breaks its contract held, and each violation found."""
    violations = [*_unknown_names(plan, given)]
    targets: dict[TargetKey, TargetPlan] = {}
    short = sum(given.observed[s.key].current * s.gpus_per_replica for s in given.targets) > given.gpu_budget
    for spec in given.targets:
        planned, seen = plan.targets.get(spec.key), given.observed[spec.key]
        wrong = _wrong(spec, planned) or _forgotten(spec, seen, planned, short=short)
        if planned is None or wrong:
            violations.append(Violation(wrong, spec.key))
            targets[spec.key] = held(spec, seen, wrong)
        else:
            targets[spec.key] = planned
    placement, misplaced = _placement(plan.placement, given)
    supply = {step: n for step, n in plan.supply.items() if n >= 0}
    if supply != plan.supply:
        violations.append(Violation(f"supply of {min(plan.supply.values())} GPUs planned, 0 is the least"))
    result, over = _within_budget(replace(plan, targets=targets, supply=supply, placement=placement), given)
    return result, (*violations, *misplaced, *over)


def held(spec: TargetSpec, seen: TargetObservation, violation: str) -> TargetPlan:
    """Return the plan that changes nothing for one target but what its maximum and its ladder forbid."""
    kept = min(seen.current, spec.max_replicas)
    warm = {tier: n for tier, n in seen.ready.items() if tier != ACTIVE and n and spec.tier(tier) is not None}
    why = because(ReasonCode.PLAN_REJECTED, planned=kept, violation=violation)
    return TargetPlan(kept, warm, (for_count(seen.current, kept), why))


def gpus_of(plan: Plan, targets: tuple[TargetSpec, ...]) -> float:
    """Return the GPUs that `plan` takes from the budget: replicas by their tiers' share, and kept supply."""
    total = float(sum(plan.supply.values()))
    for spec in targets:
        if spec.key in plan.targets:
            total += target_gpus(spec, plan.targets[spec.key])
    return total


def target_gpus(spec: TargetSpec, planned: TargetPlan) -> float:
    """Return the GPUs that one target's plan takes from the budget, by the tiers' shares."""
    shares = {t.name: t.gpu_share for t in spec.ladder}
    warm = sum(n * shares.get(tier, 1.0) for tier, n in planned.warm.items())
    return (planned.active + warm) * spec.gpus_per_replica


def _unknown_names(plan: Plan, given: DecisionInput) -> list[Violation]:
    unknown = sorted(set(plan.targets) - set(given.keys))
    return [Violation(f"{key} is no target of pool {given.pool.name}") for key in unknown]


def _wrong(spec: TargetSpec, planned: TargetPlan | None) -> str:
    """Return what is wrong with one target's plan, or an empty string."""
    if planned is None:
        return "the plan has no entry for it"
    if not planned.reasons:
        return "the plan gives no reason"
    if not 0 <= planned.active <= spec.max_replicas:
        return f"{planned.active} active replicas, allowed are 0 to {spec.max_replicas}"
    if any(n < 0 for n in planned.warm.values()):
        return f"{min(planned.warm.values())} warm replicas, 0 is the least"
    strange = sorted(tier for tier, n in planned.warm.items() if n and spec.tier(tier) is None)
    if strange:
        return f"warm replicas in tier {strange[0]}, which its ladder lacks"
    return ""


def _forgotten(spec: TargetSpec, seen: TargetObservation, planned: TargetPlan | None, *, short: bool) -> str:
    """Return what is wrong if a target loses replicas while its demand is unknown, or an empty string.

    `short` says that what runs exceeds the budget, so that something has to go.
    """
    if planned is None or seen.demand_known or planned.active >= min(seen.current, spec.max_replicas):
        return ""
    if short and any(reason.code is ReasonCode.GPU_BUDGET for reason in planned.reasons):
        return ""
    return f"{planned.active} active replicas with demand unknown, {seen.current} are there"


def _placement(
    placement: Mapping[str, tuple[SnapshotKey, ...]], given: DecisionInput
) -> tuple[dict[str, tuple[SnapshotKey, ...]], list[Violation]]:
    """Return the placements that hold, and a violation for each that does not."""
    nodes = {n.name: n for n in given.nodes}
    sizes = {t.snapshot: t.artifact_bytes for t in given.targets if t.snapshot is not None}
    kept, violations = {}, []
    for name, snapshots in placement.items():
        node = nodes.get(name)
        # Most nodes are asked to keep what they have, which fits.
        keeps = node is not None and all(s in sizes and (s in node.snapshots or s in node.fetching) for s in snapshots)
        wrong = "" if keeps else _misplaced(node, snapshots, sizes)
        if wrong:
            violations.append(Violation(wrong, node=name))
        else:
            kept[name] = snapshots
    return kept, violations


def _misplaced(
    node: NodeObservation | None, snapshots: tuple[SnapshotKey, ...], sizes: Mapping[SnapshotKey, int]
) -> str:
    if node is None:
        return "no such node"
    unknown = sorted(set(snapshots) - sizes.keys())
    if unknown:
        return f"{unknown[0]} is no snapshot of this pool's targets"
    cache_bytes = node.cache_free_bytes + sum(sizes.get(s, 0) for s in node.snapshots | node.fetching)
    wanted_bytes = sum(sizes[s] for s in snapshots)
    return f"{wanted_bytes:,} bytes of snapshots in a cache of {cache_bytes:,}" if wanted_bytes > cache_bytes else ""


def _within_budget(plan: Plan, given: DecisionInput) -> tuple[Plan, list[Violation]]:
    """Over the budget no GPU is kept idle, nothing more is parked, and growth is granted while it fits, by key."""
    total = gpus_of(plan, given.targets)
    if total <= given.gpu_budget + ROUNDING:
        return plan, []
    specs = sorted(given.targets, key=lambda s: s.key)
    keeps = {s.key: _kept(plan.targets[s.key], given.observed[s.key]) for s in specs}
    left = given.gpu_budget - sum(target_gpus(s, keeps[s.key]) for s in specs)
    fitted = {}
    for spec in specs:
        wanted, kept = plan.targets[spec.key], keeps[spec.key]
        more = min(wanted.active - kept.active, max(int((left + ROUNDING) // spec.gpus_per_replica), 0))
        left -= more * spec.gpus_per_replica
        fits = replace(kept, active=kept.active + more)
        fitted[spec.key] = _cut(wanted, fits, given.observed[spec.key].current, given.gpu_budget)
    result = replace(plan, targets=fitted, supply={})
    if result.targets == plan.targets and not any(plan.supply.values()):
        return plan, []  # a budget lowered below what runs is no fault of the plan
    return result, [Violation(f"{total:.1f} GPUs planned, the budget is {given.gpu_budget}")]


def _kept(wanted: TargetPlan, seen: TargetObservation) -> TargetPlan:
    """Return what the target keeps whatever the budget: what it has, or less where it plans less."""
    warm = {tier: kept for tier, n in wanted.warm.items() if (kept := min(n, seen.ready.get(tier, 0))) or not n}
    return replace(wanted, active=min(wanted.active, seen.current), warm=warm)


def _cut(wanted: TargetPlan, fits: TargetPlan, current: int, gpu_budget: int) -> TargetPlan:
    """Return what fits of `wanted`, with reasons that say so."""
    if fits == wanted:
        return wanted
    grounds = [_renewed(reason, fits.active) for reason in wanted.reasons[1:]]
    cut = because(ReasonCode.GPU_BUDGET, wanted=wanted.active, planned=fits.active, gpu_budget=gpu_budget)
    return replace(fits, reasons=(for_count(current, fits.active), *grounds, cut))


def _renewed(reason: Reason, active: int) -> Reason:
    """Return a reason that speaks of the replicas held with their new number."""
    if reason.code not in HOLDING:
        return reason
    return because(reason.code, **{**dict(reason.params), "planned": active})
