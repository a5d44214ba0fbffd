"""Knative's pod autoscaler (KPA): a slow window to follow, a fast one to panic by.

Follows `Scale` in `pkg/autoscaler/scaling/autoscaler.go` of knative/serving, defaults as in its
`config-autoscaler`. At every tick, with `ready` the ready replicas (one, if there are none):

1. `stable` and `panic` are the means of requests in flight, running and queued, over 60 s and 6 s;
   each wants `ceil(mean / (rated concurrency x 70%))`, kept within [floor(ready / 2), 1000 x ready].
2. Panic begins, or is prolonged, when the panic window alone wants twice the ready replicas or more.
   It ends when that has not happened for *more* than one stable window.
3. In panic the larger of the two counts, and never fewer than the most that this panic has wanted.
4. Optionally scale-down waits until every count of the last `scale_down_delay_s` was lower.
5. Bounds last.

A KPA that starts beside more than one ready replica starts in panic, because it has no past to
justify shrinking by.

Both of Knative's own metrics are there. `concurrency`, its default, fits servers whose requests do not
slow one another down; a batching replica with 70% of its rated requests in flight is all but saturated,
because a smaller batch is served faster, so the KPA holds too few replicas and swings. `rps` counts
offered requests against rated throughput (here as demand in replicas, so that long requests weigh more)
and is what the comparisons use: the kinder choice.

Scale to zero and activation are left out: here `min_replicas` says where to stop.
What else differs is said in `docs/baselines.md`; what the baselines share is in `common.py`.
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

LEAST_TARGET = 0.01
"""Knative's lower limit for the target value (`autoscaling.TargetMin`)."""


@dataclass(frozen=True, slots=True)
class KnativeMemory:
    """What the KPA keeps for one target. `recent` holds (tick number, replicas) for the scale-down delay."""

    begun: bool = False
    panicked_at_s: float | None = None
    """When the panic threshold was last crossed; None outside panic."""
    most_in_panic: int = 0
    recent: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class KnativePolicy:
    """A KPA per target; the defaults are Knative's own."""

    name: str = "knative"
    interval_s: float = 2.0
    wants_paths: bool = False
    metric: Literal["concurrency", "rps"] = "concurrency"
    utilization: float = 0.70
    """Of rated concurrency (`container-concurrency-target-percentage`) or rated throughput."""
    stable_window_s: float = 60.0
    panic_window_share: float = 0.10
    panic_threshold: float = 2.0
    """Replicas wanted over replicas ready that start a panic (`panic-threshold-percentage` 200)."""
    max_scale_up_rate: float = 1000.0
    max_scale_down_rate: float = 2.0
    scale_down_delay_s: float = 0.0

    def __post_init__(self) -> None:
        if self.max_scale_up_rate <= 1 or self.max_scale_down_rate <= 1:
            raise ValueError("scale rates must be above 1, or the count could never change")

    def initial(self) -> Mapping[TargetKey, KnativeMemory]:
        """Return no memory of any target."""
        return {}

    def decide(
        self, given: DecisionInput, memory: Mapping[TargetKey, KnativeMemory]
    ) -> Decision[Mapping[TargetKey, KnativeMemory]]:
        """Tick every target; a target that left takes its memory with it."""
        ticked = {
            t.key: self._tick(given, t, given.observed[t.key], memory.get(t.key, KnativeMemory()))
            for t in given.targets
        }
        return Decision(
            active_only({k: plan for k, (plan, _) in ticked.items()}), {k: m for k, (_, m) in ticked.items()}
        )

    def _tick(
        self, given: DecisionInput, target: TargetSpec, seen: TargetObservation, memory: KnativeMemory
    ) -> tuple[TargetPlan, KnativeMemory]:
        now_s = given.now_s
        if not memory.begun:
            memory = KnativeMemory(True, now_s if seen.active > 1 else None, seen.active)
        stable = self._mean(given, seen, self.stable_window_s)
        if stable is None or not seen.demand_known:
            return hold(target, seen), memory
        # An empty panic window within a stable one that is not: no ground to panic, as in Knative.
        fast = self._mean(given, seen, self.panic_window_share * self.stable_window_s) or 0.0
        ready = max(1, seen.active)
        rated = target.rated_concurrency if self.metric == "concurrency" else 1.0
        per_replica = max(rated * self.utilization, LEAST_TARGET)
        over = math.ceil(fast / per_replica) / ready >= self.panic_threshold
        memory = self._panic(memory, over, now_s)
        wanted = self._replicas(stable / per_replica, ready)
        if memory.panicked_at_s is not None:
            wanted = max(wanted, self._replicas(fast / per_replica, ready), memory.most_in_panic)
            memory = replace(memory, most_in_panic=wanted)
        delayed, memory = self._delayed(wanted, memory, now_s)
        planned = within_bounds(target, delayed)
        reasons = [
            for_count(seen.current, planned),
            because(ReasonCode.DEMAND_MEASURED, demand=stable / rated, utilization=self.utilization, wanted=wanted),
        ]
        if memory.panicked_at_s is not None:
            reasons.append(because(ReasonCode.PANIC, observed=fast / rated, ready=ready, least=memory.most_in_panic))
        if delayed != wanted:
            reasons.append(because(ReasonCode.SCALE_DOWN_DELAYED, allowed=delayed, wanted=wanted))
        if planned != delayed:
            reasons.append(limited_by_bounds(target, delayed, planned))
        return TargetPlan(planned, {}, tuple(reasons)), memory

    def _mean(self, given: DecisionInput, seen: TargetObservation, window_s: float) -> float | None:
        load = seen.concurrency if self.metric == "concurrency" else seen.demand_replicas
        mean = trailing_mean(load, given.sample_period_s, window_s)
        # Knative rounds window averages to six digits, so that a sum's last bit buys no replica.
        return None if mean is None else round(mean, 6)

    def _replicas(self, wanted: float, ready: int) -> int:
        most = math.ceil(self.max_scale_up_rate * ready)
        least = math.floor(ready / self.max_scale_down_rate)
        return min(max(math.ceil(wanted), least), most)

    def _panic(self, memory: KnativeMemory, over: bool, now_s: float) -> KnativeMemory:
        if over:
            return replace(memory, panicked_at_s=now_s)
        if memory.panicked_at_s is not None and memory.panicked_at_s + self.stable_window_s < now_s:
            return replace(memory, panicked_at_s=None, most_in_panic=0)
        return memory

    def _delayed(self, wanted: int, memory: KnativeMemory, now_s: float) -> tuple[int, KnativeMemory]:
        """The most wanted within the scale-down delay, in whole ticks as Knative's ring buffer counts."""
        if self.scale_down_delay_s <= 0:
            return wanted, memory
        tick = math.floor(now_s / self.interval_s)
        ticks = math.ceil(self.scale_down_delay_s / self.interval_s)
        recent = (*((at, n) for at, n in memory.recent if tick - at < ticks), (tick, wanted))
        return max(n for _, n in recent), replace(memory, recent=recent)
