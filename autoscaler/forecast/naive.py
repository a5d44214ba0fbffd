"""The forecasts that any model must beat: the last value, a plain smoothing, the same time yesterday.

Each is one path behind the `Forecaster` port, for rows of a backtest (`backtest.py`).
"""

from __future__ import annotations

import numpy as np

from autoscaler.forecast.grid import step_ends
from policies.types import DemandPaths, FloatArray

DAY_S = 86400.0


class Ewma:
    """Exponentially weighted mean with a time constant, flat over all steps; 0 s is the last value."""

    def __init__(self, n_targets: int, time_constant_s: float = 20.0) -> None:
        self._time_constant_s = time_constant_s
        self._level = np.full(n_targets, np.nan)

    def update(self, start_s: float, period_s: float, demand_replicas: FloatArray) -> None:
        """Fold in samples; gaps change nothing."""
        gain = 1.0 - np.exp(-period_s / self._time_constant_s) if self._time_constant_s > 0 else 1.0
        for y in demand_replicas.T:
            moved = np.where(np.isnan(self._level), y, self._level + gain * (y - self._level))
            self._level = np.where(np.isfinite(y), moved, self._level)

    def paths(self, now_s: float, horizon_s: float) -> DemandPaths:
        """The level for every step."""
        return _flat(self._level, horizon_s, f"ewma {self._time_constant_s:g} s")


class LastValue(Ewma):
    """The newest valid sample, for ever."""

    def __init__(self, n_targets: int) -> None:
        super().__init__(n_targets, 0.0)


class SeasonalNaive:
    """What was in the same window one season before; until then, the mean of all."""

    def __init__(self, n_targets: int, season_s: float = DAY_S) -> None:
        self._season_s = season_s
        self._start_s = 0.0
        self._period_s = 1.0
        self._blocks: list[FloatArray] = []
        self._all = np.empty((n_targets, 0))

    def update(self, start_s: float, period_s: float, demand_replicas: FloatArray) -> None:
        """Keep the samples, all of them."""
        if not self._all.shape[1] and not self._blocks:
            self._start_s, self._period_s = start_s, period_s
        self._blocks.append(demand_replicas)

    def paths(self, now_s: float, horizon_s: float) -> DemandPaths:
        """The means of the same steps a season ago."""
        self._all = np.concatenate((self._all, *self._blocks), axis=1)
        self._blocks = []
        if not np.isfinite(self._all).any():
            return _flat(np.full(len(self._all), np.nan), horizon_s, "seasonal naive")
        ends_s = step_ends(horizon_s)
        overall = np.nan_to_num(np.nanmean(self._all, axis=1))
        edges = np.round((now_s - self._season_s - self._start_s + np.concatenate(([0.0], ends_s))) / self._period_s)
        columns = []
        for a, b in zip(edges[:-1].astype(int), edges[1:].astype(int), strict=True):
            past = self._all[:, max(a, 0) : max(b, a + 1, 0)]
            count = np.isfinite(past).sum(axis=1)
            columns.append(np.where(count > 0, np.nansum(past, axis=1) / np.maximum(count, 1), overall))
        return DemandPaths(ends_s, np.array(columns).T[:, None, :], (True,) * len(self._all), "seasonal naive")


def _flat(level: FloatArray, horizon_s: float, model: str) -> DemandPaths:
    ends_s = step_ends(horizon_s)
    known = tuple(np.isfinite(level).tolist())
    paths = np.repeat(np.nan_to_num(level)[:, None, None], len(ends_s), axis=2)
    return DemandPaths(ends_s, paths, known, model)
