"""Survival: the distribution of a duration of which some samples are only known to be longer.

Body: the product-limit estimate, weighted (Kaplan and Meier, Nonparametric estimation from incomplete
observations, J. Am. Stat. Assoc. 53, 1958). Dropping a pending start would estimate from the quick
ones alone; counting it at its elapsed time would call it done. The product-limit estimate takes it
into the number at risk until then and no longer.

Tail: where the longest sample is still pending, the estimate ends above zero. It is completed by the
exponential through its last point (Brown, Hollander and Korwar, Nonparametric tests of independence for
censored data, in Reliability and Biometry, SIAM 1974): S(t) = exp(t ln S(c) / c) for t beyond c.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autoscaler.leadtimes.shares import EDGES, from_integral, integral
from policies.arrays import FloatArray


def survival_shares(durations: FloatArray, weights: FloatArray, ended: NDArray[np.bool_]) -> FloatArray:
    """Means of equal shares of the estimated duration, ascending, in the unit of `durations`.

    Arrays are (samples,); `ended` is False where the true duration is longer than the one given.
    At least one sample has ended, all weights are above 0, and the longest duration is above 0.
    A further sample that has not ended raises no share's survival less than before: every share's
    mean stays or grows.
    """
    order = np.lexsort((~ended, durations))  # of equal durations the ended first: the others lasted longer
    durations, weights, ended = durations[order], weights[order], ended[order]
    at_risk = np.cumsum(weights[::-1])[::-1]
    hazard = np.where(ended, weights / at_risk, 0.0)
    survival = np.cumprod(1.0 - hazard)
    masses = hazard * np.concatenate(([1.0], survival[:-1]))
    area = integral(durations[ended], masses[ended])
    if not ended[-1]:
        area = area + _exponential_tail(float(durations[-1]), float(survival[-1]))
    return from_integral(area)


def _exponential_tail(last: float, left: float) -> FloatArray:
    """Integral of the quantile function over the mass `left` beyond `last`, to each of EDGES."""
    mean_beyond = last / -np.log(left)
    share = np.clip((EDGES - (1.0 - left)) / left, 0.0, 1.0)
    rest = 1.0 - share
    entropy = rest * np.log(np.where(rest > 0, rest, 1.0))  # x ln x goes to 0 with x
    area: FloatArray = left * (last * share + mean_beyond * (share + entropy))
    return area
