"""Static peak: as many replicas all the time as the busiest moment needs.

What most GPU fleets do today, and the price that every autoscaler must beat. The counts come from
the caller, who knows the trace and so its peak; no real operator does, which makes this baseline
look better than it is. What the baselines share is in `baselines.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from policies.baselines.common import active_only, change_code, current_replicas, within_bounds
from policies.types import Decision, DecisionInput, Reason, TargetObservation, TargetPlan, TargetSpec


@dataclass(frozen=True, slots=True)
class StaticPolicy:
    """Constant replicas per target, by the target's name.

    `interval_s` matters only when a replica is lost: that is how soon its successor is asked for.
    15 s is near a Deployment's reaction to a failed pod with its probes, and costs nothing.
    """

    replicas: Mapping[str, int]
    name: str = "static-peak"
    interval_s: float = 15.0
    wants_paths: bool = False

    def initial(self, targets: tuple[TargetSpec, ...]) -> None:
        """No memory. Raises ValueError when a target has no count."""
        missing = [t.name for t in targets if t.name not in self.replicas]
        if missing:
            raise ValueError(f"static policy knows no replica count for {', '.join(missing)}")

    def decide(self, given: DecisionInput, memory: None) -> Decision:
        pairs = zip(given.targets, given.observed, strict=True)
        return Decision(active_only(tuple(self._plan(t, o) for t, o in pairs)), memory)

    def _plan(self, target: TargetSpec, seen: TargetObservation) -> TargetPlan:
        fixed = within_bounds(target, self.replicas[target.name])
        current = current_replicas(seen)
        if not seen.demand_known and current > fixed:
            # The count does not depend on demand, but a start that happens to hold more than the
            # count must not be cut while nobody can see the load: unknown is not zero.
            kept = within_bounds(target, current)
            text = f"no fresh metrics: holding {kept} replicas, not cutting to the fixed {fixed}"
            return TargetPlan(kept, {}, (Reason("metrics-missing", text),))
        text = f"fixed at {fixed} replicas, whatever the load; {current} now"
        return TargetPlan(fixed, {}, (Reason(change_code(current, fixed), text),))
