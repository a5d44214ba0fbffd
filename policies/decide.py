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

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from policies.arrays import FloatArray
from policies.budget import Allotment, allot
from policies.contract import checked, target_gpus
from policies.hold import held_counts
from policies.keys import SnapshotKey, TargetKey
from policies.paths import DemandPaths
from policies.placement import Settled, place_snapshots, settled, wake_needs
from policies.reasons import Reason, ReasonCode, because, for_count
from policies.required import SUSTAINED_SLOS, required_by_step, required_until
from policies.spares import PoolExcess, SupplyNeed, supply_needs
from policies.tiers import TierNeed, tier_needs
from policies.types import (
    ACTIVE,
    FREE,
    PARKED,
    STANDBY,
    Decision,
    DecisionInput,
    Plan,
    SupplyStep,
    TargetPlan,
    TargetSpec,
)

BLOCK_TARGETS = 64
"""Targets that are asked at once: their arrays fit the caches, and a thousand targets need no more memory than these
beside their sample paths."""
NEAREST_FIRST = (STANDBY, PARKED)
"""Tiers of single processes, in the order in which a shortage of GPUs leaves them."""


@dataclass(frozen=True, slots=True)
class ForethawMemory:
    """What one decision hands to the next: when and where snapshots were last placed, and by which needs."""

    placement: Mapping[str, tuple[SnapshotKey, ...]]
    placed_at_s: float
    needs: Settled = field(default_factory=dict)


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
        supply = self._supply(given, needs)
        fits = _allotted(given, needs, supply)
        memory = self._placed(given, needs, fits, memory)
        targets = {
            t.key: TargetPlan(fits.active[t.key], fits.warm[t.key], _reasons(given, needs, t, fits))
            for t in given.targets
        }
        why = tuple(_supply_reason(need, fits.supply[need.step], given) for need in supply)
        return Decision(Plan(targets, fits.supply, memory.placement, why), memory)

    def _needs(self, given: DecisionInput, paths: DemandPaths) -> _Needs:
        """Ask what each target needs, a block of targets at a time: nothing of one depends on another."""
        rows = paths.rows(given.keys).paths
        n_targets, n_paths, n_steps = rows.shape
        needs = _Needs(
            paths.step_ends_s,
            PoolExcess(n_steps, n_paths, apart=not self.pooled),
            np.empty((n_targets, n_paths), rows.dtype),
            np.empty((n_targets, n_paths), rows.dtype),
        )
        near = _with_snapshot_near(given)
        for begin in range(0, n_targets, BLOCK_TARGETS):
            block = slice(begin, begin + BLOCK_TARGETS)
            self._block(given, given.targets[block], rows[block], near, needs, block)
        return needs

    def _block(
        self,
        given: DecisionInput,
        targets: tuple[TargetSpec, ...],
        rows: FloatArray,
        near: frozenset[TargetKey],
        needs: _Needs,
        block: slice,
    ) -> None:
        """Add a block of targets, whose paths are `rows`, to `needs`."""
        ends_s, observed = needs.ends_s, [given.observed[t.key] for t in targets]
        backlog = np.array([seen.backlog_replica_s for seen in observed])
        by_step = required_by_step(ends_s, rows, backlog, np.array([t.slo_wait_s for t in targets]))
        until = required_until(by_step)
        sustained = self._sustained(given, targets, ends_s, rows)
        tiers = tier_needs(targets, until, ends_s, given.tick_s, near, sustained)
        have = np.array([seen.current for seen in observed], dtype=np.int64)
        held = held_counts(
            until,
            ends_s,
            np.array([tiers[t.key].active for t in targets], dtype=np.int64),
            have,
            np.array([t.ladder[0].holding_cost for t in targets], dtype=np.float64),
            np.array([_return_cost(t, tiers[t.key]) for t in targets], dtype=np.float64),
        )
        known = np.array([given.known(t.key) for t in targets])
        asked = dict(zip((t.key for t in targets), np.where(known, held, have).tolist(), strict=True))
        needs.tiers.update(tiers)
        needs.asked.update(asked)
        needs.wanted.update({t.key: _clamp(t, asked[t.key]) for t in targets})
        needs.now[block], needs.at_horizon[block] = until[:, :, 0], until[:, :, -1]
        sized = tuple(t for t, is_known in zip(targets, known, strict=True) if is_known)
        wanted = np.array([needs.wanted[t.key] for t in sized], dtype=np.float64)
        needs.excess.add(sized, by_step if known.all() else by_step[known], wanted)

    def _sustained(
        self, given: DecisionInput, targets: tuple[TargetSpec, ...], ends_s: FloatArray, rows: FloatArray
    ) -> dict[TargetKey, float]:
        """Replicas for the mean demand of the next few SLOs at the highest utilisation allowed, by target.

        A queue that stands says that a replica does less than its rating, whatever the reason (another
        mix of requests, a slower GPU): what clears it within one SLO comes on top.
        """
        widths_s = np.diff(ends_s, prepend=0.0)
        means = rows.mean(axis=1, dtype=np.float64)
        sustained = {}
        for target, mean in zip(targets, means, strict=True):
            until_s = max(SUSTAINED_SLOS * target.slo_wait_s, self.interval_s)
            steps = min(int(np.searchsorted(ends_s, until_s)) + 1, len(ends_s))
            demand = float(mean[:steps] @ widths_s[:steps]) / float(widths_s[:steps].sum())
            standing = given.observed[target.key].standing_backlog_replica_s / target.slo_wait_s
            sustained[target.key] = (demand + standing) / self.sustained_utilization
        return sustained

    def _supply(self, given: DecisionInput, needs: _Needs) -> tuple[SupplyNeed, ...]:
        """Size the idle GPUs of each step by the targets whose demand is known; with none, keep what is idle."""
        have, known = _idle(given), needs.excess.targets
        if not known:
            return tuple(SupplyNeed(s.name, have[s.name], have[s.name], 0.0, 1.0, 0) for s in given.pool.supply[:-1])
        wake_s = max(needs.tiers[t.key].wake.lead_time.mean_s for t in known)
        supply = given.pool.supply
        return supply_needs(needs.excess, needs.ends_s, supply, wake_s + given.tick_s, have, pooled=self.pooled)

    def _placed(self, given: DecisionInput, needs: _Needs, fits: Allotment, memory: ForethawMemory) -> ForethawMemory:
        elapsed_s = given.now_s - memory.placed_at_s
        if elapsed_s < self.placement_every_s:
            return memory
        active = np.array([fits.active[key] for key in given.keys], dtype=np.float64)
        wakes = settled(wake_needs(given.targets, needs.at_horizon, active), memory.needs, elapsed_s)
        sizes = {t.snapshot: t.artifact_bytes for t in given.targets if t.snapshot is not None}
        cache_bytes = {
            n.name: n.cache_free_bytes + sum(sizes.get(s, 0) for s in n.snapshots | n.fetching) for n in given.nodes
        }
        placement = place_snapshots(wakes, given.nodes, cache_bytes, memory.placement)
        return ForethawMemory(placement, given.now_s, {w.target.key: (w.gpus, w.worth) for w in wakes})


