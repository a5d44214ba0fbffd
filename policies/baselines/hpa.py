"""HPA v2: Kubernetes' Horizontal Pod Autoscaler on an external metric, step by step.

Follows `pkg/controller/podautoscaler` of Kubernetes 1.33: `GetExternalPerPodMetricReplicas` for the
count (AverageValue target: sum of the metric over the target per pod), `stabilizeRecommendationWith-
Behaviors` and `convertDesiredReplicasWithBehaviorRate` for `spec.behavior` (KEP-853, configurable
scale velocity). One sync, in order:

1. Outside [min, max]: straight to the nearer bound; metrics are not read.
2. Metric missing: nothing changes and nothing is recorded.
3. `ratio = sum / (target x replicas)`; within the tolerance (both edges included) the count stays,
   else `ceil(sum / target)`. Metrics are whole thousandths, as in a Kubernetes quantity.
4. Stabilisation: not above the lowest recommendation of the scale-up window, not below the highest of
   the scale-down window; a recommendation exactly as old as the window has left it.
5. Rate: rules count from the replicas at the start of their period, so what was added (or removed)
   within it is used up. Percentages round up for growth and down for shrinking.

What differs is said in `docs/baselines.md`. What the baselines share is in `common.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from policies.baselines.common import active_only, hold, limited_by_bounds, trailing_mean, within_bounds
from policies.keys import TargetKey
from policies.reasons import ReasonCode, because, for_count
from policies.types import Decision, DecisionInput, TargetObservation, TargetPlan, TargetSpec

Timed = tuple[tuple[float, int], ...]
"""(when in seconds, replicas), oldest first."""


@dataclass(frozen=True, slots=True)
class ScalingRule:
    """At most `value` pods, or percent of the replicas at its start, within any `period_s` seconds."""

    kind: Literal["pods", "percent"]
    value: int
    period_s: float


@dataclass(frozen=True, slots=True)
class Behavior:
    """One direction of `spec.behavior`; `select` picks the rule that allows the most or least change."""

    stabilization_s: float
    rules: tuple[ScalingRule, ...]
    select: Literal["max", "min", "disabled"] = "max"


SCALE_UP = Behavior(0.0, (ScalingRule("percent", 100, 15.0), ScalingRule("pods", 4, 15.0)))
SCALE_DOWN = Behavior(300.0, (ScalingRule("percent", 100, 15.0),))


@dataclass(frozen=True, slots=True)
class HpaMemory:
    """What the controller keeps for one target. Recommendations are as computed, before any limit."""

    recommendations: Timed = ()
    added: Timed = ()
    removed: Timed = ()


@dataclass(frozen=True, slots=True)
class HpaPolicy:
    """An HPA per target on mean offered demand; the defaults are Kubernetes' own.

    `utilization` is the target: the share of rated capacity that one replica should carry (0.70, a
    common choice for GPU inference). `window_s` is the metric's own averaging, such as `rate(...[30s])`:
    two scrapes of 15 s at the least, or one lost scrape leaves no value.
    """

    name: str = "hpa"
    interval_s: float = 15.0
    wants_paths: bool = False
    utilization: float = 0.70
    window_s: float = 30.0
    tolerance_up: float = 0.1
    tolerance_down: float = 0.1
    scale_up: Behavior = SCALE_UP
    scale_down: Behavior = SCALE_DOWN

    def __post_init__(self) -> None:
        if round(self.utilization * 1000) < 1:
            raise ValueError(f"utilization must be 0.001 at the least, got {self.utilization}")

    def initial(self) -> Mapping[TargetKey, HpaMemory]:
        """Return no memory of any target."""
        return {}

    def decide(
        self, given: DecisionInput, memory: Mapping[TargetKey, HpaMemory]
    ) -> Decision[Mapping[TargetKey, HpaMemory]]:
        """Sync every target; a target that left takes its memory with it."""
        synced = {
            t.key: self._sync(given, t, given.observed[t.key], memory.get(t.key, HpaMemory())) for t in given.targets
        }
        return Decision(
            active_only({k: plan for k, (plan, _) in synced.items()}), {k: m for k, (_, m) in synced.items()}
        )

    def _sync(
        self, given: DecisionInput, target: TargetSpec, seen: TargetObservation, memory: HpaMemory
    ) -> tuple[TargetPlan, HpaMemory]:
        now_s, current = given.now_s, seen.current
        if not memory.recommendations:
            # A restarted controller takes what it finds for its first recommendation, so that it does
            # not shrink a target before a whole window has been seen.
            memory = replace(memory, recommendations=((now_s, current),))
        bounded = within_bounds(target, current)
        if bounded != current:
            outside = (for_count(current, bounded), limited_by_bounds(target, current, bounded))
            return TargetPlan(bounded, {}, outside), self._recorded(memory, current, bounded, now_s)
        mean = trailing_mean(seen.demand_replicas, given.sample_period_s, self.window_s)
        if mean is None or not seen.demand_known:
            return hold(target, seen), memory
        wanted = self._wanted(mean, current)
        stable = self._stabilized(wanted, current, memory, now_s)
        limited = self._rate_limited(stable, current, memory, now_s)
        planned = within_bounds(target, limited)
        recent = _since(memory.recommendations, now_s, self._longest_window_s())
        memory = replace(memory, recommendations=(*recent, (now_s, wanted)))
        reasons = [
            for_count(current, planned),
            because(ReasonCode.DEMAND_MEASURED, demand=mean, utilization=self.utilization, wanted=wanted),
        ]
        if stable != wanted:
            reasons.append(because(ReasonCode.STABILIZED, allowed=stable, wanted=wanted))
        if limited != stable:
            reasons.append(because(ReasonCode.RATE_LIMITED, allowed=limited, wanted=stable))
        if planned != limited:
            reasons.append(limited_by_bounds(target, limited, planned))
        return TargetPlan(planned, {}, tuple(reasons)), self._recorded(memory, current, planned, now_s)

    def _wanted(self, mean: float, current: int) -> int:
        """The recommendation of one metric, from the whole thousandths that a quantity can carry."""
        usage_milli = round(mean * 1000)
        target_milli = round(self.utilization * 1000)
        if current > 0:
            ratio = usage_milli / (target_milli * current)
            if 1.0 - self.tolerance_down <= ratio <= 1.0 + self.tolerance_up:
                return current
        return math.ceil(usage_milli / target_milli)

    def _stabilized(self, wanted: int, current: int, memory: HpaMemory, now_s: float) -> int:
        up = _since(memory.recommendations, now_s, self.scale_up.stabilization_s)
        down = _since(memory.recommendations, now_s, self.scale_down.stabilization_s)
        lowest = min([wanted, *(n for _, n in up)])
        highest = max([wanted, *(n for _, n in down)])
        return min(max(current, lowest), highest)

    def _rate_limited(self, stable: int, current: int, memory: HpaMemory, now_s: float) -> int:
        if stable > current:
            return min(stable, max(_limit(self.scale_up, current, memory, now_s, grow=True), current))
        if stable < current:
            return max(stable, min(_limit(self.scale_down, current, memory, now_s, grow=False), current))
        return current

    def _recorded(self, memory: HpaMemory, current: int, planned: int, now_s: float) -> HpaMemory:
        """`memory` with the change, if any, as a scale event; events that no rule can count are dropped."""
        period_s = max((r.period_s for r in (*self.scale_up.rules, *self.scale_down.rules)), default=0.0)
        added = _since(memory.added, now_s, period_s)
        removed = _since(memory.removed, now_s, period_s)
        if planned > current:
            added = (*added, (now_s, planned - current))
        elif planned < current:
            removed = (*removed, (now_s, current - planned))
        return replace(memory, added=added, removed=removed)

    def _longest_window_s(self) -> float:
        return max(self.scale_up.stabilization_s, self.scale_down.stabilization_s)


def _since(timed: Timed, now_s: float, window_s: float) -> Timed:
    """What is younger than `window_s`; exactly as old is too old (Go's `After(cutoff)`)."""
    return tuple((at_s, n) for at_s, n in timed if at_s > now_s - window_s)


def _limit(behavior: Behavior, current: int, memory: HpaMemory, now_s: float, grow: bool) -> int:
    """The replica count that a direction's rules allow now."""
    if behavior.select == "disabled" or not behavior.rules:
        return current
    allowed = []
    for rule in behavior.rules:
        added = sum(n for _, n in _since(memory.added, now_s, rule.period_s))
        removed = sum(n for _, n in _since(memory.removed, now_s, rule.period_s))
        allowed.append(_allowed(rule, current - added + removed, grow))
    # The most change is the highest count when growing and the lowest when shrinking.
    return max(allowed) if (behavior.select == "max") == grow else min(allowed)


def _allowed(rule: ScalingRule, at_start: int, grow: bool) -> int:
    sign = 1 if grow else -1
    if rule.kind == "pods":
        return at_start + sign * rule.value
    share = at_start * (1 + sign * rule.value / 100)
    return math.ceil(share) if grow else int(share)
