"""How much capacity must be how near: each target's need for each rung of its ladder.

Each rung must cover the demand that the next slower one cannot reach in time. `active` covers a
newsvendor quantile of the capacity required until the nearest wake could serve; `active` plus the
replicas kept ready to wake cover the same until an unprepared one could. A rung between is given
replicas only if holding one costs less than the active replica that it saves. Below it all lies the
sustained load: mean demand at no more than the utilisation that queues stay short at.

`tier_needs` takes all targets at once; `tier_need` is the same for one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from policies.arrays import FloatArray
from policies.keys import TargetKey
from policies.ladder import draws, stable_salt, undominated
from policies.leadtime import LeadTime
from policies.newsvendor import Samples, critical_ratio, shortage_cost_per_s, upper_quantiles, whole_replicas
from policies.required import at_steps, lead_steps
from policies.types import COLD, TargetSpec, TierSpec

CACHED_LADDERS = 8_192
"""Ladders, and draws by step, kept from one decision to the next: a fleet of some thousand targets."""


@dataclass(frozen=True, slots=True)
class TierNeed:
    """Replicas that a target needs per rung, and the horizons that they stand on."""

    active: int
    warm: Mapping[str, int]
    """Replicas to hold in the tiers between active and the snapshot cache (standby, parked)."""
    wake: TierSpec
    """Where the next replica comes from."""
    cover_s: float
    """Mean seconds until that wake could serve, the wait for the next decision included."""
    ratio: float
    """Newsvendor quantile of the active tier."""


@dataclass(frozen=True, slots=True)
class Wakes:
    """Where a target's replicas could wake from: what must be held per replica, and the first that need not."""

    held: tuple[TierSpec, ...]
    """Nearest first, each nearer than `unprepared` and cheaper to hold than an active replica."""
    unprepared: TierSpec
    mean_s: Mapping[str, float]
    """Mean lead time per tier name, in seconds."""


def tier_needs(
    targets: tuple[TargetSpec, ...],
    required: Samples,
    step_ends_s: FloatArray,
    tick_s: float,
    snapshot_near: Collection[TargetKey],
    sustained: Mapping[TargetKey, float],
) -> dict[TargetKey, TierNeed]:
    """Return the need per rung of each target from the capacity that it requires.

    `required` is (targets, paths, steps), running maxima in replicas, in the order of `targets`.
    `snapshot_near` holds the targets with a snapshot near a usable GPU; `sustained` is the capacity, in
    replicas, that a target's mean demand needs whatever may come (0 where it is left out). Draws of a lead
    time depend on the target's key alone, never on what other targets there are.
    """
    wakes = [wakes_from(t.ladder, t.key in snapshot_near) for t in targets]
    asked = [(i, tier) for i, w in enumerate(wakes) for tier in (*w.held, w.unprepared)]
    rows = np.array([i for i, _ in asked], np.intp)
    salts = [stable_salt(str(t.key)) for t in targets]
    ends = tuple(step_ends_s.tolist())
    steps = [_drawn_steps(tier.lead_time, required.shape[1], salts[i], tick_s, ends) for i, tier in asked]
    ratios = np.array([critical_ratio(shortage_cost_per_s(t), t.ladder[0].holding_cost) for t in targets])
    if not asked:
        return {}
    quantiles = upper_quantiles(at_steps(required, rows, np.stack(steps)), ratios[rows])
    covering = iter(quantiles.tolist())
    needs = {}
    for target, wake, ratio in zip(targets, wakes, ratios.tolist(), strict=True):
        least = sustained.get(target.key, 0.0)
        counts = [whole_replicas(max(next(covering), least)) for _ in range(len(wake.held) + 1)]
        needs[target.key] = _by_rung(wake, counts, tick_s, ratio)
    return needs


def tier_need(
    target: TargetSpec,
    required: Samples,
    step_ends_s: FloatArray,
    tick_s: float,
    snapshot_near: bool,
    sustained: float = 0.0,
) -> TierNeed:
    """Return `tier_needs` for one target, whose required capacity is (paths, steps)."""
    near = {target.key} if snapshot_near else set()
    needs = tier_needs((target,), required[None], step_ends_s, tick_s, near, {target.key: sustained})
    return needs[target.key]


@lru_cache(maxsize=CACHED_LADDERS)
def wakes_from(ladder: tuple[TierSpec, ...], snapshot_near: bool) -> Wakes:
    """Return the rungs that a replica can come from now: without a snapshot near a GPU, those beyond it only.

    Standby and parked hold a process each and so a share of a GPU; a staged artifact serves any number of
    wakes, so the first such rung needs nothing prepared. If nothing is left, it is the last of the ladder.
    """
    rungs = [t for t in undominated(ladder)[1:] if snapshot_near or not t.needs_snapshot] or [ladder[-1]]
    means = {t.name: t.lead_time.mean_s for t in rungs}
    unprepared = next((t for t in rungs if not _held_per_replica(t)), ladder[-1])
    until_s = means.setdefault(unprepared.name, unprepared.lead_time.mean_s)
    cheaper = [t for t in rungs if _held_per_replica(t) and t.holding_cost < ladder[0].holding_cost]
    return Wakes(tuple(t for t in cheaper if means[t.name] < until_s), unprepared, means)


def _by_rung(wakes: Wakes, counts: list[int], tick_s: float, ratio: float) -> TierNeed:
    """Return the need from `counts`, replicas that must be there until each rung could serve, nearest first.

    Each rung holds what must be there until the next farther one could serve and need not be nearer.
    """
    active, wake = counts[-1], wakes.unprepared
    warm: dict[str, int] = {}
    for tier, nearer in zip(reversed(wakes.held), reversed(counts[:-1]), strict=True):
        if nearer < active:
            warm[tier.name] = active - nearer
            active, wake = nearer, tier
    return TierNeed(active, warm, wake, wakes.mean_s[wake.name] + tick_s, ratio)


@lru_cache(maxsize=CACHED_LADDERS)
def _drawn_steps(
    lead_time: LeadTime, n_paths: int, salt: int, tick_s: float, ends_s: tuple[float, ...]
) -> NDArray[np.uint16]:
    """Return, per path, the step until whose end demand must be covered: (paths,) indices, read-only."""
    steps = lead_steps(np.array(ends_s), draws(lead_time, n_paths, salt) + tick_s).astype(np.uint16)
    steps.flags.writeable = False  # cached, so shared
    return steps


def _held_per_replica(tier: TierSpec) -> bool:
    return tier.name != COLD and tier.gpu_share > 0
