"""Planner: every three minutes, as many replicas as a point forecast of the next interval needs.

Modelled on the throughput mode of NVIDIA Dynamo's Planner (`components/src/dynamo/planner/core/
throughput_scaling.py`, design document "Planner Design"): once per adjustment interval (180 s by
default) it predicts the next interval's request count and lengths by ARIMA, Kalman filter, Prophet or
the last value, and sets `ceil(demand / throughput of one engine at the SLA)`, at least one.

Two things differ, and why:

- Demand comes in replicas, priced by the same work model as for every other policy, so the profile's
  throughput is 1.0 by definition; `utilization` scales it for those who profile with a margin.
- No correction factor. Releases up to 0.9 divided observed by expected latency (TTFT for prefill, ITL
  for decode) and read the profile at the corrected SLA; neither latency nor the profile's curve is
  among a policy's inputs. The prefill factor was capped at 1, so it could only take replicas away, and
  later source has none: it fits its engine model to live samples instead. A constant
  factor can still be had through `utilization`.

The forecast is the caller's: one path from a point forecaster, or the mean of many. What the
baselines share is in `common.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.baselines.common import active_only, hold, limited_by_bounds, replicas_for, within_bounds
from policies.keys import TargetKey
from policies.paths import DemandPaths
from policies.reasons import ReasonCode, because, for_count
from policies.types import Decision, DecisionInput, TargetPlan, TargetSpec


@dataclass(frozen=True, slots=True)
class PlannerPolicy:
    """A point forecast of the mean demand until the next decision, and no margin.

    `label` names the forecaster behind the paths, such as `planner-arima`. `utilization` is the share
    of profiled throughput that may be planned for: 1.0 as in Dynamo, whose profile already stops at
    the SLA.
    """

    label: str = "planner"
    interval_s: float = 180.0
    utilization: float = 1.0
    wants_paths: bool = True

    def __post_init__(self) -> None:
        if self.interval_s <= 0:
            raise ValueError(f"the interval must be positive, got {self.interval_s} s")
        if self.utilization <= 0:
            raise ValueError(f"utilization must be positive, got {self.utilization}")

    @property
    def name(self) -> str:
        return self.label

    def initial(self) -> None:
        """No memory: what the Planner remembers of the past lives in its forecaster."""

    def decide(self, given: DecisionInput, memory: None) -> Decision[None]:
        """Plan every target from its own point forecast."""
        forecast = {} if given.paths is None else mean_demand(given.paths, self.interval_s)
        return Decision(active_only({t.key: self._plan(t, given, forecast.get(t.key)) for t in given.targets}), memory)

    def _plan(self, target: TargetSpec, given: DecisionInput, forecast: float | None) -> TargetPlan:
        seen = given.observed[target.key]
        if not seen.demand_known:
            return hold(target, seen)
        if forecast is None:
            return hold(target, seen, ReasonCode.NO_FORECAST)
        wanted = replicas_for(forecast, self.utilization)
        planned = within_bounds(target, wanted)
        reasons = [
            for_count(seen.current, planned),
            because(ReasonCode.DEMAND_FORECAST, demand=forecast, utilization=self.utilization, wanted=wanted),
        ]
        if planned != wanted:
            reasons.append(limited_by_bounds(target, wanted, planned))
        return TargetPlan(planned, {}, tuple(reasons))


def mean_demand(paths: DemandPaths, until_s: float) -> dict[TargetKey, float]:
    """Mean demand from now to `until_s`, in replicas, by target: over paths, and over steps by length.

    A target without entry is one that the forecaster knows nothing of yet. Paths that end sooner than `until_s`
    are averaged over what they cover.
    """
    if not paths.paths.shape[1] or not len(paths.step_ends_s):
        return {}
    widths_s = np.diff(np.minimum(paths.step_ends_s, until_s), prepend=0.0)
    mean = paths.paths.mean(axis=1) @ (widths_s / widths_s.sum())
    return {k: float(m) for k, m in zip(paths.keys, mean, strict=True) if k in paths.known and np.isfinite(m)}
