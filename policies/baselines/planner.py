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
baselines share is in `baselines.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.baselines.common import active_only, change_code, current_replicas, hold, replicas_for, within_bounds
from policies.paths import DemandPaths
from policies.types import (
    Decision,
    DecisionInput,
    FloatArray,
    Reason,
    TargetPlan,
    TargetSpec,
)


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

    def initial(self, targets: tuple[TargetSpec, ...]) -> None:
        """No memory: what the Planner remembers of the past lives in its forecaster."""

    def decide(self, given: DecisionInput, memory: None) -> Decision:
        keys = tuple(t.key for t in given.targets)
        forecast = None if given.paths is None else mean_demand(given.paths.rows(keys), self.interval_s)
        plans = tuple(self._plan(given, forecast, i) for i in range(len(given.targets)))
        return Decision(active_only(plans), memory)

    def _plan(self, given: DecisionInput, forecast: FloatArray | None, i: int) -> TargetPlan:
        target, seen = given.targets[i], given.observed[i]
        if not seen.demand_known:
            return hold(target, seen, "no fresh demand to forecast from")
        if forecast is None or not np.isfinite(forecast[i]):
            return hold(target, seen, "no forecast yet")
        wanted = replicas_for(float(forecast[i]), self.utilization)
        planned = within_bounds(target, wanted)
        text = (
            f"{forecast[i]:.2f} replicas of demand forecast for the next {self.interval_s:.0f} s "
            f"want {wanted} at {self.utilization:.0%}; {planned} planned"
        )
        return TargetPlan(planned, {}, (Reason(change_code(current_replicas(seen), planned), text),))


def mean_demand(paths: DemandPaths, until_s: float) -> FloatArray:
    """Return mean demand from now to `until_s`, in replicas, (targets,) after `paths.keys`.

    The mean is over paths, and over steps by length.

    NaN where the forecaster says that it knows nothing yet. Paths that end sooner than `until_s` are
    averaged over what they cover.
    """
    unknown = np.full(len(paths.keys), np.nan)
    if not paths.paths.shape[1] or not len(paths.step_ends_s):
        return unknown
    widths_s = np.diff(np.minimum(paths.step_ends_s, until_s), prepend=0.0)
    mean = paths.paths.mean(axis=1) @ (widths_s / widths_s.sum())
    return np.where([key in paths.known for key in paths.keys], mean, unknown)
