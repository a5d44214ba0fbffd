"""Forethaw's policy: from joint sample paths of demand to a plan by tier, with reasons.

The order of a decision, each step in a module of its own:

1. `required.py`: the capacity that each path requires, given the backlog and that requests may wait;
2. `tiers.py`: per target, active replicas until the nearest wake, and what is kept ready to wake;
3. `hold.py`: replicas above the need that are still worth keeping;
4. `spares.py`: spare GPUs, pooled over targets, until the next GPU supply could deliver;
5. `budget.py`: the plan cut to the GPU budget, spares first;
6. `placement.py`: which snapshots lie near which GPUs.

A target without fresh metrics keeps at least what it has: unknown is not zero. `actions.py` turns a
plan into steps; `autoscaler/reconcile.py` carries them out, and the simulator runs that very code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from policies.budget import share_gpus
from policies.hold import held_units
from policies.ladder import next_supply
from policies.newsvendor import shortage_cost_per_s
from policies.paths import DemandPaths
from policies.placement import WakeNeed, place_snapshots
from policies.required import SUSTAINED_SLOS, required_by_step
from policies.spares import SpareNeed, excess_gpus, spare_need, spares_apart, supply_lead_s
from policies.tiers import TierNeed, tier_need
from policies.types import (
    ACTIVE,
    Decision,
    DecisionInput,
    FloatArray,
    Plan,
    Reason,
    TargetObservation,
    TargetPlan,
    TargetSpec,
)


@dataclass(frozen=True, slots=True)
class ForethawMemory:
    """What one decision hands to the next: when, and where snapshots were last placed."""

    placement: Mapping[str, tuple[str, ...]]
    placed_at_s: float


@dataclass(frozen=True, slots=True)
class ForethawPolicy:
    """Predictive tiers, pooled spares, placement; see the module's head.

    `pooled=False` sizes each target's spares apart, to show what pooling saves. `placement_every_s`
    bounds how often snapshots may be moved: a fetch takes tens of seconds, so a plan that changes
    its mind faster only moves bytes. `sustained_utilization` is the share of rated capacity that mean
    demand may take: a batching replica near its rated limit queues on every imbalance between replicas.
    """

    name: str = "forethaw"
    interval_s: float = 2.0
    wants_paths: bool = True
    pooled: bool = True
    placement_every_s: float = 30.0
    sustained_utilization: float = 0.9

    def initial(self, targets: tuple[TargetSpec, ...]) -> ForethawMemory:
        return ForethawMemory({}, float("-inf"))

    def decide(self, given: DecisionInput, memory: ForethawMemory) -> Decision:
        if given.paths is None:
            return Decision(_hold_everything(given, memory, "no forecast at all yet"), memory)
        forecast = given.paths.rows(tuple(t.key for t in given.targets))
        by_step = _required(given, forecast)
        required = np.maximum.accumulate(by_step, axis=-1)
        ends_s = forecast.step_ends_s
        needs = tuple(
            tier_need(
                t,
                required[i],
                ends_s,
                given.tick_s,
                _snapshot_near(given, t),
                i,
                self._sustained(given, forecast, i),
            )
            for i, t in enumerate(given.targets)
        )
        wanted, texts = _active_replicas(given, forecast, required, needs)
        spare = _spare(given, ends_s, by_step, needs, wanted, self.pooled)
        active, spare_gpus, cut = _within_budget(given, required, wanted, spare)
        placement, placed_at_s = self._placement(given, required, active, memory)
        targets = tuple(
            TargetPlan(active[i], needs[i].warm, _reasons(given.targets[i], active[i], wanted[i], texts[i]))
            for i in range(len(active))
        )
        reason = Reason(
            "spare-gpus",
            f"{spare.gpus} spare GPUs cover {spare.cover_s:.1f} s until the next supply at quantile "
            f"{spare.ratio:.4f}; {spare.held} worth holding{cut}",
        )
        return Decision(Plan(targets, spare_gpus, placement, (reason,)), ForethawMemory(placement, placed_at_s))

    def _sustained(self, given: DecisionInput, paths: DemandPaths, i: int) -> float:
        """Replicas for the mean demand of the next few SLOs at the highest utilisation allowed.

        A queue that stands says that a replica does less than its rating, whatever the reason (another
        mix of requests, a slower card): what clears it within one SLO comes on top.
        """
        target = given.targets[i]
        until_s = max(SUSTAINED_SLOS * target.slo_wait_s, self.interval_s)
        steps = int(np.searchsorted(paths.step_ends_s, until_s)) + 1
        widths_s = np.diff(paths.step_ends_s[:steps], prepend=0.0)
        mean = float(paths.paths[i, :, :steps].mean(axis=0) @ widths_s / widths_s.sum())
        standing = given.observed[i].standing_backlog_replica_s / target.slo_wait_s
        return (mean + standing) / self.sustained_utilization

    def _placement(
        self, given: DecisionInput, required: FloatArray, active: tuple[int, ...], memory: ForethawMemory
    ) -> tuple[Mapping[str, tuple[str, ...]], float]:
        if given.now_s < memory.placed_at_s + self.placement_every_s:
            return memory.placement, memory.placed_at_s
        needs = []
        for i, t in enumerate(given.targets):
            if not any(tier.needs_snapshot for tier in t.ladder):
                continue
            above = np.maximum(required[i, :, -1] - active[i], 0.0)
            gpus = float(np.quantile(above, 0.99)) * t.gpus_per_replica
            needs.append(WakeNeed(t, max(gpus, t.gpus_per_replica), float(above.mean()) * shortage_cost_per_s(t)))
        sizes = {t.name: t.artifact_bytes for t in given.targets}
        cache_bytes = {
            n.name: n.cache_free_bytes + sum(sizes.get(s, 0) for s in n.snapshots | n.fetching) for n in given.nodes
        }
        return place_snapshots(tuple(needs), given.nodes, cache_bytes), given.now_s


def _required(given: DecisionInput, paths: DemandPaths) -> FloatArray:
    return required_by_step(
        paths.step_ends_s,
        paths.paths,
        np.array([o.backlog_replica_s for o in given.observed]),
        np.array([t.slo_wait_s for t in given.targets]),
    )


def _snapshot_near(given: DecisionInput, target: TargetSpec) -> bool:
    """Whether a wake could find the artifact where a GPU is or soon could be."""
    return any(
        target.name in n.snapshots and n.free_gpus + n.lent_gpus + n.reclaiming_gpus >= target.gpus_per_replica
        for n in given.nodes
    )


def _trusted(given: DecisionInput, paths: DemandPaths, i: int) -> bool:
    return given.observed[i].demand_known and given.targets[i].key in paths.known


def _active_replicas(
    given: DecisionInput, paths: DemandPaths, required: FloatArray, needs: tuple[TierNeed, ...]
) -> tuple[tuple[int, ...], tuple[Reason, ...]]:
    wanted: list[int] = []
    reasons: list[Reason] = []
    for i, (target, seen, need) in enumerate(zip(given.targets, given.observed, needs, strict=True)):
        have = seen.active + seen.starting
        if not _trusted(given, paths, i):
            wanted.append(_clamp(target, have))
            reasons.append(Reason("metrics-missing", f"no fresh demand: holding {have} replicas"))
            continue
        held = held_units(
            required[i], paths.step_ends_s, need.active, have, target.ladder[0].holding_cost, _return_cost(target, need)
        )
        wanted.append(_clamp(target, held))
        reasons.append(_why(have, held, need))
    return tuple(wanted), tuple(reasons)


def _clamp(target: TargetSpec, replicas: int) -> int:
    return min(max(replicas, target.min_replicas), target.max_replicas)


def _return_cost(target: TargetSpec, need: TierNeed) -> float:
    """GPU-seconds that releasing a replica and taking one back wastes: half a drain and a wake.

    A drained replica finishes its requests, which stay for rated concurrency / rated rate seconds
    (Little's law), with a batch that shrinks to nothing: half of that time is lost.
    """
    residence_s = target.rated_concurrency / target.rated_rps if target.rated_rps > 0 else 0.0
    return target.gpus_per_replica * (need.wake.lead_time.mean_s + residence_s / 2.0)


def _why(have: int, planned: int, need: TierNeed) -> Reason:
    basis = f"{need.active} cover {need.cover_s:.1f} s until a wake from {need.wake.name} at quantile {need.ratio:.4f}"
    if planned > have:
        return Reason("scale-up", f"{have} to {planned} replicas: {basis}")
    if planned < have:
        return Reason("scale-down", f"{have} to {planned} replicas: {basis}; the rest costs more to hold than to wake")
    if planned > need.active:
        return Reason(
            "hold", f"no change at {have} replicas: {basis}; the others are cheaper to hold than to wake again"
        )
    return Reason("no-change", f"no change at {have} replicas: {basis}")


def _reasons(target: TargetSpec, active: int, wanted: int, why: Reason) -> tuple[Reason, ...]:
    if active == wanted:
        return (why,)
    return (why, Reason("gpu-budget", f"{target.name}: {wanted} wanted, {active} within the GPU budget"))


def _spare(
    given: DecisionInput,
    ends_s: FloatArray,
    by_step: FloatArray,
    needs: tuple[TierNeed, ...],
    wanted: tuple[int, ...],
    pooled: bool,
) -> SpareNeed:
    gpus = np.array([float(t.gpus_per_replica) for t in given.targets])
    excess = excess_gpus(by_step, np.array(wanted, dtype=float), gpus)
    wake_mean_s = max(n.wake.lead_time.mean_s for n in needs)
    supply = next_supply(given.supply)
    lead_s = supply_lead_s(supply, wake_mean_s, given.tick_s, by_step.shape[1], salt=len(given.targets))
    have = sum(n.free_gpus + n.reclaiming_gpus for n in given.nodes)
    need = spare_need(given.targets, excess, ends_s, lead_s, supply, have)
    if pooled:
        return need
    apart = spares_apart(given.targets, excess, ends_s, lead_s)
    return SpareNeed(apart, max(apart, need.held), need.cover_s, need.ratio)


def _within_budget(
    given: DecisionInput, required: FloatArray, wanted: tuple[int, ...], spare: SpareNeed
) -> tuple[tuple[int, ...], int, str]:
    active = share_gpus(given.targets, wanted, tuple(required[:, :, 0]), given.gpu_budget)
    used = sum(a * t.gpus_per_replica for a, t in zip(active, given.targets, strict=True))
    spare_gpus = min(spare.held, max(given.gpu_budget - used, 0))
    cut = f", cut to {spare_gpus} by the budget of {given.gpu_budget}" if spare_gpus < spare.held else ""
    return active, spare_gpus, cut


def _hold_everything(given: DecisionInput, memory: ForethawMemory, why: str) -> Plan:
    def held(target: TargetSpec, seen: TargetObservation) -> TargetPlan:
        have = _clamp(target, seen.ready.get(ACTIVE, 0) + seen.starting)
        return TargetPlan(have, {}, (Reason("no-forecast", f"{why}: holding {have} replicas"),))

    targets = tuple(held(t, o) for t, o in zip(given.targets, given.observed, strict=True))
    free = sum(n.free_gpus + n.reclaiming_gpus for n in given.nodes)
    return Plan(targets, free, memory.placement, (Reason("no-forecast", f"{why}: holding {free} spare GPUs"),))
