"""Forecasts of demand: sample paths for our policy, points for planners."""

from autoscaler.forecast.points import ArimaPoint, KalmanPoint, NoForecast
from autoscaler.forecast.sample_paths import PathConfig, SamplePathForecaster

__all__ = ["ArimaPoint", "KalmanPoint", "NoForecast", "PathConfig", "SamplePathForecaster"]
