"""Spare GPUs: one number for the whole pool, because any model can wake on any spare.

Snapshots are a target's own, spare GPUs are not. So the spares are a quantile of the *sum* over
targets of the capacity that each will require above its active replicas before the next slower GPU
supply could deliver, on joint sample paths: targets that surge together are counted together, and
those that do not share one reserve. `spares_apart` sizes a reserve for each target alone, as an
autoscaler without shared snapshots must; the difference is what pooling saves.

The need is taken moment by moment until the next supply could serve, so that a surge of a second does
not count as one of the whole wait.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.arrays import FloatArray
from policies.hold import held_units
from policies.ladder import draws
from policies.newsvendor import critical_ratio, least_short_share, shortage_cost_per_s
from policies.types import SupplyStep, TargetSpec


@dataclass(frozen=True, slots=True)
class SpareNeed:
    gpus: int
    held: int
    """At least `gpus`: some above it may be worth keeping a while longer."""
    cover_s: float
    """Mean seconds until a GPU from the next supply could serve."""
    ratio: float


def excess_gpus(required: FloatArray, active: FloatArray, gpus_per_replica: FloatArray) -> FloatArray:
    """GPUs required above the active replicas, step by step: (targets, paths, steps), whole replicas each."""
    above = np.ceil(required - active[:, None, None] - 1e-9)
    np.maximum(above, 0.0, out=above)
    above *= gpus_per_replica[:, None, None]
    return above


def supply_lead_s(supply: SupplyStep, wake_mean_s: float, tick_s: float, n_paths: int, salt: int) -> FloatArray:
    """Draws of the time from now until a GPU of the next supply could serve, (paths,) seconds."""
    return draws(supply.lead_time, n_paths, salt) + wake_mean_s + tick_s


def pooled_ratio(targets: tuple[TargetSpec, ...], excess: FloatArray) -> float:
    """Newsvendor quantile of the pool: shortage costs per GPU, weighted by who is likely to be short."""
    per_gpu = np.array([shortage_cost_per_s(t) / t.gpus_per_replica for t in targets])
    weight = excess.mean(axis=1) if excess.size else np.zeros(len(targets))
    cost = float(np.average(per_gpu, weights=weight)) if weight.sum() > 0 else float(per_gpu.mean())
    return critical_ratio(cost, 1.0)


def spare_need(
    targets: tuple[TargetSpec, ...],
    excess: FloatArray,
    step_ends_s: FloatArray,
    lead_s: FloatArray,
    supply: SupplyStep,
    have: int,
) -> SpareNeed:
    """Spare GPUs for `excess` (targets, paths, steps), given `have` spare now."""
    total = excess.sum(axis=0)
    ratio = pooled_ratio(targets, excess[:, :, -1])
    gpus = least_short_share(total, _until(step_ends_s, lead_s), ratio)
    running = np.maximum.accumulate(total, axis=-1)
    held = held_units(running, step_ends_s, gpus, have, 1.0 - supply.holding_cost, supply.taking_cost)
    return SpareNeed(gpus, held, float(lead_s.mean()), ratio)


def spares_apart(
    targets: tuple[TargetSpec, ...], excess: FloatArray, step_ends_s: FloatArray, lead_s: FloatArray
) -> int:
    """Sum of the spare GPUs that each target would need for itself."""
    weight = _until(step_ends_s, lead_s)
    return sum(
        least_short_share(excess[i], weight, pooled_ratio((t,), excess[i : i + 1, :, -1]))
        for i, t in enumerate(targets)
    )


def _until(step_ends_s: FloatArray, lead_s: FloatArray) -> FloatArray:
    """Seconds of each step that lie before the lead time of its path, (paths, steps)."""
    begins_s = np.concatenate(([0.0], step_ends_s[:-1]))
    until_s: FloatArray = np.clip(lead_s[:, None] - begins_s, 0.0, step_ends_s - begins_s)
    return until_s
