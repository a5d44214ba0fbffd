"""Distributions cut into equal shares: how any weighted sample becomes the quantiles of a lead time.

The mean of each share, not its midpoint, so that rare long values keep their weight in the mean.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from policies.arrays import FloatArray

QUANTILES: Final = 41
"""Odd, so that one share holds the median; enough that the top one is the last 2.4%."""
EDGES: Final = np.linspace(0.0, 1.0, QUANTILES + 1)


def share_means(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Means of QUANTILES equal shares of a discrete distribution, ascending, in the unit of `values`.

    `values` ascend; `weights` (same shape) are not negative and sum to more than 0. A value whose
    weight crosses the edge of a share counts in both by the part that lies there, so the mean of
    the shares is exactly the weighted mean.
    """
    return from_integral(integral(values, weights / weights.sum()))


def integral(values: FloatArray, masses: FloatArray) -> FloatArray:
    """Integral of the quantile function from 0 to each of EDGES, (QUANTILES + 1,).

    `values` ascend; `masses` (same shape) sum to 1 or, where a tail is added by the caller, to less:
    beyond their sum the integral stays level.
    """
    sums = np.zeros((2, len(values) + 1))
    np.cumsum(masses, out=sums[0, 1:])
    np.cumsum(values * masses, out=sums[1, 1:])
    area: FloatArray = np.interp(EDGES, sums[0], sums[1])
    return area


def from_integral(area: FloatArray) -> FloatArray:
    """Means of equal shares from the integral of the quantile function at EDGES."""
    # A share within one value may come out a rounding error below the one before it.
    means: FloatArray = np.maximum.accumulate(np.maximum(np.diff(area) * QUANTILES, 0.0))
    return means


def seconds(values_s: FloatArray) -> tuple[float, ...]:
    """The array as the tuple that a LeadTime takes."""
    return tuple(values_s.tolist())
