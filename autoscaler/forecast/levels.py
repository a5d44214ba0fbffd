"""The fast level: smoothed demand on several time scales at once, mixed per step by what would have worked.

Each target's demand is smoothed exponentially with time constants from seconds to a quarter of an hour
(gaps leave the levels alone). On the square-root scale, where counts of any size are about equally noisy
(Anscombe, Biometrika 1948), the forecast of step h is

    slowest level + sum over scales k of  weight[h, k] * (level k - next slower level)

With weights 1 down to one scale and 0 above it this is that scale's plain exponential smoothing; larger
weights carry a ramp onward, smaller ones let a burst die down. It is the heterogeneous autoregression of
Corsi (Journal of Financial Econometrics 7, 2009) applied to counts. Weights are fitted by ridge
regression on the record's origins, towards the best single scale, worth `prior_origins` independent
observations: with a minute of history the forecast is plain smoothing, with an hour it is fitted.
The weights sum to one in levels, so a load of twice the size is forecast as twice the size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autoscaler.forecast.grid import StepGrid
from autoscaler.forecast.record import ForecastRecord
from policies.types import FloatArray

TIME_CONSTANTS_S = (2.0, 6.0, 20.0, 60.0, 200.0, 600.0)
START_SCALE = 2
"""Time constant index used before anything is known: 20 s, a compromise of noise and delay."""
MOST_RISE = 1.5
"""A forecast stays within this factor, on the square-root scale, of the highest of the levels."""


class SmoothedLevels:
    """Exponentially weighted means per target and scale, (targets, scales), unbiased from the first sample."""

    def __init__(self, n_targets: int, period_s: float) -> None:
        self._gain = 1.0 - np.exp(-period_s / np.array(TIME_CONSTANTS_S))
        self._sum = np.zeros((n_targets, len(TIME_CONSTANTS_S)))
        self._weight = np.zeros((n_targets, len(TIME_CONSTANTS_S)))

    def append(self, demand: FloatArray) -> FloatArray:
        """Square roots of the levels after each of (targets, n) samples: (targets, n, scales); 0 before data."""
        n = demand.shape[1]
        sums = np.empty((n, *self._sum.shape))
        weights = np.empty((n, *self._sum.shape))
        seen = np.isfinite(demand)
        gains = np.where(seen[:, :, None], self._gain, 0.0)
        taken = gains * np.where(seen, demand, 0.0)[:, :, None]
        for j in range(n):
            gain = gains[:, j]
            self._sum = self._sum - gain * self._sum + taken[:, j]
            self._weight = self._weight - gain * self._weight + gain
            sums[j], weights[j] = self._sum, self._weight
        root: FloatArray = np.sqrt(sums / np.maximum(weights, 1e-12))
        return np.moveaxis(root, 0, 1)


class ScaleMix:
    """Weights per target and step, (targets, scales - 1, steps), and the forecasts they make."""

    def __init__(self, n_targets: int, grid: StepGrid, prior_origins: float, half_life: float) -> None:
        self._grid = grid
        self._prior_origins = prior_origins
        self._half_life = half_life
        n_differences = len(TIME_CONSTANTS_S) - 1
        start = (np.arange(n_differences) >= START_SCALE).astype(float)
        self.weights: FloatArray = np.broadcast_to(
            start[None, :, None], (n_targets, n_differences, len(grid.ends_s))
        ).copy()

    def forecast(self, levels: FloatArray) -> FloatArray:
        """Square-root forecasts (targets, n, steps) from square-root levels (targets, n, scales)."""
        slow = levels[:, :, -1:]
        mixed = slow + (levels[:, :, :-1] - levels[:, :, 1:]) @ self.weights
        highest = levels.max(axis=2, keepdims=True)
        clipped: FloatArray = np.clip(mixed, 0.0, MOST_RISE * highest)
        return clipped

    def fit(self, record: ForecastRecord, every: int = 3) -> None:
        """Refit to the matured origins of the record, every third of them: neighbours say the same."""
        n_origins = record.actual.view.shape[1]
        picked = slice((n_origins - 1) % every, None, every)
        levels = record.levels.view[:, picked]
        age = np.arange(levels.shape[1])[::-1] * every
        decay = (0.5 ** (age / self._half_life)).astype(np.float32)
        for i in range(len(levels)):
            wanted = record.actual.view[i, picked] / record.season.view[i, picked] - levels[i, :, -1:]
            self._fit_target(i, levels[i, :, :-1] - levels[i, :, 1:], wanted, decay, every)

    def _fit_target(
        self, i: int, x: NDArray[np.float32], y: NDArray[np.float32], decay: NDArray[np.float32], every: int
    ) -> None:
        """Weighted ridge for all steps of one target: x (origins, scales-1), y (origins, steps)."""
        known = np.isfinite(y)
        w = decay[:, None] * known
        y = np.where(known, y, np.float32(0.0))
        k = x.shape[1]
        pairs = (x[:, :, None] * x[:, None, :]).reshape(len(x), k * k)
        gram = (w.T @ pairs).reshape(-1, k, k).astype(float)  # (steps, k, k)
        cross = (x.T @ (w * y)).T.astype(float)  # (steps, k)
        square = np.einsum("th,th->h", w * y, y).astype(float)
        weight = w.sum(axis=0).astype(float)
        singles = (np.arange(k)[None, :] >= np.arange(k + 1)[:, None]).astype(float)  # one row per scale
        # Squared error of each single scale, from the same sums.
        loss = square[:, None] - 2 * cross @ singles.T + np.einsum("sk,hkl,sl->hs", singles, gram, singles)
        prior = singles[np.argmin(loss, axis=1)]
        spread = np.trace(gram, axis1=1, axis2=2) / k / np.maximum(weight, 1e-9)
        # Origins closer than a step's end share most of their future: that many count as one.
        strength = self._prior_origins * np.maximum(self._grid.end / every, 1.0) * spread + 1e-9
        ridge = gram + strength[:, None, None] * np.eye(k)
        fitted = np.linalg.solve(ridge, (cross + strength[:, None] * prior)[:, :, None])[:, :, 0]
        enough = weight > np.maximum(2.0 * self._grid.end / every, 10.0)
        self.weights[i] = np.where(enough[:, None], fitted, self.weights[i].T).T
