"""Joint sample paths: a level that follows, a slow shape, and residuals that really happened.

    path = (sqrt(level now x shape ahead) + residual)^2

The level is exponentially smoothed, its rate chosen per target from a small grid by what would have
forecast the last hour best. Residuals are taken, on the square-root scale that makes counts of any size
equally noisy (Anscombe 1948), from moments of the last hour: how the steps after each moment differed
from what that moment's level had promised. One draw of moments serves all targets, so their joint
behaviour, bursts and ramps, is resampled as it was; no law is assumed and coverage follows from the
record (the historical-simulation or rolling-origin bootstrap; Hyndman and Athanasopoulos, Forecasting:
Principles and Practice, 5.5). With less than two minutes on record the noise is taken to be Poisson-like
at the observed dispersion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoscaler.forecast.shape import SlowShape
from policies.arrays import FloatArray
from policies.paths import DemandPaths

STEP_ENDS_S = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 192.0, 256.0, 384.0)
SMOOTHING = (0.02, 0.05, 0.1, 0.2, 0.4)


@dataclass(frozen=True, slots=True)
class PathConfig:
    """`memory_s` bounds what residuals are drawn from, `half_life_s` prefers the recent ones."""

    n_paths: int = 1000
    memory_s: float = 3600.0
    half_life_s: float = 1200.0
    refit_every_s: float = 60.0
    least_samples: int = 10
    stale_after_s: float = 120.0
    judged_horizon_s: float = 12.0
    """Smoothing is judged by the error over this horizon: where wakes and reclaims are decided."""


class SamplePathForecaster:
    """Implements the `Forecaster` port."""

    def __init__(self, n_targets: int, seed: int, n_paths: int = 1000, config: PathConfig | None = None) -> None:
        self._config = config or PathConfig(n_paths)
        self._n = n_targets
        self._random = np.random.default_rng(np.random.SeedSequence([seed, 0xF0]))
        self._period_s = 1.0
        self._demand = np.empty((n_targets, 0))
        self._levels = np.empty((len(SMOOTHING), n_targets, 0))
        self._level = np.full((len(SMOOTHING), n_targets), np.nan)
        self._chosen = np.full(n_targets, 2)
        self._residuals: FloatArray | None = None
        self._fitted_at_s = -np.inf
        self._valid = np.zeros(n_targets, dtype=int)
        self._last_valid_s = np.full(n_targets, -np.inf)
        self._shape = SlowShape(n_targets)
        self._steps_s = step_ends(64.0)

    def update(self, start_s: float, period_s: float, demand_replicas: FloatArray) -> None:
        """Append samples; a gap (NaN) leaves the level where it was."""
        self._period_s = period_s
        n = demand_replicas.shape[1]
        levels = np.empty((len(SMOOTHING), self._n, n))
        rates = np.array(SMOOTHING)[:, None]
        for j in range(n):
            y = demand_replicas[:, j]
            seen = np.isfinite(y)
            first = seen & np.isnan(self._level[0])
            self._level[:, first] = y[first]
            step = rates * (y - self._level)
            self._level += np.where(seen, step, 0.0)
            levels[:, :, j] = self._level
            self._last_valid_s[seen] = start_s + (j + 1) * period_s
            self._valid += seen
        keep = round(self._config.memory_s / period_s)
        self._demand = np.concatenate((self._demand, demand_replicas), axis=1)[:, -keep:]
        self._levels = np.concatenate((self._levels, levels), axis=2)[:, :, -keep:]
        self._shape.update(start_s, period_s, demand_replicas)
        end_s = start_s + n * period_s
        if end_s - self._fitted_at_s >= self._config.refit_every_s or (self._residuals is None and n):
            self._fitted_at_s = end_s
            self._refit(end_s)

    def paths(self, now_s: float, horizon_s: float) -> DemandPaths:
        """Joint paths from `now_s`; a target with too little or stale data is marked unknown."""
        ends_s = step_ends(horizon_s)
        if self._residuals is None or self._residuals.shape[2] != len(ends_s):
            self._steps_s = ends_s
            self._refit(now_s)
        assert self._residuals is not None
        level = np.nan_to_num(self._level[self._chosen, np.arange(self._n)])
        ahead = level[:, None] * self._shape.ratio(now_s, ends_s)
        paths = np.sqrt(ahead)[:, None, :] + self._residuals
        np.maximum(paths, 0.0, out=paths)
        np.square(paths, out=paths)
        fresh = now_s - self._last_valid_s <= self._config.stale_after_s
        known = tuple(bool(k) for k in (self._valid >= self._config.least_samples) & fresh)
        return DemandPaths(
            self.keys, ends_s, paths, frozenset(k for k, b in zip(self.keys, known) if b), "level+residuals"
        )

    def _refit(self, now_s: float) -> None:
        """Choose each target's smoothing anew, and draw the residual paths of the coming minute."""
        steps = np.maximum(np.round(self._steps_s / self._period_s).astype(int), 1)
        n_samples = self._demand.shape[1]
        reach = int(min(steps[-1], n_samples // 2))
        origins = self._origins(n_samples, reach)
        if origins.size < 30:
            self._residuals = self._assumed_noise()
            return
        total = np.concatenate((np.zeros((self._n, 1)), np.cumsum(np.nan_to_num(self._demand), axis=1)), axis=1)
        self._choose_smoothing(total, origins, reach)
        age = (n_samples - 1 - origins) * self._period_s
        weight = 0.5 ** (age / self._config.half_life_s)
        drawn = self._random.choice(origins, self._config.n_paths, p=weight / weight.sum())
        level = np.sqrt(self._levels[self._chosen[:, None], np.arange(self._n)[:, None], drawn[None, :]])
        residuals = np.empty((self._n, self._config.n_paths, len(steps)))
        begin = 0
        for h, end in enumerate(steps):
            if h and (end > reach or end == begin):
                # Farther than the record reaches, or a step shorter than a sample.
                residuals[:, :, h] = residuals[:, :, h - 1]
                continue
            mean = (total[:, drawn + 1 + end] - total[:, drawn + 1 + begin]) / (end - begin)
            residuals[:, :, h] = np.sqrt(np.maximum(mean, 0.0)) - level
            begin = end
        self._residuals = residuals

    def _origins(self, n_samples: int, reach: int) -> np.ndarray:
        """Moments with a level, a whole horizon after them, and no gap in any target that has data."""
        with_data = self._valid > 0
        if n_samples < 30 or not with_data.any():
            return np.empty(0, dtype=int)
        gap = ~np.isfinite(self._demand[with_data]).all(axis=0)
        gaps = np.concatenate(([0], np.cumsum(gap)))
        moments = np.arange(5, n_samples - reach - 1)
        whole = gaps[moments + 1 + reach] == gaps[moments - 5]
        usable: np.ndarray = moments[whole & np.isfinite(self._levels[0][:, moments][with_data]).all(axis=0)]
        return usable

    def _choose_smoothing(self, total: FloatArray, origins: np.ndarray, reach: int) -> None:
        ahead = max(min(round(self._config.judged_horizon_s / self._period_s), reach), 1)
        actual = np.sqrt(np.maximum((total[:, origins + 1 + ahead] - total[:, origins + 1]) / ahead, 0.0))
        error = np.sqrt(np.nan_to_num(self._levels[:, :, origins])) - actual[None]
        self._chosen = np.argmin(np.mean(error**2, axis=2), axis=0)

    def _assumed_noise(self) -> FloatArray:
        """Independent normal residuals at the observed dispersion, Poisson-like at the least.

        A count of mean m and dispersion d has, on the square-root scale, variance d/4 per unit of time
        (delta method); a mean over a step of w periods has d/(4w).
        """
        mean = np.nanmean(self._demand, axis=1) if self._demand.shape[1] else np.zeros(self._n)
        variance = np.nanvar(self._demand, axis=1) if self._demand.shape[1] else np.zeros(self._n)
        dispersion = np.where(mean > 0, variance / np.maximum(mean, 1e-9), 1.0)
        widths = np.diff(self._steps_s, prepend=0.0) / self._period_s
        sigma = np.sqrt(np.nan_to_num(dispersion, nan=1.0)[:, None, None] / (4.0 * np.maximum(widths, 1.0)))
        noise = self._random.standard_normal((self._n, self._config.n_paths, len(widths)))
        scaled: FloatArray = noise * sigma
        return scaled


def step_ends(horizon_s: float) -> FloatArray:
    """The grid of steps up to the first end at or past the horizon, in seconds."""
    ends = np.array(STEP_ENDS_S)
    return ends[: min(int(np.searchsorted(ends, horizon_s)) + 1, len(ends))]
