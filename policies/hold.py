"""Hold or release: the cost of being wrong against the cost of waiting to see.

A unit (a replica, a spare GPU) above the need is released when keeping it until it is next needed,
or until the end of the horizon, costs more than releasing it and taking it back would:

    E[min(T, horizon)] * holding cost   >   P(T <= horizon) * cost of taking it back

with T the first moment at which a sample path needs the unit. Hysteresis thus follows from what a
restore, a drain and a reclaim cost, not from a window of minutes: with wakes of a second, replicas
are let go within seconds; with cold starts of a minute they are kept through a lull.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies.arrays import FloatArray
from policies.newsvendor import ROUNDING_REPLICAS, Samples
from policies.required import blocks

Counts = NDArray[np.int64]


def held_counts(
    need: Samples,
    step_ends_s: FloatArray,
    floor: Counts,
    have: Counts,
    holding_cost_per_s: FloatArray,
    return_cost: FloatArray,
) -> Counts:
    """Return the units to keep of each target, between `floor` and `have`: the highest level worth holding.

    `need` is (targets, paths, steps), running maxima; the others are (targets,) in the same order, costs in
    GPU-seconds per unit (and second). A higher unit is needed later on every path, so worth falls with the
    level and bisection finds the edge.
    """
    held = floor.copy()
    steps = need.transpose(0, 2, 1)
    rows = np.flatnonzero(have > floor)
    rows = rows[
        _may_be_worth(steps[rows, -1], step_ends_s[-1], floor[rows], holding_cost_per_s[rows], return_cost[rows])
    ]
    for block in blocks(len(rows), need.shape[1]):
        r = rows[block]
        held[r] = _bisect(steps[r], step_ends_s, floor[r], have[r], holding_cost_per_s[r], return_cost[r])
    return held


def held_units(
    need: Samples, step_ends_s: FloatArray, floor: int, have: int, holding_cost_per_s: float, return_cost: float
) -> int:
    """Return `held_counts` for one target or pool, whose `need` is (paths, steps)."""
    held = held_counts(
        need[None],
        step_ends_s,
        np.array([floor], np.int64),
        np.array([have], np.int64),
        np.array([holding_cost_per_s]),
        np.array([return_cost]),
    )
    return int(held[0])


def worth_holding(
    steps: Samples, step_ends_s: FloatArray, level: Counts, holding_cost_per_s: FloatArray, return_cost: FloatArray
) -> NDArray[np.bool_]:
    """Return whether the `level`-th unit of each target should be kept; (targets,) all but the first two.

    `steps` is (targets, steps, paths), running maxima of the need. The unit is needed on a path as soon as
    the need exceeds `level - 1`.
    """
    above = steps > (level - 1 + ROUNDING_REPLICAS).astype(steps.dtype)[:, None, None]
    needed_share = np.count_nonzero(above, axis=-1) / steps.shape[-1]
    steps_s = np.diff(step_ends_s, prepend=0.0)
    # Within its step a first need is taken to come at the step's middle.
    before = np.concatenate((np.zeros((len(level), 1)), needed_share[:, :-1]), axis=1)
    expected_hold_s = (1.0 - (before + needed_share) / 2.0) @ steps_s
    worth: NDArray[np.bool_] = expected_hold_s * holding_cost_per_s < needed_share[:, -1] * return_cost
    return worth


def _may_be_worth(
    last: Samples, horizon_s: float, floor: Counts, holding_cost_per_s: FloatArray, return_cost: FloatArray
) -> NDArray[np.bool_]:
    """Return False where even the first unit above the floor is not worth it, by the last step alone.

    Paths that never need the unit hold it for the whole horizon. This spares most targets the look at
    every step.
    """
    share = np.count_nonzero(last > (floor + ROUNDING_REPLICAS).astype(last.dtype)[:, None], axis=-1) / last.shape[-1]
    may: NDArray[np.bool_] = (1.0 - share) * horizon_s * holding_cost_per_s <= share * return_cost
    return may


def _bisect(
    steps: Samples,
    step_ends_s: FloatArray,
    floor: Counts,
    have: Counts,
    holding_cost_per_s: FloatArray,
    return_cost: FloatArray,
) -> Counts:
    low, high = floor.copy(), have.copy()
    while np.any(low < high):
        middle = (low + high + 1) // 2
        worth = worth_holding(steps, step_ends_s, middle, holding_cost_per_s, return_cost)
        open_ = low < high
        low = np.where(open_ & worth, middle, low)
        high = np.where(open_ & ~worth, middle - 1, high)
    return low
