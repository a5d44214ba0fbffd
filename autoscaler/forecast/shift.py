"""A change that history never saw: when the level has plainly moved, follow it before the fit does.

After a calm quarter of an hour the mix of `levels.py` rightly trusts its slow scales, and would take
minutes to believe a load that has jumped fourfold. So a robust fast level is kept beside it: each sample
moves it by a few of its usual errors at most, whence one second of thirty times the load hardly shows and
ten seconds of twice the load do (Huber's clipping, Annals of Mathematical Statistics 35, 1964). As long
as it lies within a few of its own usual distances from the forecast nothing happens; beyond, the forecast
is drawn to it (a tracking signal: Trigg and Leach, Operational Research Quarterly 18, 1967).
"""

from __future__ import annotations

import numpy as np

from autoscaler.forecast.record import BoolArray
from policies.types import FloatArray

FAST_S, MEMORY_S = 6.0, 3600.0
MOST_ERRORS = 3.0
"""A sample counts as at most this many usual errors away."""
IGNORED, BELIEVED = 3.0, 6.0
"""Distances, in usual ones, up to which nothing happens and from which on the fast level is the forecast."""
LEAST_SAMPLES = 60.0
"""Before this many samples "usual" means nothing."""


class ShiftTracker:
    """Robust fast level per target on the square-root scale, and how far it should be believed."""

    def __init__(self, n_targets: int, period_s: float) -> None:
        self._gain = 1.0 - np.exp(-period_s / FAST_S)
        self._slow = period_s / MEMORY_S
        self._level = np.full(n_targets, np.nan)
        self._count = np.zeros(n_targets)
        self._error = np.zeros(n_targets)
        self._distance = np.zeros(n_targets)
        """Mean squares of errors of a sample and of distances of the level, from the forecast."""

    def draw(self, demand: FloatArray, issued: FloatArray) -> FloatArray:
        """Forecasts (targets, n, steps) on the square-root scale, drawn to a level that has plainly moved.

        `demand` is (targets, n) in replicas, NaN for gaps, which hold everything.
        """
        drawn = issued.copy()
        root = np.sqrt(demand)
        for j in range(demand.shape[1]):
            forecast = issued[:, j, 0]
            belief = self._observe(root[:, j], forecast)
            if belief.any():
                drawn[:, j] += belief[:, None] * (np.nan_to_num(self._level)[:, None] - issued[:, j])
        return drawn

    def _observe(self, root: FloatArray, forecast: FloatArray) -> FloatArray:
        """Take in one sample; returns the belief in the fast level, (targets,) from 0 to 1."""
        seen = np.isfinite(root)
        self._level = np.where(seen & np.isnan(self._level), root, self._level)
        self._count += seen
        step = np.where(seen, root - self._level, 0.0)
        usual = self._count > LEAST_SAMPLES
        most = np.where(usual, MOST_ERRORS * np.sqrt(self._error), np.inf)
        self._level = self._level + self._gain * np.clip(step, -most, most)
        distance = np.where(np.isnan(self._level), 0.0, np.square(self._level - forecast))
        ratio = np.sqrt(distance / np.maximum(self._distance, 1e-12))
        belief: FloatArray = np.where(usual, np.clip((ratio - IGNORED) / (BELIEVED - IGNORED), 0.0, 1.0), 0.0)
        # What is unusual counts as barely usual here, or the first shift would hide the next.
        slow = np.where(seen, np.maximum(self._slow, 1.0 / np.maximum(self._count, 1.0)), 0.0)
        error = np.where(seen, np.square(np.nan_to_num(root) - forecast), 0.0)
        self._error = self._winsorised(self._error, error, slow, usual)
        self._distance = self._winsorised(self._distance, distance, slow, usual)
        return belief

    @staticmethod
    def _winsorised(mean: FloatArray, new: FloatArray, gain: FloatArray, usual: BoolArray) -> FloatArray:
        clipped = np.where(usual, np.minimum(new, IGNORED**2 * mean + 1e-12), new)
        return mean + gain * (clipped - mean)