@dataclass(slots=True)
class _Needs:
    """What the sample paths ask for, filled block by block; arrays are in the order of `DecisionInput.targets`."""

    ends_s: FloatArray
    excess: PoolExcess
    """GPUs above the wanted replicas, of the targets whose demand is known."""
    now: FloatArray
    """Replicas required within the first step, (targets, paths)."""
    at_horizon: FloatArray
    """Replicas required up to the horizon, (targets, paths)."""
    tiers: dict[TargetKey, TierNeed] = field(default_factory=dict)
    asked: dict[TargetKey, int] = field(default_factory=dict)
    """What is needed and what is worth holding above it; what there is where demand is unknown."""
    wanted: dict[TargetKey, int] = field(default_factory=dict)
    """The same within the target's bounds."""


def _with_snapshot_near(given: DecisionInput) -> frozenset[TargetKey]:
    """Return the targets whose wake could find its artifact where a GPU is or soon could be."""
    most_idle: dict[SnapshotKey, int] = {}
    for node in given.nodes:
        idle = node.idle_gpus
        for snapshot in node.snapshots:
            if idle > most_idle.get(snapshot, 0):
                most_idle[snapshot] = idle
    return frozenset(
        t.key for t in given.targets if t.snapshot is not None and most_idle.get(t.snapshot, 0) >= t.gpus_per_replica
    )


def _clamp(target: TargetSpec, replicas: int) -> int:
    return min(max(replicas, target.min_replicas), target.max_replicas)


def _return_cost(target: TargetSpec, need: TierNeed) -> float:
    """GPU-seconds that releasing a replica and taking one back wastes: half a drain and a wake.

    A drained replica finishes its requests, which stay for rated concurrency / rated rate seconds
    (Little's law), with a batch that shrinks to nothing: half of that time is lost.
    """
    residence_s = target.rated_concurrency / target.rated_rps if target.rated_rps > 0 else 0.0
    return target.gpus_per_replica * (need.wake.lead_time.mean_s + residence_s / 2.0)


