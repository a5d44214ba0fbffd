"""The plan book: the newest plan of each pool, with its age, the freshness of its inputs and its reasons.

All that KEDA, status and metrics ever read. A pass writes one immutable entry; readers compute nothing, so that two
answers of one moment agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from policies.keys import TargetKey
from policies.types import Plan


@dataclass(frozen=True, slots=True)
class PlanEntry:
    """One pool's newest plan. Times are seconds on the pass's clock."""

    pool: str
    decided_at_s: float
    plan: Plan
    """As carried out: checked, with whatever broke its contract held."""
    metrics_until_s: float
    """Up to when metrics had been read."""
    newest_sample_s: Mapping[TargetKey, float]
    """When each target's newest known sample ended; absent for a target without any."""
    unknown: frozenset[TargetKey]
    """Targets whose demand was unknown: they were held."""

    def age_s(self, now_s: float) -> float:
        """Return how old the plan is, in seconds."""
        return now_s - self.decided_at_s


@dataclass(slots=True)
class PlanBook:
    """Entries by pool. One writer a pool; replacing an entry is atomic, so readers need no lock."""

    _entries: dict[str, PlanEntry] = field(default_factory=dict)
    _pool_of: dict[TargetKey, str] = field(default_factory=dict)

    def publish(self, entry: PlanEntry) -> None:
        """Replace the pool's entry; targets that it no longer plans are forgotten."""
        for key in [k for k, pool in self._pool_of.items() if pool == entry.pool and k not in entry.plan.targets]:
            del self._pool_of[key]
        self._entries[entry.pool] = entry
        self._pool_of.update(dict.fromkeys(entry.plan.targets, entry.pool))

    def of_pool(self, pool: str) -> PlanEntry | None:
        """Return the pool's newest entry, or None before its first pass."""
        return self._entries.get(pool)

    def of_target(self, key: TargetKey) -> PlanEntry | None:
        """Return the newest entry that plans `key`, or None if none does: unknown, not zero replicas."""
        pool = self._pool_of.get(key)
        return self._entries.get(pool) if pool is not None else None
