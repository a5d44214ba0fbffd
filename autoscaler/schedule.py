"""When each pool's next pass is due, and who may bring it forward.

A pass names the moment of the next. A poke (a request at zero replicas, a changed spec) brings it forward to now,
but never nearer to the last pass than `least_gap_s`: a storm of pokes is one pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from policies.keys import TargetKey

LEAST_GAP_S = 0.2
"""Five passes a second at the most: a pass for a thousand targets takes half a second of a core."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A value: every change returns a new schedule. Times are seconds."""

    due_s: Mapping[str, float] = field(default_factory=dict)
    """When each pool's next pass is due."""
    began_s: Mapping[str, float] = field(default_factory=dict)
    """When each pool's last pass began."""
    pool_of: Mapping[TargetKey, str] = field(default_factory=dict)
    least_gap_s: float = LEAST_GAP_S

    def with_pool(self, pool: str, targets: frozenset[TargetKey], due_s: float) -> Schedule:
        """Return the schedule with `pool` and its present targets; a known pool keeps its due time."""
        others = {k: p for k, p in self.pool_of.items() if p != pool}
        return replace(self, due_s={pool: due_s, **self.due_s}, pool_of={**others, **dict.fromkeys(targets, pool)})

    def after_pass(self, pool: str, now_s: float, next_at_s: float) -> Schedule:
        """Return the schedule once a pass that began at `now_s` asked for the next at `next_at_s`."""
        return replace(self, due_s={**self.due_s, pool: next_at_s}, began_s={**self.began_s, pool: now_s})

    def poke(self, target: TargetKey, now_s: float) -> Schedule:
        """Return the schedule with the target's pool due now; KeyError for a target of no pool."""
        pool = self.pool_of[target]
        earliest_s = max(now_s, self.began_s.get(pool, float("-inf")) + self.least_gap_s)
        return replace(self, due_s={**self.due_s, pool: min(self.due_s[pool], earliest_s)})

    def next(self) -> tuple[str, float]:
        """Return the pool that is due first, and when; ties go by name. ValueError without pools."""
        return min(self.due_s.items(), key=lambda entry: (entry[1], entry[0]))
