"""What was seen, what was forecast at each moment, and what came: bounded, regular, gaps explicit.

`RollingArray` is memory of fixed size along the time axis. `ForecastRecord` keeps, for each sample of
the last hour or so (an *origin*), the forecast that was issued then, and, once the future has come, the
mean demand that each of its steps really had. Everything that learns (`levels.py`, `residuals.py`,
`calibration.py`) learns from these pairs, so nothing is ever judged by data that it was fitted to.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoscaler.forecast.grid import StepGrid
from policies.types import FloatArray

LEAST_VALID_SHARE = 0.5
"""A step's mean stands if at least half of its samples are there."""

BoolArray = NDArray[np.bool_]
Float32Array = NDArray[np.float32]


class RollingArray:
    """The last `keep` columns of a growing (lead, time, *tail) array, contiguous, cheap to append to."""

    def __init__(self, lead: int, keep: int, tail: tuple[int, ...] = (), dtype: Any = np.float64) -> None:
        self._keep = keep
        self._data = np.full((lead, 2 * keep, *tail), np.nan, dtype=dtype)
        self._begin = self._end = 0
        self.total = 0
        """Columns ever appended."""

    def append(self, columns: NDArray[Any]) -> None:
        """Add (lead, n, *tail)."""
        n = columns.shape[1]
        self.total += n
        columns = columns[:, -self._keep :]
        n = columns.shape[1]
        if self._end + n > self._data.shape[1]:
            kept = min(self._end - self._begin, self._keep - n)
            self._data[:, :kept] = self._data[:, self._end - kept : self._end].copy()
            self._begin, self._end = 0, kept
        self._data[:, self._end : self._end + n] = columns
        self._end += n
        self._begin = max(self._begin, self._end - self._keep)

    @property
    def first(self) -> int:
        """Count of columns that have been forgotten: the absolute index of `view[:, 0]`."""
        return self.total - (self._end - self._begin)

    @property
    def view(self) -> NDArray[Any]:
        """What is kept, oldest first, writable, (lead, at most keep, *tail)."""
        return self._data[:, self._begin : self._end]


class ForecastRecord:
    """Samples and issued forecasts per origin, and how they came true. Axes: targets, origins, ..."""

    def __init__(self, n_targets: int, keep: int, grid: StepGrid, n_scales: int) -> None:
        n_steps = len(grid.ends_s)
        self._grid = grid
        self.demand = RollingArray(n_targets, keep)
        self.levels = RollingArray(n_targets, keep, (n_scales,), np.float32)
        """Square roots of the smoothed levels at each origin."""
        self.issued = RollingArray(n_targets, keep, (n_steps,), np.float32)
        """Square roots of the demand forecast at each origin for each step."""
        self.season = RollingArray(n_targets, keep, (n_steps,), np.float32)
        """Square roots of the slow shape's ratio used at each origin."""
        self.actual = RollingArray(n_targets, keep, (n_steps,), np.float32)
        """Square roots of the mean demand each step had; NaN until it has come, or if mostly missing."""
        self.scale = RollingArray(n_targets, keep, (), np.float32)
        """Volatility at each origin, relative."""
        self._mature_until = np.zeros(n_steps, dtype=np.int64)

    def append(
        self,
        demand: FloatArray,
        levels: FloatArray,
        issued: FloatArray,
        season: FloatArray,
        scale: FloatArray,
    ) -> None:
        """Add n samples and what was known after each: (targets, n), or (targets, n, scales or steps)."""
        self.demand.append(demand)
        self.levels.append(levels)
        self.issued.append(issued)
        self.season.append(season)
        self.scale.append(scale)
        self.actual.append(np.full(issued.shape, np.nan, dtype=np.float32))

    def residuals(self, targets: slice, origins: NDArray[np.int64], n_steps: int) -> Float32Array:
        """Errors at the kept origins in units of their volatility, (targets, origins, steps)."""
        error = self.actual.view[targets, origins, :n_steps] - self.issued.view[targets, origins, :n_steps]
        scaled: Float32Array = error / self.scale.view[targets, origins, None]
        return scaled

    def mature(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Fill in what has come since the last call; returns the absolute origins [from, to) per step."""
        first, total = self.demand.first, self.demand.total
        low = np.maximum(self._mature_until, first)
        high = np.maximum(total - self._grid.end, low)
        base = int(low.min()) - first
        recent = self.demand.view[:, base:]
        valid = np.isfinite(recent)
        zero = np.zeros((len(recent), 1))
        sums = np.concatenate((zero, np.cumsum(np.where(valid, recent, 0.0), axis=1)), axis=1)
        counts = np.concatenate((zero, np.cumsum(valid, axis=1)), axis=1)
        actual = self.actual.view
        for h, (a, b) in enumerate(zip(low, high, strict=True)):
            if a < b:
                # The origin is known after its own sample, so its first step begins with the next one.
                origins = np.arange(a, b) - first - base + 1
                begin, end = origins + self._grid.begin[h], origins + self._grid.end[h]
                count = counts[:, end] - counts[:, begin]
                enough = count >= LEAST_VALID_SHARE * (end - begin)
                mean = np.maximum(sums[:, end] - sums[:, begin], 0.0) / np.where(enough, np.maximum(count, 1.0), np.nan)
                actual[:, a - first : b - first, h] = np.sqrt(mean)
        self._mature_until = high
        return low, high
