"""Loads whose law is known, and a forecaster walked through them; small, seeded, in replicas."""

from __future__ import annotations

import csv
from datetime import datetime
from importlib.resources import files

import numpy as np

from autoscaler.forecast import PathConfig, SamplePathForecaster
from policies.types import FloatArray


def poisson(mean: float | FloatArray, seconds: int, seed: int) -> FloatArray:
    """One target, (1, seconds)."""
    return np.random.default_rng(seed).poisson(mean, (1, seconds)).astype(float)


def gamma_bursts(seconds: int, seed: int, clients: int = 20) -> FloatArray:
    """Arrivals of a few clients, each a renewal process with Gamma intervals of cv 3, counted by second."""
    random = np.random.default_rng(seed)
    counts = np.zeros(seconds)
    for _ in range(clients):
        at_s = np.cumsum(random.gamma(1.0 / 9.0, 9.0 * 2.0, seconds)) - random.uniform(0.0, 60.0)
        inside = at_s[(at_s >= 0) & (at_s < seconds)].astype(int)
        counts += np.bincount(inside, minlength=seconds)
    return counts[None]


def azure_conv(copies: int) -> FloatArray:
    """Requests per second of the shipped Azure conversation trace, superposed at shifts of a minute."""
    path = files("simulations").joinpath("data/traces/azure_llm_2023_conv.csv")
    with path.open(encoding="utf-8") as lines:
        stamps = [datetime.fromisoformat(row["TIMESTAMP"][:26]) for row in csv.DictReader(lines)]
    seconds = np.array([(s - stamps[0]).total_seconds() for s in stamps]).astype(int)
    counts = np.bincount(seconds).astype(float)
    return sum((np.roll(counts, 60 * k) for k in range(copies)), np.zeros_like(counts))[None]


def walked(
    demand: FloatArray, seed: int = 1, every: int = 2, n_paths: int = 400, config: PathConfig | None = None
) -> SamplePathForecaster:
    """A forecaster that has seen `demand` (targets, seconds), `every` samples at a time."""
    forecaster = SamplePathForecaster(len(demand), seed=seed, n_paths=n_paths, config=config)
    for at in range(0, demand.shape[1], every):
        forecaster.update(float(at), 1.0, demand[:, at : at + every])
    return forecaster
