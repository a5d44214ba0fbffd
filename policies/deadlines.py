"""Until when a start counts as capacity on its way.

A start that hangs must not be counted for ever: it would keep the plan satisfied while nothing serves. Each phase
of a start has an allowance from the very lead times that the plan stands on; past it the replica is no capacity,
and the assignment cancels it and starts another.
"""

from __future__ import annotations

from policies.types import COLD, Phase, ReplicaView, SupplyStep, TargetSpec

ALLOWANCE_TIMES = 3.0
"""Multiples of a 99% lead time after which a start is taken to hang rather than to be slow: measured lead times
spread by a factor of two between quiet and busy nodes, so twice would cancel honest ones."""
RARE = 0.99


def start_allowance_s(spec: TargetSpec, origin: str) -> float:
    """Return the seconds that a start from tier `origin` may take: itself and the cold start it falls back to."""
    own, cold = spec.tier(origin), spec.tier(COLD)
    slowest = max(spec.ladder, key=lambda t: t.lead_time.mean_s)
    own_s = (own or slowest).lead_time.at(RARE)
    cold_s = (cold or slowest).lead_time.at(RARE)
    return ALLOWANCE_TIMES * (own_s if origin == COLD else own_s + cold_s)


def supply_allowance_s(supply: tuple[SupplyStep, ...]) -> float:
    """Return the seconds that a bound replica may wait for its GPUs."""
    return ALLOWANCE_TIMES * max(step.lead_time.at(RARE) for step in supply)


def allowance_s(spec: TargetSpec, supply: tuple[SupplyStep, ...], replica: ReplicaView) -> float:
    """Return the seconds that `replica` may spend in its phase; infinite for phases that end by themselves."""
    if replica.phase is Phase.PENDING:
        return supply_allowance_s(supply)
    if replica.phase is Phase.STARTING:
        return start_allowance_s(spec, replica.origin)
    return float("inf")


def is_overdue(spec: TargetSpec, supply: tuple[SupplyStep, ...], replica: ReplicaView, now_s: float) -> bool:
    """Return whether a start has outlived its allowance and is no capacity."""
    return now_s - replica.since_s > allowance_s(spec, supply, replica)
