"""Demand in bins of five minutes over weeks, for the slow shape (`shape.py`). Gaps are NaN."""

from __future__ import annotations

import numpy as np

from autoscaler.forecast.record import RollingArray
from policies.types import FloatArray

BIN_S = 300.0
KEEP_BINS = 21 * 288
"""Three weeks: two full weeks for a weekly season and one more for its judgement."""


class FiveMinuteBins:
    """Means per target of complete bins; bins begin at multiples of BIN_S."""

    def __init__(self, n_targets: int) -> None:
        self._n = n_targets
        self._sum = np.zeros(n_targets)
        self._count = np.zeros(n_targets)
        self._means = RollingArray(n_targets, KEEP_BINS)
        self.open_bin = -1
        """Number of the bin that is being filled; the newest complete one is the one before."""

    @property
    def means(self) -> FloatArray:
        """(targets, bins), oldest first; the last is bin `open_bin - 1`."""
        return self._means.view

    def append(self, start_s: float, period_s: float, demand: FloatArray) -> None:
        """Add (targets, n) samples; bins between that had none become NaN."""
        if demand.shape[1] == 0:
            return
        bins = np.floor((start_s + np.arange(demand.shape[1]) * period_s) / BIN_S + 1e-9).astype(np.int64)
        if self.open_bin < 0:
            self.open_bin = int(bins[0])
        begins = np.flatnonzero(np.diff(bins, prepend=bins[0] - 1))
        valid = np.isfinite(demand)
        sums = np.add.reduceat(np.where(valid, demand, 0.0), begins, axis=1)
        counts = np.add.reduceat(valid, begins, axis=1, dtype=np.float64)
        span = int(bins[-1]) - self.open_bin + 1
        if span == 1:
            self._sum += sums[:, 0]
            self._count += counts[:, 0]
            return
        all_sums, all_counts = np.zeros((self._n, span)), np.zeros((self._n, span))
        at = bins[begins] - self.open_bin
        all_sums[:, at], all_counts[:, at] = sums, counts
        all_sums[:, 0] += self._sum
        all_counts[:, 0] += self._count
        means = np.where(all_counts > 0, all_sums / np.maximum(all_counts, 1.0), np.nan)
        self._means.append(means[:, :-1])
        self._sum, self._count = all_sums[:, -1], all_counts[:, -1]
        self.open_bin = int(bins[-1])
