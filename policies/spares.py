"""Spare GPUs: how many must be how near, for the whole pool at once, since any model can wake on any spare.

Snapshots are a target's own, spare GPUs are not. So the spares are a quantile of the *sum* over
targets of the capacity that each will require above its active replicas before a slower GPU supply could
deliver, on joint sample paths: targets that surge together are counted together, and those that do not
share one reserve. With `pooled=False` each target gets a reserve of its own, as an autoscaler without
shared snapshots must; the difference is what pooling saves.

**The supply is a ladder** (free, lent to preemptible work, a new node, ...) and is sized as the tiers are:
free GPUs cover what is needed before the next step could deliver, free and lent ones together what is
needed before the step after that could, and so on; the last is unlimited and never held. Holding a GPU
at a step instead of leaving it at the next costs the difference of their holding costs (the echelon
cost: Clark and Scarf, "Optimal Policies for a Multi-Echelon Inventory Problem", Management Science 6,
1960); this sets the step's newsvendor quantile, and how long GPUs above the need are kept.

**Need is counted in shapes.** A target of 4 GPUs a replica needs them in whole groups of 4 on one node, so
its excess is in whole replicas. `shape` is the greatest group that the number relies on. Keep the GPUs in
as few pieces as it allows: whole groups of `shape`, and of the rest one group of each power of two. Then
every mix of replicas up to `shape` that adds up to the number finds its nodes, provided that sizes divide
one another (tensor parallelism comes in powers of two). Loose GPUs of the same number might serve none.

The need is taken moment by moment until the next supply could serve, so that a surge of a second does
not count as one of the whole wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from policies.arrays import FloatArray
from policies.hold import held_units
from policies.ladder import draws, stable_salt, undominated_supply
from policies.newsvendor import (
    ROUNDING_REPLICAS,
    Samples,
    critical_ratio,
    least_short_share,
    shortage_cost_per_s,
)
from policies.required import required_until
from policies.types import SupplyStep, TargetSpec


@dataclass(frozen=True, slots=True)
class SupplyNeed:
    """GPUs to keep idle at one step of the supply, over and above those at the nearer steps."""

    step: str
    gpus: int
    """What the need asks for."""
    held: int
    """What to keep: some above the need may be worth keeping a while longer. Those at a nearer step serve a
    farther one's need, so this may be less than `gpus`; summed up to any step it never is."""
    cover_s: float
    """Mean seconds until a GPU from the next step could serve; 0 at a step that another dominates."""
    ratio: float
    """Newsvendor quantile; 0 at a step that another dominates."""
    shape: int
    """GPUs of the greatest replica that this and the nearer steps together must have room for; 0 if none."""


class PoolExcess:
    """GPUs that targets require above their active replicas, summed a block of targets at a time.

    Sums are all that a pool's spares need, so no array over all targets has to be there at once. With `apart` the
    blocks are kept, for reserves of each target's own.
    """

    def __init__(self, n_steps: int, n_paths: int, *, apart: bool = False) -> None:
        """Begin with no target; all blocks have `n_steps` steps and `n_paths` paths."""
        self.targets: tuple[TargetSpec, ...] = ()
        self.total = np.zeros((n_steps, n_paths))
        """Summed over all targets: (steps, paths)."""
        self._by_shape: dict[int, FloatArray] = {}
        self._at_last: list[float] = []
        self._apart = apart
        self._kept: list[tuple[TargetSpec, Samples]] = []

    def add(self, targets: tuple[TargetSpec, ...], by_step: Samples, active: FloatArray) -> None:
        """Add targets: `by_step` (targets, paths, steps) replicas required, `active` (targets,) planned."""
        gpus = np.array([t.gpus_per_replica for t in targets], np.int64)
        steps = by_step.transpose(0, 2, 1)
        at_last = np.zeros(len(targets))
        for shape in sorted(set(gpus.tolist()), reverse=True):
            rows = np.flatnonzero(gpus == shape)
            excess = excess_gpus(steps[rows], active[rows], shape)
            summed = excess.sum(axis=0, dtype=np.float64)
            at_last[rows] = excess[:, -1].mean(axis=-1)
            self._by_shape[shape] = self._by_shape.get(shape, 0.0) + summed
            self.total += summed
            if self._apart:
                self._kept += [(targets[row], excess[i]) for i, row in enumerate(rows)]
        self.targets += targets
        self._at_last += at_last.tolist()

    def ratio(self, price_per_s: float) -> float:
        """Return the newsvendor quantile: shortage costs per GPU, weighted by which targets are likely to be short."""
        per_gpu = np.array([shortage_cost_per_s(t) / t.gpus_per_replica for t in self.targets])
        excess = np.array(self._at_last)
        cost = float(np.average(per_gpu, weights=excess)) if excess.sum() > 0 else float(per_gpu.mean())
        return critical_ratio(cost, price_per_s)

    def shape(self, weight: FloatArray, ratio: float) -> int:
        """Return the greatest shape for which the replicas of that many GPUs and more need spares by themselves."""
        summed = np.zeros_like(self.total)
        for shape in sorted(self._by_shape, reverse=True):
            summed += self._by_shape[shape]
            if least_short_share(summed, weight, ratio) > 0:
                return shape
        return 0

    def apart(self, weight: FloatArray, price_per_s: float) -> int:
        """Return the sum of the spare GPUs that each target would need for itself."""
        gpus = 0
        for target, excess in self._kept:
            ratio = critical_ratio(shortage_cost_per_s(target) / target.gpus_per_replica, price_per_s)
            gpus += least_short_share(excess, weight, ratio)
        return gpus


