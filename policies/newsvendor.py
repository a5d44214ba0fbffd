"""The newsvendor: how sure to be, from what a shortage costs and what holding costs.

Arrow, Harris and Marschak, "Optimal Inventory Policy", Econometrica 19 (1951): stock up to the
quantile c_miss / (c_miss + c_hold) of demand. Here demand is the capacity that sample paths require
(`required.py`), the cost of one replica short for one second is the requests that it would have
served times what a miss costs, and the holding cost is the tier's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.arrays import FloatArray
from policies.types import TargetSpec

Samples = NDArray[np.floating[Any]]
"""Sample arrays of any float width: forecasts come in float32, hand-made ones in float64."""

ROUNDING_REPLICAS = 1e-3
"""Capacity that rounding may add. A float32 sum over some twenty steps is off by less than 1e-6 of itself,
which is this much at a thousand replicas; no measured demand is known to a thousandth of a replica."""


def critical_ratio(miss_cost_per_s: float, holding_cost_per_s: float) -> float:
    """Return the quantile in [0, 1] at which one more unit costs as much to hold as it saves in misses."""
    total = miss_cost_per_s + holding_cost_per_s
    return miss_cost_per_s / total if total > 0 else 1.0


def shortage_cost_per_s(target: TargetSpec) -> float:
    """Return the GPU-seconds that one replica short costs per second: the requests it would have served in time."""
    return target.rated_rps * target.miss_cost


def upper_quantiles(samples: Samples, ratios: FloatArray) -> FloatArray:
    """Return, per row, the smallest sample that at least a share `ratios` of the row does not exceed.

    `samples` is (rows, samples), `ratios` (rows,) in [0, 1]; the result is (rows,). Each is a sample, never a
    value between two: capacity is bought whole, and the estimate must not fall when one sample rises.
    """
    n = samples.shape[-1]
    rank = np.clip(np.ceil(ratios * n).astype(np.int64) - 1, 0, n - 1)
    ordered = np.sort(samples, axis=-1)
    return np.take_along_axis(ordered, rank[:, None], axis=-1)[:, 0].astype(np.float64)


def whole_replicas(capacity: float) -> int:
    """Return the least count of replicas that gives `capacity`, up to `ROUNDING_REPLICAS`."""
    return max(math.ceil(capacity - ROUNDING_REPLICAS), 0)


def least_short_share(need: Samples, weight: Samples, ratio: float) -> int:
    """Return the fewest whole units that are short for no more than `1 - ratio` of the weight.

    `need` and `weight` have one shape and at least one entry. A unit held all the while costs for all of it
    and helps only where it is needed, so the newsvendor's probability is the share of time short, not the
    chance of being short at any moment. At a ratio of 1 (holding costs nothing) it is the largest need that has a
    weight, so the answer is always finite.
    """
    allowed = (1.0 - ratio) * float(weight.sum(dtype=np.float64))
    whole = np.ceil(need - ROUNDING_REPLICAS).clip(0.0).astype(np.int64)
    weight_by_need = np.bincount(whole.ravel(), weights=weight.ravel())
    # Summed from the top, so that nothing is left above the largest need.
    short_at = np.concatenate((np.cumsum(weight_by_need[::-1])[-2::-1], (0.0,)))
    return int(np.argmax(short_at <= allowed))
