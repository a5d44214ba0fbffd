"""Residual paths: by how much recent forecasts were wrong, step by step, for all targets at once.

A residual is sqrt(demand that came) - sqrt(demand forecast), in units of the volatility of its origin
(`volatility.py`). One draw of origins serves every target and every step, so bursts keep their length and
targets their correlation; no law is assumed (rolling-origin bootstrap: Hyndman and Athanasopoulos,
Forecasting: Principles and Practice, 5.5). Forecasts were issued without knowledge of what followed, so
errors of the level and of its fit are in the residuals too.

Two honest doubts are added. An hour holds only a dozen independent futures of five minutes, and if demand
rose through it they all say "more than forecast": so a share of the paths is mirrored at the forecast, the
larger the fewer independent futures there are. And while the record is short an assumed noise stands in:
Gamma-distributed with the observed index of dispersion (a negative binomial's, for demand in replicas
instead of counts), with the doubt about the level itself on top; it gives way over the first ten minutes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autoscaler.forecast.grid import StepGrid
from autoscaler.forecast.record import BoolArray, Float32Array, ForecastRecord
from policies.types import FloatArray

LEAST_ORIGINS = 45
"""Fewer matured origins than this say nothing of a tail."""
TRUSTED_ORIGINS = 600
"""From this many on no assumed noise is mixed in."""
MIRROR_ORIGINS = 60.0
"""With this many independent futures a quarter of the paths is mirrored, with many none, with few half."""
MOST_GROWTH = 2.0


class ResidualLibrary:
    """Draws joint residual paths from a `ForecastRecord`; its random numbers are drawn once.

    What is drawn is in units of volatility: multiply by the scale of the moment.
    """

    def __init__(self, n_targets: int, n_paths: int, grid: StepGrid, half_life: float, seed: int) -> None:
        self._grid = grid
        self._half_life = half_life
        self._random = np.random.default_rng(np.random.SeedSequence([seed, 0xF0]))
        self._order = self._random.permutation(n_paths)
        self._offset = self._random.random()
        self._normals = self._random.standard_normal((n_targets, n_paths, len(grid.ends_s)))
        self._level_normals = self._random.standard_normal((n_targets, n_paths, 1))
        ranks = (np.arange(n_paths) + 0.5) / n_paths
        self._mixing = self._random.permutation(ranks)
        self._mirroring = self._random.permutation(ranks)

    def draw(self, record: ForecastRecord, n_steps: int, root_forecast: FloatArray) -> FloatArray:
        """Residual paths (targets, paths, n_steps) around `root_forecast` (targets, steps)."""
        came = np.isfinite(record.actual.view)
        reached = int((came.any(axis=0).sum(axis=0) >= LEAST_ORIGINS)[:n_steps].sum())
        if reached == 0:
            return self._assumed(record, n_steps, root_forecast)
        whole: BoolArray = came[:, :, :reached].all(axis=2)
        n_whole = whole.sum(axis=1)
        residuals = np.empty((len(whole), self._order.size, n_steps))
        residuals[:, :, :reached] = self._drawn(record, whole, reached)
        for h in range(reached, n_steps):
            # Past the record's reach errors grow as a random walk's would.
            growth = min(float(np.sqrt(self._grid.ends_s[h] / self._grid.ends_s[reached - 1])), MOST_GROWTH)
            residuals[:, :, h] = growth * residuals[:, :, reached - 1]
        independent = n_whole[:, None] / self._grid.end[:n_steps]
        share = 0.5 * MIRROR_ORIGINS / (independent + MIRROR_ORIGINS)
        residuals *= np.where(self._mirroring[None, :, None] < share[:, None, :], -1.0, 1.0)
        young = np.flatnonzero(n_whole < TRUSTED_ORIGINS)
        assumed = self._assumed(record, n_steps, root_forecast) if young.size else residuals
        for i in young:
            swap = self._mixing < 1.0 - n_whole[i] / TRUSTED_ORIGINS
            residuals[i, swap] = assumed[i, swap]
        return residuals

    def _drawn(self, record: ForecastRecord, whole: BoolArray, reached: int) -> Float32Array:
        """The residuals at one draw of origins; a target with a gap there borrows another of its own."""
        some = np.flatnonzero(whole.any(axis=0))
        if some.size == 0:
            return np.zeros((len(whole), self._order.size, reached), dtype=np.float32)
        origins = some[self._systematic(some, whole.shape[1])]
        residuals = record.residuals(slice(None), origins, reached)
        for i in np.flatnonzero(~whole[:, origins].all(axis=1)):
            missing = np.flatnonzero(~whole[i, origins])
            own = np.flatnonzero(whole[i])
            if own.size == 0:
                residuals[i, missing] = 0.0  # overwritten by assumed noise: this target has no record
                continue
            other = own[self._random.integers(own.size, size=missing.size)]
            residuals[i, missing] = record.residuals(slice(i, i + 1), other, reached)[0]
        return residuals

    def _systematic(self, candidates: NDArray[np.int64], now: int) -> NDArray[np.int64]:
        """Indices into `candidates`, preferring recent ones, spread evenly (Kitagawa 1996), shuffled."""
        weight = np.cumsum(0.5 ** ((now - candidates) / self._half_life))
        points = (np.arange(self._order.size) + self._offset) / self._order.size * weight[-1]
        index = np.minimum(np.searchsorted(weight, points), candidates.size - 1)
        shuffled: NDArray[np.int64] = index[self._order]
        return shuffled

    def _assumed(self, record: ForecastRecord, n_steps: int, root_forecast: FloatArray) -> FloatArray:
        """Gamma noise at the observed dispersion, via Wilson and Hilferty's cube root (PNAS 17, 1931)."""
        recent = record.demand.view[:, -TRUSTED_ORIGINS:]
        valid = np.isfinite(recent)
        count = np.maximum(valid.sum(axis=1), 1)
        mean = np.where(valid, recent, 0.0).sum(axis=1) / count
        deviation = np.where(valid, recent - mean[:, None], 0.0)
        variance = np.square(deviation).sum(axis=1) / np.maximum(count - 1, 1)
        # Before the second sample the noise is taken to be as large as the demand.
        variance = np.where(count > 1, variance, mean**2)
        dispersion = variance / np.maximum(mean, 1e-12)
        root = root_forecast[:, None, :n_steps]
        width_share = 1.0 / np.sqrt(self._grid.widths[:n_steps])
        level_share = 1.0 / np.sqrt(np.minimum(count, 20))[:, None, None]
        spread = np.sqrt(width_share**2 + level_share**2)
        normals = (width_share * self._normals[:, :, :n_steps] + level_share * self._level_normals) / spread
        ninth = dispersion[:, None, None] * spread**2 / np.maximum(np.square(root), 1e-12) / 9.0
        cube = np.maximum(1.0 - ninth + np.sqrt(ninth) * normals, 0.0)
        residual: FloatArray = root * (cube * np.sqrt(cube) - 1.0) / record.scale.view[:, -1:, None]
        return residual
