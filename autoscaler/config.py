"""What a pass is told beforehand: a pool, its targets, and the windows that it looks back on."""

from __future__ import annotations

from dataclasses import dataclass

from autoscaler.acting.modes import Mode
from autoscaler.leadtimes.parts import LeadTimeFile
from policies.capacity import WorkRate
from policies.keys import TargetKey
from policies.types import PoolSpec, TargetSpec


@dataclass(frozen=True, slots=True)
class ManagedTarget:
    """A target with what turns its tokens into demand.

    The mean lengths are first guesses, until requests have been seen.
    """

    spec: TargetSpec
    work: WorkRate
    mean_prompt_tokens: float
    mean_output_tokens: float
    mode: Mode = Mode.SCALE
    weights_bytes: int = 0
    restored: bool = True
    """False for a target that only ever starts cold."""


@dataclass(frozen=True, slots=True)
class ReconcileConfig:
    """One pool and its targets.

    `window_s` bounds what a policy sees of the past; `stale_after_s` is how long the newest samples may be missing
    before a target's demand counts as unknown (a few scrapes, so that one lost scrape changes nothing);
    `standing_s` is over how long a backlog must last to count as standing; `history_s` is how far back a pass that
    begins without a state reads, as far as the forecast looks.
    """

    pool: PoolSpec
    targets: tuple[ManagedTarget, ...]
    sample_period_s: float = 1.0
    window_s: float = 300.0
    stale_after_s: float = 10.0
    horizon_s: float = 60.0
    lead_times: LeadTimeFile | None = None
    """What lead times are before any was seen; None plans with the specs' own ladders and learns nothing."""
    standing_s: float = 10.0
    history_s: float = 3600.0

    @property
    def keys(self) -> tuple[TargetKey, ...]:
        """Return the targets' keys, in the order of `targets`."""
        return tuple(t.spec.key for t in self.targets)
