"""One target followed through time: a baseline asked at given moments, its memory carried along."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from policies.arrays import FloatArray
from policies.paths import DemandPaths
from policies.reasons import ReasonCode
from policies.types import ACTIVE, DecisionInput, Policy, PoolSpec, TargetObservation, TargetPlan, TargetSpec
from tests.policies.worlds import FREE_STEP, key, target

SAMPLES = 300
A = key("a")


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
    spec = spec or target()
    pool = PoolSpec("pool", "", (FREE_STEP,))
    return DecisionInput(now_s, 1.0, 1.0, pool, 10_000, (spec,), {spec.key: seen}, (), paths)


def observing(asked: DecisionInput, **changes: FloatArray) -> DecisionInput:
    """Return `asked` with series of its one target replaced."""
    (spec,) = asked.targets
    return replace(asked, observed={spec.key: replace(asked.observed[spec.key], **changes)})  # type: ignore[arg-type]


@dataclass
class Timeline:
    """Asks `policy` moment by moment."""

    policy: Policy[Any]
    memory: Any = None

    def ask(self, given: DecisionInput) -> TargetPlan:
        """Return the plan of the one target, after what must hold of any baseline's plan was checked."""
        if self.memory is None:
            self.memory = self.policy.initial()
        decision = self.policy.decide(given, self.memory)
        self.memory = decision.memory
        assert (dict(decision.plan.supply), dict(decision.plan.placement)) == ({}, {})
        ((planned_key, plan),) = decision.plan.targets.items()
        assert planned_key == given.targets[0].key
        assert dict(plan.warm) == {}
        assert all(r.text for r in plan.reasons)
        current = given.observed[planned_key].current
        assert dict(plan.reasons[0].params) == {"current": current, "planned": plan.active}
        return plan

    def active(self, given: DecisionInput) -> int:
        """Return the replicas planned."""
        return self.ask(given).active


def codes(plan: TargetPlan) -> tuple[ReasonCode, ...]:
    """Return the codes of the plan's reasons, the change first."""
    return tuple(r.code for r in plan.reasons)
