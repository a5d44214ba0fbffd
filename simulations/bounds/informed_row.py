"""The informed row: our policy, given the true rate and burstiness of every moment.

`bounds/informed.py` draws the sample paths; here the true rates of a scenario's traces are turned into
what it needs: requests, their burstiness, and the work that each brings.
"""

from __future__ import annotations

import numpy as np

from simulations.bounds.informed import InformedForecaster, TrueDemand
from simulations.scenario.scenario import Scenario, TargetScenario


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
