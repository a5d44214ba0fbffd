"""The forecasters of the table's baseline rows: point forecasts for planners, and none at all.

`ArimaPoint` and `KalmanPoint` stand for the forecasters of NVIDIA Dynamo's Planner: one path, the mean
demand of the next interval of three minutes, refitted whenever an interval is complete. They answer with
the last interval's mean until there is enough to fit, and hold through gaps. They follow the autoscaler's
`Forecaster` port and serve the simulator alone; statsmodels is its dependency, not the controller's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from statsmodels.tsa.arima.model import ARIMA
from statsmodels.tsa.statespace.structural import UnobservedComponents

from autoscaler.forecast.series import DemandFrame
from policies.arrays import FloatArray
from policies.keys import TargetKey
from policies.paths import DemandPaths

INTERVAL_S = 180.0
LEAST_INTERVALS = 6
"""A model of three parameters needs more values than that."""
MOST_INTERVALS = 160
"""Eight hours: what a refit may cost grows with it."""
MOST_GROWTH = 4.0
"""A fit that promises more than this many times the highest mean has run away: the last mean is worth more."""


@dataclass(frozen=True, slots=True)
class _Series:
    """One target: means of complete intervals, the forecast made from them, the mean since; NaN if none."""

    means: tuple[float, ...] = ()
    point: float = np.nan
    recent: float = np.nan

    def with_interval(self, mean: float, forecast: Callable[[FloatArray], float]) -> _Series:
        """Return the series with one more interval, forecast anew; an interval without samples changes nothing."""
        if np.isnan(mean):
            return self
        means = (*self.means[-MOST_INTERVALS:], mean)
        return replace(self, means=means, point=forecast(np.array(means)))


@dataclass(frozen=True, slots=True, eq=False)
class PointState:
    """Series by key, and the samples of the interval that is not yet complete."""

    until_s: float
    period_s: float
    series: Mapping[TargetKey, _Series]
    pending: Mapping[TargetKey, FloatArray]

    @property
    def n_pending(self) -> int:
        """Return the number of samples of the interval that is not complete."""
        return len(next(iter(self.pending.values()))) if self.pending else 0


class IntervalPoint:
    """One forecast a target from the means of complete intervals; `fit` sees at least LEAST_INTERVALS."""

    def __init__(self, model: str, fit: Callable[[FloatArray], float]) -> None:
        self._model = model
        self._fit = fit

    def initial(self) -> PointState:
        """Return the state that knows nothing."""
        return PointState(-np.inf, np.nan, {}, {})

    def bootstrap(self, history: DemandFrame) -> PointState:
        """Return the state after `history`."""
        return self.absorb(self.initial(), history)

    def absorb(self, state: PointState, frame: DemandFrame) -> PointState:
        """Return the state after the new samples of `frame`; refit for every interval that they complete."""
        size = round(INTERVAL_S / frame.period_s)
        fresh = frame.after(state.until_s, most_missing=size * MOST_INTERVALS)
        if not fresh.n_samples:
            return state
        pending = _appended(state, fresh)
        series = {key: state.series.get(key, _Series()) for key in pending}
        for end in range(size, state.n_pending + fresh.n_samples + 1, size):
            series = {
                key: one.with_interval(_mean(pending[key][end - size : end]), self._forecast)
                for key, one in series.items()
            }
        done = (state.n_pending + fresh.n_samples) // size * size
        pending = {key: samples[done:] for key, samples in pending.items()}
        series = {key: replace(one, recent=_mean(pending[key], one.recent)) for key, one in series.items()}
        return PointState(fresh.until_s, fresh.period_s, series, pending)

    def retain(self, state: PointState, keys: frozenset[TargetKey]) -> PointState:
        """Return the state without all targets but `keys`."""
        return replace(
            state,
            series={key: one for key, one in state.series.items() if key in keys},
            pending={key: samples for key, samples in state.pending.items() if key in keys},
        )

    def paths(self, state: PointState, keys: tuple[TargetKey, ...], now_s: float, horizon_s: float) -> DemandPaths:
        """Return one path of one step; before the first complete interval, the mean of what there is."""
        series = [state.series.get(key, _Series()) for key in keys]
        point = np.array([one.recent if np.isnan(one.point) else one.point for one in series])
        known = frozenset(key for key, value in zip(keys, point, strict=True) if np.isfinite(value))
        return DemandPaths(keys, np.array([INTERVAL_S]), np.nan_to_num(point)[:, None, None], known, self._model)

    def _forecast(self, means: FloatArray) -> float:
        last = float(means[-1])
        if len(means) < LEAST_INTERVALS or np.ptp(means) == 0:
            return last
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # convergence notes of a refit every three minutes
            try:
                value = self._fit(means)
            except (ValueError, np.linalg.LinAlgError):
                return last
        return max(value, 0.0) if np.isfinite(value) and value < MOST_GROWTH * means.max() else last


def _appended(state: PointState, frame: DemandFrame) -> dict[TargetKey, FloatArray]:
    """Append the samples of `frame` to the pending ones; what a target lacks on either side is a gap."""
    before, after = np.full(state.n_pending, np.nan), np.full(frame.n_samples, np.nan)
    keys = (*state.series, *(key for key in frame.demand if key not in state.series))
    return {key: np.concatenate((state.pending.get(key, before), frame.demand.get(key, after))) for key in keys}


def _mean(samples: FloatArray, otherwise: float = np.nan) -> float:
    valid = samples[np.isfinite(samples)]
    return float(valid.mean()) if valid.size else otherwise


def _arima(means: FloatArray) -> float:
    """Forecast by ARIMA(1,1,1): the usual first choice for a level that drifts."""
    return float(ARIMA(means, order=(1, 1, 1)).fit(method_kwargs={"maxiter": 50}).forecast(1)[0])


def _kalman(means: FloatArray) -> float:
    """Filter a local linear trend (Durbin and Koopman, Time Series Analysis by State Space Methods)."""
    fitted = UnobservedComponents(means, "local linear trend").fit(disp=False, maxiter=50)
    return float(fitted.forecast(1)[0])


class ArimaPoint(IntervalPoint):
    """Dynamo Planner's default, refitted each interval."""

    def __init__(self) -> None:
        super().__init__("arima", _arima)


class KalmanPoint(IntervalPoint):
    """Dynamo Planner's Kalman filter, as a local linear trend."""

    def __init__(self) -> None:
        super().__init__("kalman", _kalman)


class NoForecast:
    """For policies that never look at a forecast: its state is nothing, its samples go nowhere."""

    def initial(self) -> None:
        """Return nothing: there is no state."""

    def absorb(self, state: None, frame: DemandFrame) -> None:
        """Keep nothing."""

    def bootstrap(self, history: DemandFrame) -> None:
        """Keep nothing."""

    def retain(self, state: None, keys: frozenset[TargetKey]) -> None:
        """Forget nothing, since nothing is kept."""

    def paths(self, state: None, keys: tuple[TargetKey, ...], now_s: float, horizon_s: float) -> DemandPaths:
        """Return one path of zeros and no known target."""
        return DemandPaths(keys, np.array([horizon_s]), np.zeros((len(keys), 1, 1)), frozenset(), "none")
