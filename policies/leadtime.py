"""Lead times: a distribution of seconds from decision to Ready, with its failures kept apart.

An attempt takes `S` seconds. With probability `1 - p` it succeeds then; with probability `p` it has
failed by then and its fallback (the cold start after a failed restore) takes `F` seconds more, with
`S` and `F` independent. Failures are rare and long: averaged into the quantiles they would vanish
below the newsvendor quantile on every sample path, so `ladder.draws` draws them instead. How a lead
time is computed from measured parts, and learnt from outcomes, is in `autoscaler/leadtimes/`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from math import isfinite

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class LeadTime:
    """Mixture of an attempt that succeeds and one that fails and falls back, in seconds.

    `quantiles_s` are equally likely values of one attempt (midpoints or means of equal shares),
    ascending. `failure_probability` is the share of attempts that fail, and `after_failure_s` are
    equally likely values of the fallback on top of the failed attempt, ascending; it may be empty
    only if the probability is 0. Raises ValueError, with field, value and hint, for anything else.
    """

    quantiles_s: tuple[float, ...]
    failure_probability: float = 0.0
    after_failure_s: tuple[float, ...] = ()
    mean_s: float = field(init=False, compare=False, repr=False)
    """Mean of the mixture: mean attempt + `failure_probability` times the mean fallback."""

    def __post_init__(self) -> None:
        if not self.quantiles_s:
            raise ValueError("quantiles_s: () is empty; give at least one value")
        _check_quantiles("quantiles_s", self.quantiles_s)
        _check_quantiles("after_failure_s", self.after_failure_s)
        if not 0.0 <= self.failure_probability <= 1.0:
            raise ValueError(f"failure_probability: {self.failure_probability} is no probability; give 0 to 1")
        if self.failure_probability > 0 and not self.after_failure_s:
            raise ValueError("after_failure_s: () is empty although attempts fail; give the fallback's quantiles")
        fallback_s = self.failure_probability * _mean(self.after_failure_s) if self.failure_probability else 0.0
        object.__setattr__(self, "mean_s", _mean(self.quantiles_s) + fallback_s)

    def at(self, probability: float) -> float:
        """Quantile of the mixture at `probability` in [0, 1], seconds; never falls as `probability` grows.

        A step function: the smallest value that more than `probability` of the mixture's weight does
        not exceed (the largest at 1). Its mean over all probabilities is `mean_s`. Raises ValueError
        outside [0, 1].
        """
        if not 0.0 <= probability <= 1.0:
            raise ValueError(f"probability: {probability} is no probability; give 0 to 1")
        if self.failure_probability == 0:
            n = len(self.quantiles_s)
            return self.quantiles_s[min(int(probability * n), n - 1)]
        values_s, cumulative = _mixture(self)
        return float(values_s[min(int(np.searchsorted(cumulative, probability, side="right")), len(values_s) - 1)])

    def atoms(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Every value of the mixture, seconds ascending, and its weight; weights sum to 1."""
        attempt_s, p = np.asarray(self.quantiles_s), self.failure_probability
        if p == 0:
            return attempt_s, np.full(len(attempt_s), 1.0 / len(attempt_s))
        failed_s = np.add.outer(attempt_s, self.after_failure_s).ravel()
        values_s = np.concatenate((attempt_s, failed_s))
        weights = np.repeat(((1.0 - p) / len(attempt_s), p / len(failed_s)), (len(attempt_s), len(failed_s)))
        order = np.argsort(values_s, kind="stable")
        return values_s[order], weights[order]


def _check_quantiles(name: str, quantiles_s: tuple[float, ...]) -> None:
    # Thousands a pass are made, nearly all sound: one look by C code passes them. NaN shows in the sum.
    if not quantiles_s or (
        isfinite(sum(quantiles_s)) and quantiles_s[0] >= 0.0 and sorted(quantiles_s) == list(quantiles_s)
    ):
        return
    previous = 0.0
    for value in quantiles_s:
        if not 0.0 <= value < float("inf"):
            raise ValueError(f"{name}: {value} is not finite or is negative; give seconds, 0 or more")
        if value < previous:
            raise ValueError(f"{name}: {value} follows {previous}; give quantiles that ascend")
        previous = value


def _mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)


@lru_cache(maxsize=256)
def _mixture(lead_time: LeadTime) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values of the mixture and their cumulative weights: kept, because a simulation asks for each draw."""
    values_s, weights = lead_time.atoms()
    held = weights > 0  # at a probability of 1 no attempt succeeds
    return values_s[held], np.cumsum(weights[held])