def supply_needs(
    excess: PoolExcess,
    step_ends_s: FloatArray,
    supply: tuple[SupplyStep, ...],
    wait_s: float,
    have: Mapping[str, int],
    *,
    pooled: bool = True,
) -> tuple[SupplyNeed, ...]:
    """Return one need for each supply step but the last, nearest first.

    A GPU of a step can serve after that step's lead time and `wait_s` more: a wake on it, and the time until the next
    decision. `have` is the GPUs idle now per step.
    A step that a nearer or cheaper one dominates gets nothing. Where holding costs nothing, the need is the
    greatest of any path before the next step could serve: as many GPUs as may be of use, and no more.
    """
    running = required_until(excess.total.T[None])[0]
    farther = _next_undominated(supply)
    needs: list[SupplyNeed] = []
    gpus = held = there = shape = 0
    for step in supply[:-1]:
        there += have.get(step.name, 0)
        if step.name not in farther or not excess.targets:
            needs.append(SupplyNeed(step.name, 0, 0, 0.0, 0.0, 0))
            continue
        after = farther[step.name]
        lead_s = draws(after.lead_time, excess.total.shape[1], stable_salt(after.name)) + wait_s
        weight = _until(step_ends_s, lead_s)
        price = max(step.holding_cost - after.holding_cost, 0.0)
        ratio = excess.ratio(price)
        alone = least_short_share(excess.total, weight, ratio) if pooled else excess.apart(weight, price)
        covered = max(gpus, alone)
        keep = max(held, held_units(running, step_ends_s, covered, there, price, after.taking_cost))
        shape = max(shape, excess.shape(weight, ratio))
        needs.append(SupplyNeed(step.name, covered - gpus, keep - held, float(lead_s.mean()), ratio, shape))
        gpus, held = covered, keep
    return tuple(needs)


def excess_gpus(required: Samples, active: FloatArray, gpus_per_replica: int) -> Samples:
    """Return the GPUs of the whole replicas required above the active ones, shape as `required`.

    `required` is (targets, ...) replicas of targets with `gpus_per_replica` each, `active` (targets,).
    """
    over = (active + ROUNDING_REPLICAS).astype(required.dtype)
    above = required - over.reshape(-1, *(1,) * (required.ndim - 1))
    np.ceil(above, out=above)
    np.maximum(above, 0.0, out=above)
    above *= gpus_per_replica
    return above


def _next_undominated(supply: tuple[SupplyStep, ...]) -> dict[str, SupplyStep]:
    """Return, per step that is worth holding GPUs at, the step that they would come from otherwise."""
    steps = undominated_supply(supply)
    return {step.name: after for step, after in pairwise(steps)}


def _until(step_ends_s: FloatArray, lead_s: FloatArray) -> FloatArray:
    """Return the seconds of each step that lie before the lead time of its path, (steps, paths)."""
    begins_s = np.concatenate(([0.0], step_ends_s[:-1]))[:, None]
    until_s: FloatArray = np.clip(lead_s - begins_s, 0.0, step_ends_s[:, None] - begins_s)
    return until_s
