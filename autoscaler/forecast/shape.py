"""The slow shape of demand: the hour of the day and the day of the week, once enough of them are known.

A harmonic regression (Fourier terms of the day, and of the week from a week on, by ordinary least
squares in statsmodels; Hyndman and Athanasopoulos, Forecasting: Principles and Practice, 7.4) on the
logarithm of ten-minute means says by which factor demand usually differs between now and later. The
level of the moment is not its business: only the ratio is used, and only for horizons over a minute,
where the shape moves at all.
"""

from __future__ import annotations

import numpy as np
import statsmodels.api as sm

from policies.arrays import FloatArray

BIN_S = 600.0
DAY_S = 86400.0
LEAST_BINS = 36
"""Six hours: with less, a Fourier term of the day would fit the trend of the morning."""
REFIT_EVERY_S = 1800.0
HARMONICS_DAY, HARMONICS_WEEK = 4, 2
MOST_RATIO_PER_HOUR = 4.0


class SlowShape:
    """Ten-minute means of each target, and the ratio between two moments that they teach."""

    def __init__(self, n_targets: int) -> None:
        self._n = n_targets
        self._bins: dict[int, FloatArray] = {}
        self._sum = np.zeros(n_targets)
        self._count = np.zeros(n_targets)
        self._bin = -1
        self._weights: FloatArray | None = None
        self._week = False
        self._fitted_s = -np.inf

    def update(self, start_s: float, period_s: float, demand_replicas: FloatArray) -> None:
        """Add samples; a bin is kept when the next begins."""
        n = demand_replicas.shape[1]
        bins = ((start_s + np.arange(n) * period_s) // BIN_S).astype(int)
        for bin_ in np.unique(bins):
            if bin_ != self._bin:
                self._close()
                self._bin = int(bin_)
            samples = demand_replicas[:, bins == bin_]
            self._sum += np.nansum(samples, axis=1)
            self._count += np.isfinite(samples).sum(axis=1)

    def _close(self) -> None:
        if self._bin >= 0 and self._count.any():
            with np.errstate(invalid="ignore", divide="ignore"):
                self._bins[self._bin] = self._sum / self._count
        self._sum, self._count = np.zeros(self._n), np.zeros(self._n)

    def ratio(self, now_s: float, ends_s: FloatArray) -> FloatArray:
        """Expected demand at each step end over that of now, (targets, steps); ones while unknown."""
        if len(self._bins) < LEAST_BINS:
            return np.ones((self._n, len(ends_s)))
        if now_s - self._fitted_s >= REFIT_EVERY_S:
            self._fitted_s = now_s
            self._fit()
        assert self._weights is not None
        terms = _terms(np.concatenate(([now_s], now_s + ends_s)), self._week)
        fitted = self._weights @ terms.T
        log_ratio = fitted[:, 1:] - fitted[:, :1]
        bound = np.log(MOST_RATIO_PER_HOUR) * np.maximum(ends_s, 60.0) / 3600.0
        ratio: FloatArray = np.exp(np.clip(log_ratio, -bound, bound))
        ratio[:, ends_s < 60.0] = 1.0
        return ratio

    def _fit(self) -> None:
        bins = np.array(sorted(self._bins))
        means = np.array([self._bins[b] for b in bins])
        span_s = (bins[-1] - bins[0]) * BIN_S
        self._week = bool(span_s >= 7 * DAY_S)
        terms = _terms((bins + 0.5) * BIN_S, self._week)
        weights = np.zeros((self._n, terms.shape[1]))
        for i in range(self._n):
            valid = np.isfinite(means[:, i]) & (means[:, i] > 0)
            if valid.sum() >= LEAST_BINS:
                # A trend term beside the harmonics keeps a day of growth out of them.
                design = np.column_stack((terms[valid], bins[valid] - bins[0]))
                weights[i] = sm.OLS(np.log(means[valid, i]), design).fit().params[: terms.shape[1]]
        self._weights = weights


def _terms(at_s: FloatArray, week: bool) -> FloatArray:
    """Constant and Fourier terms, (moments, terms)."""
    columns = [np.ones(len(at_s))]
    periods = [(DAY_S, HARMONICS_DAY)] + ([(7 * DAY_S, HARMONICS_WEEK)] if week else [])
    for period_s, harmonics in periods:
        for k in range(1, harmonics + 1):
            angle = 2 * np.pi * k * at_s / period_s
            columns += [np.sin(angle), np.cos(angle)]
    return np.column_stack(columns)
