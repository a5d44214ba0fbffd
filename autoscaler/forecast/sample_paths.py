"""Joint sample paths of demand: a level that follows, a slow shape, and errors that really happened.

    path = max(0, sqrt(level mix x slow ratio) + residual)^2

`levels.py` says how the level is mixed, `shape.py` where the slow ratio comes from, `residuals.py` how
errors are drawn and `calibration.py` how their size is kept honest. This module only times them: each
sample moves the levels and is remembered with the forecast issued after it; once a minute weights and
residuals are renewed; between, asking for paths is one vectorised expression over the same residuals
(common random numbers, so that two decisions a second apart differ by what was seen, not by luck).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autoscaler.forecast.calibration import Calibrator, Coverage
from autoscaler.forecast.grid import STEP_ENDS_S, StepGrid, step_ends, step_grid
from autoscaler.forecast.levels import TIME_CONSTANTS_S, ScaleMix, SmoothedLevels
from autoscaler.forecast.record import ForecastRecord
from autoscaler.forecast.residuals import ResidualLibrary
from autoscaler.forecast.shape import SlowShape
from autoscaler.forecast.shift import ShiftTracker
from autoscaler.forecast.volatility import Volatility
from policies.types import DemandPaths, FloatArray

LEAST_REFIT_SAMPLES = 10
"""Coarse samples are refitted less often: nothing is learnt from one."""
MODEL = "level mix + residual paths"

__all__ = ["STEP_ENDS_S", "PathConfig", "SamplePathForecaster", "step_ends"]


@dataclass(frozen=True, slots=True)
class PathConfig:
    """How much is remembered, and how fast it is believed."""

    memory_s: float = 5400.0
    """Residuals are drawn from this long: long enough to hold a few of the bursts that matter."""
    half_life_s: float = 1800.0
    """A residual of half an hour ago is half as likely to be drawn as one of now."""
    mix_half_life_s: float = 1800.0
    prior_origins: float = 60.0
    """How many independent observations plain smoothing is worth against a fitted mix."""
    refit_every_s: float = 60.0
    shape_every_s: float = 1800.0
    least_samples: int = 10
    stale_after_s: float = 120.0
    """A target without a valid sample for this long counts as unknown."""
    calibration_gain: float = 0.02
    """Change of the residuals' scale per independent miss; 0 leaves them as drawn."""
    gap_growth_s: float = 60.0
    """After this long without samples residuals are widened by the square root of two."""


