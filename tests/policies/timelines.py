"""One target followed through time: a baseline asked at given moments, its memory carried along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.paths import DemandPaths
from policies.types import (
    ACTIVE,
    DecisionInput,
    FloatArray,
    Policy,
    TargetObservation,
    TargetPlan,
    TargetSpec,
)
from tests.policies.worlds import target

SAMPLES = 300


def constant(level: float) -> FloatArray:
    """Five minutes of one sample a second at `level`."""
    return np.full(SAMPLES, level)


def ending(level: float, last_s: int, tail: float) -> FloatArray:
    """`level` for long, and `tail` for the last `last_s` seconds."""
    samples = constant(level)
    samples[SAMPLES - last_s :] = tail
    return samples


def moment(
    now_s: float,
    ready: int,
    *,
    starting: int = 0,
    draining: int = 0,
    demand: FloatArray | None = None,
    concurrency: FloatArray | None = None,
    known: bool = True,
    spec: TargetSpec | None = None,
    paths: DemandPaths | None = None,
) -> DecisionInput:
    """What a policy sees of one target at `now_s`; a series that is not named is missing throughout."""
    missing = constant(np.nan)
    seen = TargetObservation(
        ready={ACTIVE: ready},
        starting=starting,
        draining=draining,
        demand_replicas=missing if demand is None else demand,
        concurrency=missing if concurrency is None else concurrency,
        demand_known=known,
        backlog_replica_s=0.0,
    )
    return DecisionInput(now_s, 1.0, (spec or target(),), (seen,), (), (), 10_000, paths, 1.0)


@dataclass
class Timeline:
    """Asks `policy` moment by moment."""

    policy: Policy
    memory: Any = None

    def ask(self, given: DecisionInput) -> TargetPlan:
        if self.memory is None:
            self.memory = self.policy.initial(given.targets)
        decision = self.policy.decide(given, self.memory)
        self.memory = decision.memory
        assert (decision.plan.spare_gpus, dict(decision.plan.placement)) == (0, {})
        (plan,) = decision.plan.targets
        assert dict(plan.warm) == {}
        assert plan.reasons and all(r.code and r.text for r in plan.reasons)
        return plan

    def active(self, given: DecisionInput) -> int:
        return self.ask(given).active


def codes(plan: TargetPlan) -> tuple[str, ...]:
    return tuple(r.code for r in plan.reasons)