def _idle(given: DecisionInput) -> dict[str, int]:
    """Return the idle GPUs that are held at each step of the supply but the last."""
    idle = dict.fromkeys((step.name for step in given.pool.supply[:-1]), 0)
    idle[FREE] = sum(n.free_gpus + n.reclaiming_gpus for n in given.nodes)
    for step in _lending(given.pool.supply):
        idle[step.name] = sum(n.lent_gpus for n in given.nodes)
    return idle


def _lending(supply: tuple[SupplyStep, ...]) -> tuple[SupplyStep, ...]:
    """Return the step between free and last whose GPUs are owned and lent, if there is one."""
    return tuple(step for step in supply[1:-1] if not step.whole_nodes)[:1]


def _allotted(given: DecisionInput, needs: _Needs, supply: tuple[SupplyNeed, ...]) -> Allotment:
    """Return what fits into the budget; a target with unknown demand keeps the warm replicas that it has."""
    warm = {}
    for target in given.targets:
        planned = needs.tiers[target.key].warm
        known = given.known(target.key)
        held = planned if known else given.observed[target.key].ready
        warm[target.key] = {tier: held[tier] for tier in NEAREST_FIRST if held.get(tier, 0)}
    return allot(
        given.targets,
        needs.wanted,
        warm,
        {need.step: need.held for need in supply},
        needs.now,
        {key: given.observed[key].current for key in given.keys if not given.known(key)},
        given.gpu_budget,
    )


def _reasons(given: DecisionInput, needs: _Needs, target: TargetSpec, fits: Allotment) -> tuple[Reason, ...]:
    """Return why a target's count is planned: the change first, then its ground and whatever changed it."""
    planned, have = fits.active[target.key], given.observed[target.key].current
    asked, wanted = needs.asked[target.key], needs.wanted[target.key]
    reasons = [for_count(have, planned), *_ground(given, needs.tiers[target.key], target, asked, planned)]
    if wanted != asked:
        low, high = target.min_replicas, target.max_replicas
        reasons.append(because(ReasonCode.BOUNDS, wanted=asked, planned=wanted, minimum=low, maximum=high))
    if planned != wanted:
        budget = given.gpu_budget
        reasons.append(because(ReasonCode.GPU_BUDGET, wanted=wanted, planned=planned, gpu_budget=budget))
    return tuple(reasons)


def _ground(given: DecisionInput, need: TierNeed, target: TargetSpec, asked: int, planned: int) -> list[Reason]:
    if not given.known(target.key):
        return [because(ReasonCode.METRICS_UNKNOWN, planned=planned)]
    covered = because(
        ReasonCode.WAKE_COVERED, needed=need.active, cover_s=need.cover_s, wake=need.wake.name, quantile=need.ratio
    )
    return [covered, because(ReasonCode.WORTH_HOLDING, held=asked)] if asked > need.active else [covered]


def _supply_reason(need: SupplyNeed, planned: int, given: DecisionInput) -> Reason:
    if need.step == FREE:
        return because(
            ReasonCode.SPARE_GPUS,
            planned=planned,
            needed=need.gpus,
            held=need.held,
            cover_s=need.cover_s,
            quantile=need.ratio,
            gpu_budget=given.gpu_budget,
        )
    return because(ReasonCode.GPUS_LENT, planned=planned, step=need.step, cover_s=need.cover_s, quantile=need.ratio)


def _hold_everything(given: DecisionInput, memory: ForethawMemory) -> Plan:
    """Keep every replica, warm or not, and every idle GPU as they are, within bounds and budget."""

    def held(target: TargetSpec) -> TargetPlan:
        seen = given.observed[target.key]
        planned = _clamp(target, seen.current)
        warm = {tier: n for tier, n in seen.ready.items() if tier != ACTIVE and n}
        reasons = (for_count(seen.current, planned), because(ReasonCode.NO_FORECAST, planned=planned))
        return TargetPlan(planned, warm, reasons)

    targets = {t.key: held(t) for t in given.targets}
    left = given.gpu_budget - sum(target_gpus(t, targets[t.key]) for t in given.targets)
    idle = {}
    for step, gpus in _idle(given).items():
        idle[step] = max(min(gpus, int(left)), 0)
        left -= idle[step]
    why = because(ReasonCode.SUPPLY_BALANCED, planned=idle[FREE])
    plan, _ = checked(Plan(targets, idle, memory.placement, (why,)), given)
    return plan  # minimums that do not fit into the budget are cut as any plan's
