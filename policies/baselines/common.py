"""What the baselines have in common: trailing means, bounds, and plans that know only one tier.

A baseline answers "how many replicas now" and nothing else: it keeps nothing warm, no spare GPU and
places no snapshot, because the autoscalers that it stands for have no words for these. Its plan's
`active` is what a Deployment's `spec.replicas` would be: serving or on the way to it. What a new
replica starts from (cold, or a snapshot) is the cluster's affair, so each baseline can be run both ways.

The story goes on in `hpa.py`, `knative.py`, `planner.py` and `static.py`; `docs/baselines.md` says how
faithful each is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from policies.arrays import FloatArray
from policies.keys import TargetKey
from policies.reasons import Reason, ReasonCode, because, for_count
from policies.types import Plan, TargetObservation, TargetPlan, TargetSpec


def within_bounds(target: TargetSpec, replicas: int) -> int:
    """`replicas`, brought into [min_replicas, max_replicas]."""
    return min(max(replicas, target.min_replicas), target.max_replicas)


def trailing_mean(samples: FloatArray, sample_period_s: float, window_s: float) -> float | None:
    """Mean of the samples of the last `window_s` seconds; None if all of them are missing.

    `samples` is (samples,), oldest first. A missing sample (NaN) is left out rather than read as
    zero, and while less than a window has been seen the mean is over what there is.
    """
    count = max(round(window_s / sample_period_s), 1)
    recent = samples[-count:]
    known = recent[np.isfinite(recent)]
    return float(known.mean()) if known.size else None


def replicas_for(load: float, load_per_replica: float) -> int:
    """Whole replicas that carry `load`.

    Rounded to nine digits first, so that 2.1 at 0.7 a replica is 3 and not, for the sake of the last
    bit of a quotient, 4.
    """
    return math.ceil(round(load / load_per_replica, 9))


def hold(target: TargetSpec, seen: TargetObservation, code: ReasonCode = ReasonCode.METRICS_UNKNOWN) -> TargetPlan:
    """Without fresh metrics keep what there is, as every autoscaler compared here does."""
    kept = within_bounds(target, seen.current)
    return TargetPlan(kept, {}, (for_count(seen.current, kept), because(code, planned=kept)))


def limited_by_bounds(target: TargetSpec, wanted: int, planned: int) -> Reason:
    """Return the reason that the target's bounds changed `wanted` to `planned`."""
    return because(
        ReasonCode.BOUNDS, wanted=wanted, planned=planned, minimum=target.min_replicas, maximum=target.max_replicas
    )


def active_only(targets: Mapping[TargetKey, TargetPlan]) -> Plan:
    """A plan of active replicas: no spare GPU, no snapshot placed, and every node's cache left alone."""
    return Plan(targets)
