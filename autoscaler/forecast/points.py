"""Point forecasts in intervals of three minutes, for planners that scale by one number.

`ArimaPoint` and `KalmanPoint` stand for the forecasters of NVIDIA Dynamo's Planner: one path, the mean
demand of the next interval, refitted whenever an interval is complete. They answer with the last
interval's mean until there is enough to fit, and hold through gaps.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from statsmodels.tsa.arima.model import ARIMA
from statsmodels.tsa.statespace.structural import UnobservedComponents

from policies.arrays import FloatArray
from policies.paths import DemandPaths

INTERVAL_S = 180.0
LEAST_INTERVALS = 6
MOST_INTERVALS = 160
"""Eight hours: what a refit may cost grows with it."""


class IntervalPoint:
    """One forecast a target from the means of complete intervals; `fit` sees at least LEAST_INTERVALS."""

    def __init__(self, n_targets: int, model: str, fit: Callable[[FloatArray], float]) -> None:
        self._model = model
        self._fit = fit
        self._means: list[list[float]] = [[] for _ in range(n_targets)]
        self._pending = np.empty((n_targets, 0))
        self._point = np.full(n_targets, np.nan)
        self._recent = np.full(n_targets, np.nan)

    def update(self, start_s: float, period_s: float, demand_replicas: FloatArray) -> None:
        """Add samples; refit for every interval that they complete."""
        self._pending = np.concatenate((self._pending, demand_replicas), axis=1)
        size = round(INTERVAL_S / period_s)
        while self._pending.shape[1] >= size:
            done, self._pending = self._pending[:, :size], self._pending[:, size:]
            for i, samples in enumerate(done):
                valid = samples[np.isfinite(samples)]
                if valid.size:
                    self._means[i] = [*self._means[i][-MOST_INTERVALS:], float(valid.mean())]
                    self._point[i] = self._forecast(np.array(self._means[i]))
        for i, samples in enumerate(self._pending):
            valid = samples[np.isfinite(samples)]
            if valid.size:
                self._recent[i] = float(valid.mean())

    def _forecast(self, means: FloatArray) -> float:
        if len(means) < LEAST_INTERVALS or np.ptp(means) == 0:
            return float(means[-1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # convergence notes of a refit every three minutes
            try:
                value = self._fit(means)
            except (ValueError, np.linalg.LinAlgError):
                return float(means[-1])
        # A fit that runs away is worth less than the last value.
        return max(value, 0.0) if np.isfinite(value) and value < 4.0 * means.max() else float(means[-1])

    def paths(self, now_s: float, horizon_s: float) -> DemandPaths:
        """One path of one step; before the first complete interval, the mean of what there is."""
        point = np.where(np.isfinite(self._point), self._point, self._recent)
        known = tuple(bool(k) for k in np.isfinite(point))
        return DemandPaths(np.array([INTERVAL_S]), np.nan_to_num(point)[:, None, None], known, self._model)


def _arima(means: FloatArray) -> float:
    """ARIMA(1,1,1): the usual first choice for a level that drifts."""
    return float(ARIMA(means, order=(1, 1, 1)).fit(method_kwargs={"maxiter": 50}).forecast(1)[0])


def _kalman(means: FloatArray) -> float:
    """A local linear trend, filtered (Durbin and Koopman, Time Series Analysis by State Space Methods)."""
    fitted = UnobservedComponents(means, "local linear trend").fit(disp=False, maxiter=50)
    return float(fitted.forecast(1)[0])


class ArimaPoint(IntervalPoint):
    """Dynamo Planner's default, refitted each interval."""

    def __init__(self, n_targets: int) -> None:
        super().__init__(n_targets, "arima", _arima)


class KalmanPoint(IntervalPoint):
    """Dynamo Planner's Kalman filter, as a local linear trend."""

    def __init__(self, n_targets: int) -> None:
        super().__init__(n_targets, "kalman", _kalman)


class NoForecast:
    """For policies that never look at a forecast: the port is there, its samples go nowhere."""

    def __init__(self, n_targets: int) -> None:
        self._n_targets = n_targets

    def update(self, start_s: float, period_s: float, demand_replicas: FloatArray) -> None:
        """Nothing is kept."""

    def paths(self, now_s: float, horizon_s: float) -> DemandPaths:
        """One path of zeros that says of every target that it is unknown."""
        return DemandPaths(np.array([horizon_s]), np.zeros((self._n_targets, 1, 1)), (False,) * self._n_targets, "none")
