"""What a trace really brings, bin by bin: the clairvoyant bound's knowledge.

One pass over a stream, in pieces, so that a trace of any length fits in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.types import FloatArray
from simulations.scenario import Scenario, TargetScenario

PIECE_S = 60.0


@dataclass(frozen=True, slots=True)
class WorkProfile:
    """Per bin of `bin_s` from the end of the warm-up on: least work in replica-seconds, and requests."""

    bin_s: float
    work_s: FloatArray
    requests: FloatArray


def work_profile(scenario: Scenario, target: TargetScenario, bin_s: float) -> WorkProfile:
    """Read the target's arrivals once and add up the least work that they can cost."""
    stream = target.open_stream()
    stream.take_until(scenario.warmup_s)
    n_bins = int(np.ceil((scenario.duration_s - scenario.warmup_s) / bin_s - 1e-9))
    work, requests = np.zeros(n_bins), np.zeros(n_bins)
    at_s = scenario.warmup_s
    while at_s < scenario.duration_s:
        at_s = min(at_s + PIECE_S, scenario.duration_s)
        times_s, prompts, outputs = stream.take_until(at_s)
        if len(times_s) == 0:
            continue
        bins = np.minimum(((times_s - scenario.warmup_s) / bin_s).astype(np.int64), n_bins - 1)
        work += np.bincount(bins, target.service.least_work(prompts, outputs), n_bins)
        requests += np.bincount(bins, minlength=n_bins)
    return WorkProfile(bin_s, work, requests)
