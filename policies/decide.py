"""Forethaw's policy: from joint sample paths of demand to a plan by tier, with reasons.

The order of a decision, each step in a module of its own:

1. `required.py`: the capacity that each path requires, given the backlog and that requests may wait;
2. `tiers.py`: per target, active replicas until the nearest wake, and what is kept ready to wake;
3. `hold.py`: replicas above the need that are still worth keeping;
4. `spares.py`: GPUs kept idle at each step of the supply ladder, pooled over targets;
5. `budget.py`: the plan cut to the GPU budget, idle GPUs first;
6. `placement.py`: which snapshots lie near which GPUs.

A target without fresh metrics keeps what it has, sizes no spare GPUs, and is not cut before the others: unknown is
not zero. Reasons are made last, from the counts that remain. `assignment.py` binds the plan to nodes and replicas;
`autoscaler/reconcile.py` carries it out, and the simulator runs that very code.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from policies.arrays import FloatArray
from policies.budget import share_gpus
from policies.contract import checked, target_gpus
from policies.hold import held_units
from policies.keys import SnapshotKey, TargetKey
from policies.ladder import next_supply
from policies.newsvendor import shortage_cost_per_s
from policies.paths import DemandPaths
from policies.placement import WakeNeed, place_snapshots
from policies.reasons import Reason, ReasonCode, because, for_count
from policies.required import SUSTAINED_SLOS, required_by_step
from policies.spares import SpareNeed, excess_gpus, spare_need, spares_apart, supply_lead_s
from policies.tiers import TierNeed, tier_need
from policies.types import (
    ACTIVE,
    FREE,
    Decision,
    DecisionInput,
    Plan,
    TargetPlan,
    TargetSpec,
)


@dataclass(frozen=True, slots=True)
class ForethawMemory:
    """What one decision hands to the next: when, and where snapshots were last placed."""

    placement: Mapping[str, tuple[SnapshotKey, ...]]
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

    def initial(self) -> ForethawMemory:
        """Return the memory of nothing placed yet."""
        return ForethawMemory({}, float("-inf"))

    def decide(self, given: DecisionInput, memory: ForethawMemory) -> Decision[ForethawMemory]:
        """Return the plan for `given`; without any forecast everything is held."""
        if given.paths is None:
            return Decision(_hold_everything(given, memory), memory)
        needs = self._needs(given, given.paths)
        counts = _Counts(given, needs)
        supply = self._supply(given, needs, counts)
        active, spare_gpus = _within_budget(given, needs, counts, supply)
        placement, placed_at_s = self._placement(given, needs, active, memory)
        targets = {
            t.key: TargetPlan(active[t.key], needs.tiers[t.key].warm, counts.reasons(t, active[t.key]))
            for t in given.targets
        }
        why = because(
            ReasonCode.SPARE_GPUS,
            planned=spare_gpus,
            needed=supply.gpus,
            held=supply.held,
            cover_s=supply.cover_s,
            quantile=supply.ratio,
            gpu_budget=given.gpu_budget,
        )
        plan = Plan(targets, {FREE: spare_gpus}, placement, (why,))
        return Decision(plan, ForethawMemory(placement, placed_at_s))

    def _needs(self, given: DecisionInput, paths: DemandPaths) -> _Needs:
        rows = paths.rows(given.keys)
        by_step = required_by_step(
            paths.step_ends_s,
            rows,
            np.array([given.observed[t.key].backlog_replica_s for t in given.targets]),
            np.array([t.slo_wait_s for t in given.targets]),
        )
        running = np.maximum.accumulate(by_step, axis=-1)
        sustained = self._sustained(given, paths.step_ends_s, rows)
        tiers = {
            t.key: tier_need(
                t,
                running[i],
                paths.step_ends_s,
                given.tick_s,
                _snapshot_near(given, t),
                zlib.crc32(str(t.key).encode()),
                sustained[i],
            )
            for i, t in enumerate(given.targets)
        }
        return _Needs(paths.step_ends_s, by_step, running, tiers)

    def _sustained(self, given: DecisionInput, ends_s: FloatArray, rows: FloatArray) -> list[float]:
        """Replicas for the mean demand of the next few SLOs at the highest utilisation allowed, by target.

        A queue that stands says that a replica does less than its rating, whatever the reason (another
        mix of requests, a slower GPU): what clears it within one SLO comes on top.
        """
        sustained = []
        for i, target in enumerate(given.targets):
            until_s = max(SUSTAINED_SLOS * target.slo_wait_s, self.interval_s)
            steps = int(np.searchsorted(ends_s, until_s)) + 1
            widths_s = np.diff(ends_s[:steps], prepend=0.0)
            mean = float(rows[i, :, :steps].mean(axis=0) @ widths_s / widths_s.sum())
            standing = given.observed[target.key].standing_backlog_replica_s / target.slo_wait_s
            sustained.append((mean + standing) / self.sustained_utilization)
        return sustained

    def _supply(self, given: DecisionInput, needs: _Needs, counts: _Counts) -> SpareNeed:
        """Size the spare GPUs by the targets whose demand is known; with none known, keep what is there."""
        have = sum(n.free_gpus + n.reclaiming_gpus for n in given.nodes)
        known = [i for i, key in enumerate(given.keys) if given.known(key)]
        if not known:
            return SpareNeed(0, have, 0.0, 0.0)
        targets = tuple(given.targets[i] for i in known)
        wanted = np.array([counts.wanted[t.key] for t in targets], dtype=float)
        gpus = np.array([float(t.gpus_per_replica) for t in targets])
        excess = excess_gpus(needs.by_step[known], wanted, gpus)
        wake_mean_s = max((n.wake.lead_time.mean_s for n in needs.tiers.values()), default=0.0)
        supply = next_supply(given.pool.supply)
        lead_s = supply_lead_s(supply, wake_mean_s, given.tick_s, needs.by_step.shape[1], salt=len(given.targets))
        need = spare_need(targets, excess, needs.ends_s, lead_s, supply, have)
        if self.pooled:
            return need
        apart = spares_apart(targets, excess, needs.ends_s, lead_s)
        return SpareNeed(apart, max(apart, need.held), need.cover_s, need.ratio)

    def _placement(
        self, given: DecisionInput, needs: _Needs, active: Mapping[TargetKey, int], memory: ForethawMemory
    ) -> tuple[Mapping[str, tuple[SnapshotKey, ...]], float]:
        if given.now_s < memory.placed_at_s + self.placement_every_s:
            return memory.placement, memory.placed_at_s
        wakes = []
        for i, t in enumerate(given.targets):
            if t.snapshot is None or not any(tier.needs_snapshot for tier in t.ladder):
                continue
            above = np.maximum(needs.running[i, :, -1] - active[t.key], 0.0)
            gpus = float(np.quantile(above, 0.99)) * t.gpus_per_replica
            wakes.append(WakeNeed(t, max(gpus, t.gpus_per_replica), float(above.mean()) * shortage_cost_per_s(t)))
        sizes = {t.snapshot: t.artifact_bytes for t in given.targets}
        cache_bytes = {
            n.name: n.cache_free_bytes + sum(sizes.get(s, 0) for s in n.snapshots | n.fetching) for n in given.nodes
        }
        return place_snapshots(tuple(wakes), given.nodes, cache_bytes), given.now_s


@dataclass(frozen=True, slots=True)
class _Needs:
    """What the sample paths ask for; arrays are (targets, paths, steps) in the order of `DecisionInput.targets`."""

    ends_s: FloatArray
    by_step: FloatArray
    running: FloatArray
    tiers: Mapping[TargetKey, TierNeed]


class _Counts:
    """Active replicas wanted before the budget, and what is to be said of them."""

    def __init__(self, given: DecisionInput, needs: _Needs) -> None:
        self._given = given
        self._needs = needs
        self._asked: dict[TargetKey, int] = {}
        self.wanted: dict[TargetKey, int] = {}
        for i, target in enumerate(given.targets):
            asked = self._asked_for(i, target)
            self._asked[target.key] = asked
            self.wanted[target.key] = _clamp(target, asked)

    def _asked_for(self, i: int, target: TargetSpec) -> int:
        """Return the count before bounds: the need and what is worth holding, or what there is if demand is unknown."""
        have = self._given.observed[target.key].current
        if not self._given.known(target.key):
            return have
        need = self._needs.tiers[target.key]
        return held_units(
            self._needs.running[i],
            self._needs.ends_s,
            need.active,
            have,
            target.ladder[0].holding_cost,
            _return_cost(target, need),
        )

    def reasons(self, target: TargetSpec, planned: int) -> tuple[Reason, ...]:
        """Return why `planned` replicas are planned, the change first."""
        have = self._given.observed[target.key].current
        asked, wanted = self._asked[target.key], self.wanted[target.key]
        reasons = [for_count(have, planned), *self._basis(target, asked, planned)]
        if wanted != asked:
            reasons.append(
                because(
                    ReasonCode.BOUNDS,
                    wanted=asked,
                    planned=wanted,
                    minimum=target.min_replicas,
                    maximum=target.max_replicas,
                )
            )
        if planned != wanted:
            cut = because(ReasonCode.GPU_BUDGET, wanted=wanted, planned=planned, gpu_budget=self._given.gpu_budget)
            reasons.append(cut)
        return tuple(reasons)

    def _basis(self, target: TargetSpec, asked: int, planned: int) -> list[Reason]:
        if not self._given.known(target.key):
            return [because(ReasonCode.METRICS_UNKNOWN, planned=planned)]
        need = self._needs.tiers[target.key]
        covered = because(
            ReasonCode.WAKE_COVERED, needed=need.active, cover_s=need.cover_s, wake=need.wake.name, quantile=need.ratio
        )
        return [covered, because(ReasonCode.WORTH_HOLDING, held=asked)] if asked > need.active else [covered]


def _snapshot_near(given: DecisionInput, target: TargetSpec) -> bool:
    """Return whether a wake could find the artifact where a GPU is or soon could be."""
    return any(target.snapshot in n.snapshots and n.idle_gpus >= target.gpus_per_replica for n in given.nodes)


def _clamp(target: TargetSpec, replicas: int) -> int:
    return min(max(replicas, target.min_replicas), target.max_replicas)


def _return_cost(target: TargetSpec, need: TierNeed) -> float:
    """GPU-seconds that releasing a replica and taking one back wastes: half a drain and a wake.

    A drained replica finishes its requests, which stay for rated concurrency / rated rate seconds
    (Little's law), with a batch that shrinks to nothing: half of that time is lost.
    """
    residence_s = target.rated_concurrency / target.rated_rps if target.rated_rps > 0 else 0.0
    return target.gpus_per_replica * (need.wake.lead_time.mean_s + residence_s / 2.0)


def _within_budget(
    given: DecisionInput, needs: _Needs, counts: _Counts, supply: SpareNeed
) -> tuple[dict[TargetKey, int], int]:
    wanted = tuple(counts.wanted[k] for k in given.keys)
    active = share_gpus(given.targets, wanted, tuple(needs.running[:, :, 0]), given.gpu_budget)
    used = sum(a * t.gpus_per_replica for a, t in zip(active, given.targets, strict=True))
    return dict(zip(given.keys, active, strict=True)), min(supply.held, max(given.gpu_budget - used, 0))


def _hold_everything(given: DecisionInput, memory: ForethawMemory) -> Plan:
    """Keep every replica, warm or not, and every idle GPU as they are, within bounds and budget."""

    def held(target: TargetSpec) -> TargetPlan:
        seen = given.observed[target.key]
        planned = _clamp(target, seen.current)
        warm = {tier: n for tier, n in seen.ready.items() if tier != ACTIVE and n}
        reasons = (for_count(seen.current, planned), because(ReasonCode.NO_FORECAST, planned=planned))
        return TargetPlan(planned, warm, reasons)

    targets = {t.key: held(t) for t in given.targets}
    idle = sum(n.free_gpus + n.reclaiming_gpus for n in given.nodes)
    left = given.gpu_budget - sum(target_gpus(t, targets[t.key]) for t in given.targets)
    free = max(min(idle, int(left)), 0)
    why = because(ReasonCode.SUPPLY_BALANCED, planned=free)
    plan, _ = checked(Plan(targets, {FREE: free}, memory.placement, (why,)), given)
    return plan  # minimums that do not fit into the budget are cut as any plan's
