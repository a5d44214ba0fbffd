"""Does a 95% band hold 95%? Coverage as it turns out, and the factor that mends it.

Each time the residual library is drawn anew, the edges of its bands are noted; when the future of an
origin has come, it either fell inside the band that stood then or not. Where bands miss too often or too
seldom, the residuals of that target and step are scaled, a little with every independent observation
(adaptive conformal inference: Gibbs and Candes, NeurIPS 2021), within bounds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoscaler.forecast.grid import StepGrid
from autoscaler.forecast.record import ForecastRecord
from policies.types import FloatArray

BANDS = (0.50, 0.80, 0.95, 0.99)
STEERING = np.array([0.0, 0.5, 1.0, 0.0])
"""Which bands steer the factor: the outer ones matter to the policy, the outermost is too rare to steer by."""
LEAST_FACTOR, MOST_FACTOR = 0.7, 2.0
STEADY_SAMPLES = 8.0
"""Steps that end later than this many samples are steered more gently: their misses come in runs."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Shares of outcomes inside each band; arrays (targets, steps, bands), NaN before the first outcome."""

    step_ends_s: FloatArray
    bands: tuple[float, ...]
    inside: FloatArray
    observations: FloatArray
    """Outcomes counted, older ones forgotten by halves, (targets, steps)."""


class Calibrator:
    """Keeps the edges of past bands, counts hits, and holds the factors, (targets, steps)."""

    def __init__(self, n_targets: int, grid: StepGrid, gain: float, half_life: float) -> None:
        n_steps = len(grid.ends_s)
        self._grid = grid
        self._gain = gain
        self._half_life = half_life
        self._edges: deque[tuple[int, int, FloatArray, FloatArray]] = deque()
        self._hits = np.zeros((n_targets, n_steps, len(BANDS)))
        self._seen = np.zeros((n_targets, n_steps))
        self.factor: FloatArray = np.ones((n_targets, n_steps))

    def note(self, origin: int, residuals: FloatArray) -> None:
        """From absolute `origin` on, forecasts carry these residuals (targets, paths, steps)."""
        n_paths = residuals.shape[1]
        tails = (1.0 - np.array(BANDS)) / 2.0
        low_at = np.floor(tails * (n_paths - 1)).astype(int)
        high_at = np.ceil((1.0 - tails) * (n_paths - 1)).astype(int)
        ordered = np.partition(residuals, np.unique(np.concatenate((low_at, high_at))), axis=1)
        low: FloatArray = ordered[:, low_at]
        high: FloatArray = ordered[:, high_at]
        self._edges.append((origin, residuals.shape[2], np.moveaxis(low, 1, 2), np.moveaxis(high, 1, 2)))
        while len(self._edges) > 2 and self._edges[1][0] < origin - 2 * self._grid.reach:
            self._edges.popleft()

    def learn(self, record: ForecastRecord, low: NDArray[np.int64], high: NDArray[np.int64]) -> None:
        """Count what came at the absolute origins [low, high) of each step, and steer the factors."""
        first = record.demand.first
        starts = [edge[0] for edge in self._edges] + [record.demand.total]
        for (_, n_steps, below, above), begin, end in zip(self._edges, starts[:-1], starts[1:], strict=True):
            for h in range(n_steps):
                a, b = max(int(low[h]), begin), min(int(high[h]), end)
                if a < b:
                    origins = np.arange(a - first, b - first)
                    residual = record.actual.view[:, origins, h] - record.issued.view[:, origins, h]
                    residual /= record.scale.view[:, origins]
                    self._count(h, residual[:, :, None], below[:, None, h], above[:, None, h])

    def _count(self, h: int, residual: FloatArray, below: FloatArray, above: FloatArray) -> None:
        known = np.isfinite(residual[:, :, 0]).sum(axis=1)
        inside = ((residual >= below) & (residual <= above)).sum(axis=1)
        keep = 0.5 ** (residual.shape[1] / self._half_life)
        self._hits[:, h] = keep * self._hits[:, h] + inside
        self._seen[:, h] = keep * self._seen[:, h] + known
        wanted = np.array(BANDS) * known[:, None]
        # Neighbouring origins share a step's future: `end` of them are one independent observation.
        drive = ((wanted - inside) * STEERING).sum(axis=1) / self._grid.end[h]
        gain = self._gain * min(1.0, float(np.sqrt(STEADY_SAMPLES / self._grid.end[h])))
        self.factor[:, h] = np.clip(self.factor[:, h] * np.exp(gain * drive), LEAST_FACTOR, MOST_FACTOR)

    def coverage(self) -> Coverage:
        """What has been counted so far."""
        with np.errstate(invalid="ignore", divide="ignore"):
            share = self._hits / self._seen[:, :, None]
        return Coverage(self._grid.ends_s, BANDS, share, self._seen.copy())
