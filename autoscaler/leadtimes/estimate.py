"""Estimates: what outcomes say of one path, blended with what was known before them.

All durations are ratios to the prior's mean attempt for the size of the replica, so that outcomes of
a small model inform the lead time of a large one. Three sources, nearest last: the file (PRIOR_WEIGHT
pseudo-observations spread over its quantiles), other targets on the same path and node class, and the
target itself. The first two together always weigh PRIOR_WEIGHT beside the target's own outcomes; of
that the shared ones have the part E / (PRIOR_WEIGHT + E), E their weight. A target never seen
therefore has the estimate of its path and node class, and one often seen its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from autoscaler.leadtimes.observation import StartObservation, StartOutcome
from autoscaler.leadtimes.records import Records
from autoscaler.leadtimes.survival import survival_shares
from policies.arrays import FloatArray
from policies.keys import TargetKey
from policies.leadtime import LeadTime

PRIOR_WEIGHT: Final = 10.0
"""Outcomes that the prior counts for: after ten starts the file and what was seen weigh the same."""
FAILURE_LENGTH_WEIGHT: Final = 1.0
"""Failures that the prior counts for in how long failing takes; they are rare, so few must suffice."""
CODES: Final = {StartOutcome.SUCCEEDED: 0, StartOutcome.FAILED: 1, StartOutcome.PENDING: 2}


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Outcomes of one key as arrays (records,): ratio to the prior's mean, weight, code of CODES."""

    ratio: FloatArray
    weight: FloatArray
    code: NDArray[np.int8]
    targets: dict[TargetKey | None, list[int]]
    """Positions of each target's records."""

    def without(self, target: TargetKey | None) -> Evidence:
        """The evidence of all other targets, so that nothing counts both as own and as shared."""
        own = self.targets.get(target)
        if own is None:
            return self
        others = np.ones(len(self.ratio), dtype=np.bool_)
        others[own] = False
        return Evidence(self.ratio[others], self.weight[others], self.code[others], {})


NO_EVIDENCE: Final = Evidence(np.empty(0), np.empty(0), np.empty(0, dtype=np.int8), {})


def evidence(records: Records, typical_s: Callable[[StartObservation], float]) -> Evidence:
    """Arrays of `records`; `typical_s` gives the prior's mean attempt for a record's size, above 0."""
    kept = (*records.ended, *records.pending)
    targets: dict[TargetKey | None, list[int]] = {}
    for position, record in enumerate(kept):
        targets.setdefault(record.target, []).append(position)
    ratio = np.array([r.elapsed_s / typical_s(r) for r in kept])
    return Evidence(ratio, records.weights(), np.array([CODES[r.outcome] for r in kept], dtype=np.int8), targets)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is believed of one path for one size, in seconds."""

    attempt_s: tuple[float, ...]
    """Means of equal shares of an attempt that succeeds."""
    failure_probability: float
    failure_excess_s: float
    """How much longer an attempt that fails takes on the mean than one that succeeds; may be negative."""


def mean_attempt_s(prior: LeadTime) -> float:
    """Mean of an attempt by itself, without what follows a failure."""
    return sum(prior.quantiles_s) / len(prior.quantiles_s)


def estimate(prior: LeadTime, own: Evidence, shared: Evidence) -> Estimate:
    """Posterior of one path from its prior, its own outcomes and those that others share.

    Attempts that succeed: Kaplan-Meier over all three, pending ones censored. Failures: the mean of a
    Beta with PRIOR_WEIGHT pseudo-observations (Gelman et al., Bayesian Data Analysis, 2.4); pending
    ones count as neither. The excess of failures compares attempts that ended.
    """
    mean_s = mean_attempt_s(prior)
    lent = PRIOR_WEIGHT / (PRIOR_WEIGHT + float(shared.weight[shared.code != 2].sum()))
    known = np.asarray(prior.quantiles_s) / mean_s
    ratio = np.concatenate((known, shared.ratio, own.ratio))
    weight = np.concatenate((np.full(len(known), PRIOR_WEIGHT * lent / len(known)), shared.weight * lent, own.weight))
    code = np.concatenate((np.zeros(len(known), dtype=np.int8), shared.code, own.code))
    succeeded, failed = code == 0, code == 1
    failed_weight = float(weight[failed].sum())
    tried = float(weight[succeeded].sum()) + failed_weight
    probability = (PRIOR_WEIGHT * lent * prior.failure_probability + failed_weight) / tried
    excess = 0.0
    if failed_weight:
        success = float(np.average(ratio[succeeded], weights=weight[succeeded]))
        excess = float(weight[failed] @ (ratio[failed] - success)) / (FAILURE_LENGTH_WEIGHT + failed_weight)
    attempts = survival_shares(ratio[~failed], weight[~failed], succeeded[~failed])
    return Estimate(tuple((attempts * mean_s).tolist()), probability, excess * mean_s)
