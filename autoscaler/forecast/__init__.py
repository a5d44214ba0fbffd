"""Forecasts of demand as joint sample paths.

`series.py` is what comes in and what is kept; `levels.py`, `shape.py` and `residuals.py` are the parts of
a forecast, `state.py` the value that holds them; `sample_paths.py` implements the `Forecaster` port.
"""

from autoscaler.forecast.sample_paths import PathConfig, SamplePathForecaster
from autoscaler.forecast.series import DemandFrame
from autoscaler.forecast.state import PathState

__all__ = ["DemandFrame", "PathConfig", "PathState", "SamplePathForecaster"]
