"""Series for the forecast tests: targets by name, loads by law, frames cut in any way."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from autoscaler.forecast import DemandFrame, PathConfig, PathState, SamplePathForecaster
from policies.arrays import FloatArray
from policies.keys import TargetKey

Loads = Mapping[TargetKey, FloatArray]


def key(name: str = "a") -> TargetKey:
    return TargetKey("default", name)


def poisson(mean: float, seconds: int, seed: int) -> FloatArray:
    return np.random.default_rng(seed).poisson(mean, seconds).astype(float)


def forecaster(seed: int = 1, n_paths: int = 400) -> SamplePathForecaster:
    return SamplePathForecaster(seed=seed, config=PathConfig(n_paths=n_paths))


def frame(loads: Loads, begin: int, end: int) -> DemandFrame:
    """The samples from second `begin` to `end`, one a second."""
    return DemandFrame(float(begin), 1.0, {k: load[begin:end] for k, load in loads.items()})


def fed(of: SamplePathForecaster, loads: Loads, every: int = 2, state: PathState | None = None) -> PathState:
    """The state after all of `loads`, a few samples at a time."""
    state = of.initial() if state is None else state
    for begin in range(0, len(next(iter(loads.values()))), every):
        state = of.absorb(state, frame(loads, begin, begin + every))
    return state
