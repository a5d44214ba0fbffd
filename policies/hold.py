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

from policies.arrays import FloatArray


def worth_holding(
    need: FloatArray, step_ends_s: FloatArray, level: int, holding_cost_per_s: float, return_cost: float
) -> bool:
    """Whether the `level`-th unit should be kept; `need` is (paths, steps), running maxima.

    The unit is needed on a path as soon as the need exceeds `level - 1`.
    """
    needed_share = np.count_nonzero(need > level - 1 + 1e-9, axis=0) / need.shape[0]
    steps_s = np.diff(step_ends_s, prepend=0.0)
    # Within its step a first need is taken to come at the step's middle.
    before = np.concatenate(([0.0], needed_share[:-1]))
    expected_hold_s = float(np.sum(steps_s * (1.0 - (before + needed_share) / 2.0)))
    return expected_hold_s * holding_cost_per_s < float(needed_share[-1]) * return_cost


def held_units(
    need: FloatArray,
    step_ends_s: FloatArray,
    floor: int,
    have: int,
    holding_cost_per_s: float,
    return_cost: float,
) -> int:
    """Units to keep, between `floor` and `have`: the highest level still worth holding.

    A higher unit is needed later on every path, so worth falls with the level and bisection finds
    the edge.
    """
    low, high = floor, max(have, floor)
    while low < high:
        middle = (low + high + 1) // 2
        if worth_holding(need, step_ends_s, middle, holding_cost_per_s, return_cost):
            low = middle
        else:
            high = middle - 1
    return low
