"""A scenario: everything about a replay that does not depend on which policy is asked.

All rows of a comparison share one scenario, so that they meet the same arrivals, the same pool and
the same lead times. `build.py` makes one from what the user asked for; `replay.py` runs a row on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from autoscaler.leadtimes.parts import LeadTimeFile
from autoscaler.rating.service import ServiceModel
from policies.capacity import WorkRate
from policies.keys import TargetKey
from policies.types import SupplyStep, TargetSpec, TierSpec
from simulations.traces import ArrivalStream, TraceInfo

STATIC_UTILIZATION = 0.70


@dataclass(frozen=True, slots=True)
class TargetScenario:
    """One target: its trace, its engine, and what the user wants of it.

    `open_stream` opens the arrivals from the replay's start; every call gives the same ones.
    """

    trace: TraceInfo
    open_stream: Callable[[], ArrivalStream]
    service: ServiceModel
    work: WorkRate
    mean_prompt_tokens: float
    mean_output_tokens: float
    initial_replicas: int
    peak_demand_replicas: float
    """Demand at the busiest moment of the true rate, in replicas."""
    wanted: TargetSpec
    """With the ladder that has restores."""
    cold_ladder: tuple[TierSpec, ...]

    @property
    def name(self) -> str:
        """Return the target's name."""
        return self.wanted.key.name

    @property
    def key(self) -> TargetKey:
        """Return the target's key."""
        return self.wanted.key

    @property
    def static_peak_replicas(self) -> int:
        """Replicas for the busiest moment of the true rate at 70% utilisation, as one provisions by hand."""
        return max(math.ceil(self.peak_demand_replicas / STATIC_UTILIZATION), self.wanted.min_replicas)

    def spec(self, *, restored: bool) -> TargetSpec:
        """Return what policies are given: the ladder with the snapshot, or with cold starts alone."""
        return self.wanted if restored else replace(self.wanted, ladder=self.cold_ladder, snapshot=None)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Targets on one pool of GPUs. The first `warmup_s` seconds are replayed but not scored."""

    targets: tuple[TargetScenario, ...]
    supply: tuple[SupplyStep, ...]
    lead_times: LeadTimeFile
    """What the autoscaler assumes before it has seen any; the world draws from the same."""
    pool_gpus: int
    gpus_per_node: int
    cache_bytes: int
    pool_name: str
    gpu_model: str
    fetch_bytes_per_s: float
    duration_s: float
    warmup_s: float
    bucket_s: float
    sample_period_s: float
    forecast_horizon_s: float
    slo_wait_s: float
    slo_share: float
    miss_cost: float
    seed: int
    facts: dict[str, str]
    """For the reader of the report: traces, licences, lead times, rules."""
