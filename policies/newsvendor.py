"""The newsvendor: how sure to be, from what a shortage costs and what holding costs.

Arrow, Harris and Marschak, "Optimal Inventory Policy", Econometrica 19 (1951): stock up to the
quantile c_miss / (c_miss + c_hold) of demand. Here demand is the capacity that sample paths require
(`required.py`), the cost of one replica short for one second is the requests that it would have
served times what a miss costs, and the holding cost is the tier's.
"""

from __future__ import annotations

import math

import numpy as np

from policies.arrays import FloatArray
from policies.types import TargetSpec


def critical_ratio(miss_cost_per_s: float, holding_cost_per_s: float) -> float:
    """Quantile in [0, 1] at which one more unit costs as much to hold as it saves in misses."""
    total = miss_cost_per_s + holding_cost_per_s
    return miss_cost_per_s / total if total > 0 else 1.0


def shortage_cost_per_s(target: TargetSpec) -> float:
    """GPU-seconds that one replica short costs per second: the requests it would have served in time."""
    return target.rated_rps * target.miss_cost


def upper_quantile(samples: FloatArray, ratio: float) -> float:
    """The smallest sample that at least a share `ratio` of the samples does not exceed.

    A sample, never a value between two: capacity is bought whole, and the estimate must not fall
    when one sample rises.
    """
    n = samples.shape[-1]
    k = min(max(math.ceil(ratio * n) - 1, 0), n - 1)
    return float(np.partition(samples, k)[k])


def whole_replicas(capacity: float) -> int:
    """Replicas that give at least `capacity`, forgiving the rounding of a sum of floats."""
    return max(math.ceil(capacity - 1e-9), 0)


def least_short_share(need: FloatArray, weight: FloatArray, ratio: float) -> int:
    """The fewest whole units that are short for no more than `1 - ratio` of the weight.

    `need` and `weight` have one shape. A unit held all the while costs for all of it and helps only
    where it is needed, so the newsvendor's probability is the share of time short, not the chance of
    being short at any moment.
    """
    allowed = (1.0 - ratio) * float(weight.sum())
    low, high = 0, whole_replicas(float(need.max(initial=0.0)))
    while low < high:
        middle = (low + high) // 2
        if float(weight[need > middle + 1e-9].sum()) <= allowed:
            high = middle
        else:
            low = middle + 1
    return low
