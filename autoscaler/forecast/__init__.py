"""Forecasts of demand as joint sample paths.

`series.py` is what comes in and what is kept; `levels.py`, `shape.py` and `residuals.py` are the parts of
a forecast; `sample_paths.py` puts them together and implements the `Forecaster` port.
"""

from autoscaler.forecast.sample_paths import PathConfig, PathState, SamplePathForecaster
from autoscaler.forecast.series import DemandFrame

__all__ = ["DemandFrame", "PathConfig", "PathState", "SamplePathForecaster"]
