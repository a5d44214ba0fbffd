"""Distributions cut into equal shares: how any weighted sample becomes the quantiles of a lead time.

The mean of each share, not its midpoint, so that rare long values keep their weight in the mean.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from policies.types import FloatArray

QUANTILES: Final = 41
"""Odd, so that one share holds the median; enough that the top one is the last 2.4%."""


def share_means(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Means of QUANTILES equal shares of a discrete distribution, ascending, in the unit of `values`.

    `values` ascend; `weights` (same shape) are not negative and sum to more than 0. A value whose
    weight crosses the edge of a share counts in both by the part that lies there, so the mean of
    the shares is exactly the weighted mean.
    """
    cumulative = np.concatenate(([0.0], np.cumsum(weights)))
    sums = np.concatenate(([0.0], np.cumsum(values * weights)))
    edges = np.linspace(0.0, cumulative[-1], QUANTILES + 1)
    means = np.diff(np.interp(edges, cumulative, sums)) * (QUANTILES / cumulative[-1])
    # A share within one value may come out a rounding error below the one before it.
    ascending: FloatArray = np.maximum.accumulate(np.clip(means, values[0], values[-1]))
    return ascending


def seconds(values_s: FloatArray) -> tuple[float, ...]:
    """The array as the tuple that a LeadTime takes."""
    return tuple(values_s.tolist())
