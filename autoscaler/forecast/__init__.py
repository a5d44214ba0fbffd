"""Forecasts of demand: sample paths for our policy, points for planners, and how good each is.

Begin with `sample_paths.py`, which times everything else. It stands on `grid.py` (the steps of a forecast)
and `record.py` (what was said and what came); the forecast is made in `levels.py` (the last quarter of an
hour) and `shape.py` with `bins.py` (days and weeks); its uncertainty in `residuals.py`, `volatility.py`
and `calibration.py`. `points.py` holds the forecasters of planner baselines, `naive.py` those that any
model must beat, `backtest.py` the judge. `docs/forecast.md` tells it to a user.
"""

from autoscaler.forecast.backtest import BacktestRow, BacktestTable, backtest
from autoscaler.forecast.naive import Ewma, LastValue, SeasonalNaive
from autoscaler.forecast.points import ArimaPoint, KalmanPoint, NoForecast, PointConfig
from autoscaler.forecast.sample_paths import PathConfig, SamplePathForecaster

__all__ = [
    "ArimaPoint",
    "BacktestRow",
    "BacktestTable",
    "Ewma",
    "KalmanPoint",
    "LastValue",
    "NoForecast",
    "PathConfig",
    "PointConfig",
    "SamplePathForecaster",
    "SeasonalNaive",
    "backtest",
]
