"""Point forecasts in intervals of three minutes, for planners that scale by one number.

`ArimaPoint` and `KalmanPoint` stand for the forecasters of NVIDIA Dynamo's Planner: one path of one step,
the mean demand of the next interval, refitted whenever an interval is complete and cached between. They
answer with the last interval's mean until there is enough to fit, and hold through gaps: an interval
without samples is a gap in the fitted series, which both models filter through. `NoForecast` is for
policies that look at none. Forecasts with uncertainty are in `sample_paths.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from statsmodels.tsa.arima.model import ARIMA
from statsmodels.tsa.statespace.structural import UnobservedComponents

from policies.types import DemandPaths, FloatArray

MOST_GROWTH = 4.0
"""A fit that promises more than this times the highest interval has run away: the last value is used."""


@dataclass(frozen=True, slots=True)
class PointConfig:
    """`interval_s` is Dynamo Planner's adjustment interval; `most_intervals` (four hours) bounds a refit."""

    interval_s: float = 180.0
    least_intervals: int = 6
    most_intervals: int = 80
    stale_after_s: float = 600.0
    """Without a valid sample for this long a target is unknown: three intervals of a planner."""


class IntervalPoint:
    """One forecast a target from the means of complete intervals, NaN where an interval had no sample."""

    def __init__(
        self,
        n_targets: int,
        model: str,
        fit: Callable[[FloatArray], float],
        config: PointConfig | None = None,
    ) -> None:
        self._config = config or PointConfig()
        self._model = model
        self._fit = fit
        self._n = n_targets
        self._means = np.empty((n_targets, 0))
        self._pending = np.empty((n_targets, 0))
        self._end_s = 0.0
        self._started = False
        self._last_valid_s = np.full(n_targets, -np.inf)
        self._point = np.full(n_targets, np.nan)

    def update(self, start_s: float, period_s: float, demand_replicas: FloatArray) -> None:
        """Add samples; refit once if they complete an interval. A jump forward of `start_s` is a gap."""
        if not self._started:
            self._started, self._end_s = True, start_s
        missing = round((start_s - self._end_s) / period_s)
        gap = np.full((self._n, max(missing, 0)), np.nan)
        demand = np.concatenate((gap, demand_replicas[:, max(-missing, 0) :]), axis=1)
        seen = np.isfinite(demand)
        last = demand.shape[1] - seen[:, ::-1].argmax(axis=1) if demand.shape[1] else 0
        any_seen = seen.any(axis=1)
        self._last_valid_s = np.where(any_seen, self._end_s + last * period_s, self._last_valid_s)
        self._end_s += demand.shape[1] * period_s
        self._pending = np.concatenate((self._pending, demand), axis=1)
        size = max(round(self._config.interval_s / period_s), 1)
        n_done = self._pending.shape[1] // size
        if n_done:
            done, self._pending = np.split(self._pending, [n_done * size], axis=1)
            new = _valid_means(done.reshape(self._n, n_done, size))
            self._means = np.concatenate((self._means, new), axis=1)[:, -self._config.most_intervals :]
            self._point = np.array([self._forecast(means) for means in self._means])

    def paths(self, now_s: float, horizon_s: float) -> DemandPaths:
        """One path of one step; before the first complete interval, the mean of what there is."""
        point = np.where(np.isfinite(self._point), self._point, _valid_means(self._pending))
        fresh = now_s - self._last_valid_s <= self._config.stale_after_s
        known = tuple((np.isfinite(point) & fresh).tolist())
        return DemandPaths(np.array([self._config.interval_s]), np.nan_to_num(point)[:, None, None], known, self._model)

    def _forecast(self, means: FloatArray) -> float:
        valid = means[np.isfinite(means)]
        if valid.size == 0:
            return np.nan
        last = float(valid[-1])
        if valid.size < self._config.least_intervals or np.ptp(valid) == 0:
            return last
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # convergence notes of a refit every three minutes
            try:
                value = self._fit(means[int(np.isfinite(means).argmax()) :])
            except (ValueError, np.linalg.LinAlgError):
                return last
        runaway = not np.isfinite(value) or value > MOST_GROWTH * valid.max()
        return last if runaway else max(value, 0.0)


def _valid_means(samples: FloatArray) -> FloatArray:
    """Mean over the last axis of what is there; NaN where nothing is."""
    valid = np.isfinite(samples)
    count = valid.sum(axis=-1)
    means: FloatArray = np.where(valid, samples, 0.0).sum(axis=-1) / np.where(count > 0, count, np.nan)
    return means


def _arima(means: FloatArray) -> float:
    """ARIMA(1,1,1): the usual first choice for a level that drifts."""
    return float(ARIMA(means, order=(1, 1, 1)).fit(method_kwargs={"maxiter": 50}).forecast(1)[0])


def _kalman(means: FloatArray) -> float:
    """A local linear trend, filtered (Durbin and Koopman, Time Series Analysis by State Space Methods)."""
    fitted = UnobservedComponents(means, "local linear trend").fit(disp=False, maxiter=50)
    return float(fitted.forecast(1)[0])


class ArimaPoint(IntervalPoint):
    """Dynamo Planner's default, refitted each interval."""

    def __init__(self, n_targets: int, config: PointConfig | None = None) -> None:
        super().__init__(n_targets, "arima", _arima, config)


class KalmanPoint(IntervalPoint):
    """Dynamo Planner's Kalman filter, as a local linear trend."""

    def __init__(self, n_targets: int, config: PointConfig | None = None) -> None:
        super().__init__(n_targets, "kalman", _kalman, config)


class NoForecast:
    """For policies that never look at a forecast: the port is there, its samples go nowhere."""

    def __init__(self, n_targets: int) -> None:
        self._n_targets = n_targets

    def update(self, start_s: float, period_s: float, demand_replicas: FloatArray) -> None:
        """Nothing is kept."""

    def paths(self, now_s: float, horizon_s: float) -> DemandPaths:
        """One path of zeros that says of every target that it is unknown."""
        return DemandPaths(np.array([horizon_s]), np.zeros((self._n_targets, 1, 1)), (False,) * self._n_targets, "none")
