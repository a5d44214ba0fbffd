"""How much capacity must be how near: one target's need for each rung of its ladder.

Each rung must cover the demand that the next slower one cannot reach in time. `active` covers a
newsvendor quantile of the capacity required until the nearest wake could serve; `active` plus the
replicas kept ready to wake cover the same until an unprepared one could. A rung between is given
replicas only if the active capacity that it saves is worth more than holding it. Below it all lies
the sustained load: mean demand at no more than the utilisation that queues stay short at.
"""

from __future__ import annotations

from dataclasses import dataclass

from policies.arrays import FloatArray
from policies.ladder import draws, undominated
from policies.newsvendor import critical_ratio, shortage_cost_per_s, upper_quantile, whole_replicas
from policies.required import at_lead_times
from policies.types import COLD, TargetSpec, TierSpec


@dataclass(frozen=True, slots=True)
class TierNeed:
    """Replicas that a target needs per rung, and the horizons that they stand on."""

    active: int
    warm: dict[str, int]
    """Replicas to hold in the tiers between active and the snapshot cache (standby, parked)."""
    wake: TierSpec
    """Where the next replica comes from."""
    cover_s: float
    """Mean seconds until that wake could serve, the wait for the next decision included."""
    ratio: float
    """Newsvendor quantile of the active tier."""


def wake_ladder(target: TargetSpec, snapshot_near: bool) -> tuple[TierSpec, ...]:
    """Rungs from which a replica can come now: without a snapshot near a GPU, those beyond it only."""
    return tuple(t for t in undominated(target.ladder)[1:] if snapshot_near or not t.needs_snapshot) or (
        target.ladder[-1],
    )


def tier_need(
    target: TargetSpec,
    required: FloatArray,
    step_ends_s: FloatArray,
    tick_s: float,
    snapshot_near: bool,
    salt: int,
    sustained: float = 0.0,
) -> TierNeed:
    """Need per rung from the required capacity (paths, steps) of one target.

    `sustained` is the capacity, in replicas, that the mean demand needs whatever may come.
    """
    ratio = critical_ratio(shortage_cost_per_s(target), target.ladder[0].holding_cost)
    rungs = wake_ladder(target, snapshot_near)

    def until(tier: TierSpec) -> FloatArray:
        lead_s = draws(tier.lead_time, required.shape[0], salt) + tick_s
        return at_lead_times(required, step_ends_s, lead_s)

    def covering(tier: TierSpec) -> int:
        return whole_replicas(max(upper_quantile(until(tier), ratio), sustained))

    held = [t for t in rungs if t.name != COLD and _held_per_replica(t)]
    free = [t for t in rungs if t not in held] or [target.ladder[-1]]
    wake = free[0]
    active = covering(wake)
    warm: dict[str, int] = {}
    for tier in held:
        if tier.lead_time.mean_s >= wake.lead_time.mean_s:
            continue
        nearer = covering(tier)
        waiting = active - nearer
        saved = waiting * target.ladder[0].holding_cost
        if waiting > 0 and saved > waiting * tier.holding_cost:
            warm[tier.name] = waiting
            active, wake = nearer, tier
            break
    return TierNeed(active, warm, wake, wake.lead_time.mean_s + tick_s, ratio)


def _held_per_replica(tier: TierSpec) -> bool:
    """Standby and parked hold a process each; a staged artifact serves any number of wakes."""
    return tier.gpu_share > 0
