"""A forecaster that knows the law of the arrivals, not the arrivals: the best any forecast could do.

Demand in a step is a compound sum: a number of requests, each with its work. With rate r, width w,
dispersion d of counts and work of mean b and variance v, its mean is r w b and its variance
r w (v + d b^2). Paths draw it from a Gamma law with these two moments, through Wilson and Hilferty's
cube-root transform of normals that are drawn once (PNAS 17, 1931); steps and targets are independent
given the rates, whose common rise and fall is in the rates themselves.

The dispersion of a short step is smaller than the asymptotic one: a client that switches on and off
cannot send more in a step than its own rate allows, so it is capped at `1 + BURST_SHARE * r * w`.

`informed_forecaster` takes rates, burstiness and the work of a request from a scenario's traces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from autoscaler.forecast.series import DemandFrame
from autoscaler.forecast.steps import STEP_ENDS_S, step_ends
from policies.arrays import FloatArray
from policies.keys import TargetKey
from policies.paths import DemandPaths
from simulations.scenario.scenario import Scenario, TargetScenario

BURST_SHARE = 0.1
"""Share of a model's rate that its clients' switching moves together."""


@dataclass(frozen=True, slots=True)
class TrueDemand:
    """Step functions of one target: entry i holds over [edges_s[i], edges_s[i + 1])."""

    edges_s: FloatArray
    rate_rps: FloatArray
    dispersion: FloatArray
    """Asymptotic variance-to-mean ratio of counts."""
    mean_work_s: FloatArray
    """Replica-seconds of a request."""
    work_variance: FloatArray
    """Of a request's work, replica-seconds squared."""


class InformedForecaster:
    """Implements the `Forecaster` port. It has no state: it knows the law, and the past changes nothing."""

    def __init__(self, targets: Mapping[TargetKey, TrueDemand], seed: int, n_paths: int = 1000) -> None:
        self._targets = targets
        random = np.random.default_rng(np.random.SeedSequence([seed, 0x1F]))
        self._normals = {key: random.standard_normal((n_paths, len(STEP_ENDS_S))) for key in sorted(targets)}

    def initial(self) -> None:
        """Return nothing: there is no state."""

    def absorb(self, state: None, frame: DemandFrame) -> None:
        """Learn nothing."""

    def bootstrap(self, history: DemandFrame) -> None:
        """Learn nothing."""

    def retain(self, state: None, keys: frozenset[TargetKey]) -> None:
        """Forget nothing."""

    def paths(self, state: None, keys: tuple[TargetKey, ...], now_s: float, horizon_s: float) -> DemandPaths:
        """Return joint paths of `keys`, all known, up to the first step end at or past the horizon.

        Raises KeyError for a target whose law was not given.
        """
        ends_s = step_ends(horizon_s)
        paths = np.array([self._path(key, now_s, ends_s) for key in keys])
        return DemandPaths(keys, ends_s, paths, frozenset(keys), "informed")

    def _path(self, key: TargetKey, now_s: float, ends_s: FloatArray) -> FloatArray:
        """Draw one target's mean demand in each step, (paths, steps)."""
        target = self._targets[key]
        widths_s = np.diff(ends_s, prepend=0.0)
        middles_s = now_s + ends_s - widths_s / 2.0
        step = np.clip(np.searchsorted(target.edges_s, middles_s, side="right") - 1, 0, len(target.rate_rps) - 1)
        count = target.rate_rps[step] * widths_s
        dispersion = np.minimum(target.dispersion[step], 1.0 + BURST_SHARE * count)
        mean = count * target.mean_work_s[step]
        variance = count * (target.work_variance[step] + dispersion * target.mean_work_s[step] ** 2)
        return _gamma(mean, variance, self._normals[key][:, : len(ends_s)]) / widths_s


def _gamma(mean: FloatArray, variance: FloatArray, normals: FloatArray) -> FloatArray:
    """Gamma draws with the given moments (steps,) from standard normals (paths, steps)."""
    ninth = np.where(mean > 0, variance / np.maximum(mean, 1e-300) ** 2, 0.0) / 9.0
    drawn: FloatArray = mean * np.maximum(1.0 - ninth + np.sqrt(ninth) * normals, 0.0) ** 3
    return drawn


def informed_forecaster(scenario: Scenario) -> InformedForecaster:
    """Return the informed bound's forecaster for all targets of a scenario."""
    return InformedForecaster({t.wanted.key: _true_demand(t) for t in scenario.targets}, scenario.seed, n_paths=400)


def _true_demand(target: TargetScenario) -> TrueDemand:
    rate = target.open_stream().true_rate()
    work = target.work
    prompt, output = rate.mean_prompt, rate.mean_output
    mean = work.per_request_s + work.per_prompt_token_s * prompt + work.per_output_token_s * output
    var_prompt = rate.mean_prompt_square - prompt**2
    var_output = rate.mean_output_square - output**2
    covariance = rate.mean_prompt_output - prompt * output
    variance = (
        work.per_prompt_token_s**2 * var_prompt
        + work.per_output_token_s**2 * var_output
        + 2.0 * work.per_prompt_token_s * work.per_output_token_s * covariance
    )
    return TrueDemand(rate.edges_s, rate.rate_rps, rate.burstiness, mean, np.maximum(variance, 0.0))
