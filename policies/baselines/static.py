"""Static peak: as many replicas all the time as the busiest moment needs.

What most GPU fleets do today, and the price that every autoscaler must beat. The counts come from
the caller, who knows the trace and so its peak; no real operator does, which makes this baseline
look better than it is. What the baselines share is in `common.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from policies.baselines.common import active_only, hold, limited_by_bounds, within_bounds
from policies.keys import TargetKey
from policies.reasons import ReasonCode, because, for_count
from policies.types import Decision, DecisionInput, TargetObservation, TargetPlan, TargetSpec


@dataclass(frozen=True, slots=True)
class StaticPolicy:
    """Constant replicas per target, by the target's key.

    `interval_s` matters only when a replica is lost: that is how soon its successor is asked for.
    15 s is near a Deployment's reaction to a failed pod with its probes, and costs nothing.
    """

    replicas: Mapping[TargetKey, int]
    name: str = "static-peak"
    interval_s: float = 15.0
    wants_paths: bool = False

    def initial(self) -> None:
        """No memory."""

    def decide(self, given: DecisionInput, memory: None) -> Decision[None]:
        """Plan the fixed counts; KeyError for a target without one."""
        return Decision(active_only({t.key: self._plan(t, given.observed[t.key]) for t in given.targets}), memory)

    def _plan(self, target: TargetSpec, seen: TargetObservation) -> TargetPlan:
        wanted = self.replicas[target.key]
        fixed = within_bounds(target, wanted)
        if not seen.demand_known and seen.current > fixed:
            # The count does not depend on demand, but a start that happens to hold more than the
            # count must not be cut while the load is unknown: unknown is not zero.
            return hold(target, seen)
        reasons = [for_count(seen.current, fixed), because(ReasonCode.FIXED_COUNT, wanted=wanted)]
        if fixed != wanted:
            reasons.append(limited_by_bounds(target, wanted, fixed))
        return TargetPlan(fixed, {}, tuple(reasons))