class SamplePathForecaster:
    """Implements the `Forecaster` port; deterministic from the seed and the samples given."""

    def __init__(self, n_targets: int, seed: int, n_paths: int = 1000, config: PathConfig | None = None) -> None:
        if n_targets < 1 or n_paths < 1:
            raise ValueError(f"targets and paths must be at least one, got {n_targets} and {n_paths}")
        self._n = n_targets
        self._seed = seed
        self._n_paths = n_paths
        self._config = config or PathConfig()
        self._period_s = 0.0
        self._valid = np.zeros(n_targets, dtype=np.int64)
        self._last_valid_s = np.full(n_targets, -np.inf)
        self._n_steps = 0
        self._end_s = 0.0
        self._residuals = np.zeros((n_targets, n_paths, 0))
        self._shape = SlowShape(n_targets, self._config.shape_every_s)

    def _begin(self, start_s: float, period_s: float) -> None:
        """The first samples set the clock: their period fixes the grid in samples."""
        config = self._config
        self._period_s, self._end_s = period_s, start_s
        self._grid: StepGrid = step_grid(period_s)
        keep = max(round(config.memory_s / period_s), 60) + self._grid.reach
        half_life = config.half_life_s / period_s
        self._levels = SmoothedLevels(self._n, period_s)
        self._shift = ShiftTracker(self._n, period_s)
        self._volatility = Volatility(self._n, period_s)
        self._mix = ScaleMix(self._n, self._grid, config.prior_origins, config.mix_half_life_s / period_s)
        self._record = ForecastRecord(self._n, keep, self._grid, len(TIME_CONSTANTS_S))
        self._library = ResidualLibrary(self._n, self._n_paths, self._grid, half_life, self._seed)
        self._calibrator = Calibrator(self._n, self._grid, config.calibration_gain, 3600.0 / period_s)
        self._n_steps = self._n_steps or len(self._grid.ends_s)
        self._refit_samples = max(round(config.refit_every_s / period_s), LEAST_REFIT_SAMPLES)
        self._since_refit = 0
        self._root = np.zeros((self._n, len(self._grid.ends_s)))
        self._season = np.ones((self._n, 1, len(self._grid.ends_s)))

    def update(self, start_s: float, period_s: float, demand_replicas: FloatArray) -> None:
        """Append (targets, n) samples; a gap (NaN) leaves the level where it was.

        A jump forward of `start_s` is a gap; samples that were given before are dropped. Raises
        ValueError when the period changes or the targets are not those of the constructor.
        """
        if demand_replicas.shape[0] != self._n:
            raise ValueError(f"samples of {demand_replicas.shape[0]} targets, expected {self._n}")
        if demand_replicas.shape[1] == 0:
            return
        if self._period_s == 0.0:
            self._begin(start_s, period_s)
        if period_s != self._period_s:
            raise ValueError(f"the sample period was {self._period_s} s and cannot become {period_s} s")
        for block in self._aligned(start_s, demand_replicas):
            self._absorb(block)

    def seed_history(self, start_s: float, period_s: float, demand_replicas: FloatArray) -> None:
        """Take in hours or days of samples that end where live ones will begin.

        The slow shape reads all of them, in bulk; the fast level and the residuals only the end that they
        would remember anyway.
        """
        keep = round((self._config.memory_s + 2.0 * TIME_CONSTANTS_S[-1]) / period_s)
        early = demand_replicas[:, :-keep]
        if early.shape[1] and self._period_s == 0.0:
            self._shape.append(start_s, period_s, early)
            start_s += early.shape[1] * period_s
            demand_replicas = demand_replicas[:, -keep:]
        self.update(start_s, period_s, demand_replicas)

    def paths(self, now_s: float, horizon_s: float) -> DemandPaths:
        """Joint paths from `now_s`; a target with too little or stale data is marked unknown."""
        if self._period_s == 0.0:
            ends_s = step_ends(horizon_s)
            empty = np.zeros((self._n, self._n_paths, len(ends_s)))
            return DemandPaths(ends_s, empty, (False,) * self._n, MODEL)
        n_steps = self._grid.upto(horizon_s)
        if n_steps != self._n_steps or self._residuals.shape[2] != n_steps:
            self._n_steps = n_steps
            self._draw()
        age_s = np.maximum(now_s - self._last_valid_s, 0.0)
        scale = self._record.scale.view[:, -1] * self._widening(age_s)
        paths = self._residuals * scale[:, None, None]
        paths += self._root[:, None, :n_steps]
        np.maximum(paths, 0.0, out=paths)
        np.square(paths, out=paths)
        known = (self._valid >= self._config.least_samples) & (age_s <= self._config.stale_after_s)
        return DemandPaths(self._grid.ends_s[:n_steps], paths, tuple(known.tolist()), MODEL)

    def coverage(self) -> Coverage | None:
        """How often outcomes fell inside the bands, so far; None before the first sample."""
        return self._calibrator.coverage() if self._period_s else None

    @property
    def shape(self) -> SlowShape:
        """The slow shape, for forecasts of hours and for explaining."""
        return self._shape

    def _widening(self, age_s: FloatArray) -> FloatArray:
        """Factor on residuals of a target whose newest sample is old: what is not seen may have moved."""
        unseen_s = np.clip(age_s - 3.0 * self._period_s, 0.0, 3.0 * self._config.gap_growth_s)
        widening: FloatArray = np.sqrt(1.0 + unseen_s / self._config.gap_growth_s)
        return widening

    def _aligned(self, start_s: float, demand: FloatArray) -> list[FloatArray]:
        """The samples in blocks that end at refits, gaps before them filled, old ones dropped."""
        missing = round((start_s - self._end_s) / self._period_s)
        if missing < 0:
            demand = demand[:, -missing:]
        elif missing:
            remembered = self._record.demand.view.shape[1] + 1
            if missing > 4 * remembered:  # a long silence is remembered as long as anything is
                self._end_s += (missing - 4 * remembered) * self._period_s
                missing = 4 * remembered
            demand = np.concatenate((np.full((self._n, missing), np.nan), demand), axis=1)
        edges = range(self._refit_samples - self._since_refit, demand.shape[1], self._refit_samples)
        return [b for b in np.split(demand, list(edges), axis=1) if b.shape[1]]

    def _absorb(self, demand: FloatArray) -> None:
        n = demand.shape[1]
        levels = self._levels.append(demand)
        issued = self._shift.draw(demand, self._mix.forecast(levels))
        issued *= self._season
        scale = self._volatility.append(self._errors(demand, issued))
        self._record.append(demand, levels, issued, np.broadcast_to(self._season, issued.shape), scale)
        self._root = issued[:, -1]
        self._shape.append(self._end_s, self._period_s, demand)
        seen = np.isfinite(demand)
        self._valid += seen.sum(axis=1)
        any_seen = seen.any(axis=1)
        last = n - seen[:, ::-1].argmax(axis=1)
        self._last_valid_s = np.where(any_seen, self._end_s + last * self._period_s, self._last_valid_s)
        self._end_s += n * self._period_s
        self._since_refit += n
        early = self._record.demand.total <= 2 * self._refit_samples and self._residuals.shape[2]
        if self._since_refit >= self._refit_samples or early:
            self._refit()

    def _errors(self, demand: FloatArray, issued: FloatArray) -> FloatArray:
        """Errors one sample ahead on the square-root scale; NaN in gaps and before the first forecast."""
        before = np.concatenate((self._root[:, None, 0], issued[:, :-1, 0]), axis=1)
        seen = np.isfinite(demand)
        first = self._valid[:, None] + np.cumsum(seen, axis=1) - seen == 0
        return np.where(first, np.nan, np.sqrt(demand) - before)

    def _refit(self) -> None:
        """Judge what has come, renew the mix, the slow ratio and the residuals."""
        self._since_refit = self._since_refit % self._refit_samples
        low, high = self._record.mature()
        self._calibrator.learn(self._record, low, high)
        self._mix.fit(self._record)
        self._shape.fit_if_due(self._end_s)
        middles_s = self._grid.ends_s - np.diff(self._grid.ends_s, prepend=0.0) / 2.0
        ratio = self._shape.ratio(self._end_s + self._config.refit_every_s / 2.0, middles_s)
        self._season = np.sqrt(ratio)[:, None, :]
        self._draw()

    def _draw(self) -> None:
        """Draw the residuals of the coming minute."""
        residuals = self._library.draw(self._record, self._n_steps, self._root)
        residuals *= self._calibrator.factor[:, None, : self._n_steps]
        self._residuals = residuals
        self._calibrator.note(self._record.demand.total, residuals)
