"""The words of the decision engine: frozen inputs, frozen plans.

Everything that a policy may look at is in `DecisionInput`; everything that it may say is in
`Decision`. Nothing here reads a clock, a network or an environment, so any decision can be replayed
from its input alone. The story goes on in `tiers.py` (how much capacity must be how near),
`spares.py` (GPUs pooled over targets), `decide.py` (the whole) and `actions.py` (plan minus observed).

Conventions: arrays are read-only; the first axis of every array that speaks of targets follows
`DecisionInput.targets`. Demand is measured in *replicas*: 1.0 is the work that one replica does at
its rated capacity. Costs are in GPU-seconds, so that one spare GPU costs 1 per second by definition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from policies.keys import TargetKey
from policies.paths import DemandPaths

FloatArray = NDArray[np.float64]

ACTIVE = "active"
STANDBY = "standby"
PARKED = "parked"
STAGED = "staged"
REMOTE = "remote"
COLD = "cold"


@dataclass(frozen=True, slots=True)
class LeadTime:
    """Distribution of a lead time as equally likely quantile midpoints, ascending, in seconds.

    Failures and their fallback are part of it: a restore that fails once in a hundred times and
    then takes a cold start has one sample in a hundred at the cold start's length.
    """

    quantiles_s: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.quantiles_s:
            raise ValueError("a lead time needs at least one sample")
        if any(not 0 <= q < float("inf") for q in self.quantiles_s):
            raise ValueError(f"lead times must be finite and not negative: {self.quantiles_s}")
        if list(self.quantiles_s) != sorted(self.quantiles_s):
            raise ValueError("lead time quantiles must ascend")

    @property
    def mean_s(self) -> float:
        return sum(self.quantiles_s) / len(self.quantiles_s)

    def at(self, probability: float) -> float:
        """The quantile at `probability` in [0, 1], in seconds (step function)."""
        n = len(self.quantiles_s)
        return self.quantiles_s[min(int(probability * n), n - 1)]


@dataclass(frozen=True, slots=True)
class TierSpec:
    """One rung of a target's ladder: how near, and what holding one replica there costs.

    `lead_time` runs from decision to Ready *given a GPU at hand*; where `gpu_share` is 1 the replica
    holds its GPUs already. `holding_cost` is in GPU-seconds per replica and second, the GPUs that it
    holds included (so an active replica of 4 GPUs has 4.0).
    """

    name: str
    lead_time: LeadTime
    gpu_share: float
    holding_cost: float
    needs_snapshot: bool = False


@dataclass(frozen=True, slots=True)
class SupplyStep:
    """One rung of the GPU supply: free, lent to preemptible work, a new node.

    `holding_cost` is in GPU-seconds per GPU and second (free 1.0, lent 0.0, not bought 0.0);
    `taking_cost` is the one-off price of taking one GPU from this step, in GPU-seconds (preempted
    work that must be done again, a node's boot).
    """

    name: str
    lead_time: LeadTime
    holding_cost: float
    taking_cost: float = 0.0


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """What the user said of one target, validated at the edge."""

    name: str
    gpus_per_replica: int
    min_replicas: int
    max_replicas: int
    slo_wait_s: float
    miss_cost: float
    """Cost of one request that waits past the SLO, in GPU-seconds."""
    rated_rps: float
    """Requests per second that one replica serves at rated capacity, for the mix last seen."""
    rated_concurrency: float
    """Requests in flight on one replica at rated capacity (what KPA calls container concurrency)."""
    ladder: tuple[TierSpec, ...]
    """Nearest first; the first is `active`."""
    artifact_bytes: int = 0

    @property
    def key(self) -> TargetKey:
        return TargetKey("default", self.name)


@dataclass(frozen=True, slots=True)
class TargetObservation:
    """What is true of one target now. Counts are replicas.

    `demand_replicas` and `concurrency` are the last samples of `DecisionInput.sample_period_s`,
    oldest first, NaN where the metric was missing. `demand_known` is False when the newest samples
    are missing, stale or NaN: a policy must then hold the last good plan.
    """

    ready: Mapping[str, int]
    """Ready replicas by tier (active, standby, parked)."""
    starting: int
    """Replicas on their way to active, whatever their tier of origin, those that wait for a GPU included."""
    draining: int
    demand_replicas: FloatArray
    concurrency: FloatArray
    demand_known: bool
    backlog_replica_s: float
    """Queued work that no replica has taken up yet, in replica-seconds."""
    standing_backlog_replica_s: float = 0.0
    """The least backlog of the last seconds: what bursts leave behind drains, what stands is too little
    capacity (the standing queue of CoDel: Nichols and Jacobson 2012, RFC 8289)."""

    @property
    def active(self) -> int:
        return self.ready.get(ACTIVE, 0)


@dataclass(frozen=True, slots=True)
class NodeObservation:
    name: str
    gpus: int
    free_gpus: int
    """Owned and idle: spare."""
    lent_gpus: int
    reclaiming_gpus: int
    snapshots: frozenset[str]
    """Names of the targets whose artifact is verified and cached here."""
    fetching: frozenset[str]
    cache_free_bytes: int


@dataclass(frozen=True, slots=True)
class DecisionInput:
    now_s: float
    sample_period_s: float
    targets: tuple[TargetSpec, ...]
    observed: tuple[TargetObservation, ...]
    supply: tuple[SupplyStep, ...]
    """Nearest first."""
    nodes: tuple[NodeObservation, ...]
    gpu_budget: int
    paths: DemandPaths | None
    tick_s: float
    """Seconds until the next decision."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a number is what it is: a code to count, a sentence for the person on call."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class TargetPlan:
    """Replicas wanted per tier (active: serving or on the way to it)."""

    active: int
    warm: Mapping[str, int]
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    targets: tuple[TargetPlan, ...]
    spare_gpus: int
    placement: Mapping[str, tuple[str, ...]]
    """Node name to the targets whose artifact should lie there, most wanted first."""
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    plan: Plan
    memory: Any
    """Handed back on the next call, and to nobody else: a policy's own frozen state."""


class Policy(Protocol):
    """One interface for our policy, the baselines and the bounds that act."""

    @property
    def name(self) -> str: ...

    @property
    def interval_s(self) -> float:
        """How often the policy wants to be asked."""
        ...

    @property
    def wants_paths(self) -> bool:
        """False spares the forecast for a policy that never looks at it."""
        ...

    def initial(self, targets: tuple[TargetSpec, ...]) -> Any: ...

    def decide(self, given: DecisionInput, memory: Any) -> Decision: ...


@dataclass(frozen=True, slots=True)
class Action:
    """One idempotent step from observed towards planned.

    verb: start (to active, nearest tier first) | stop (drain) | park | unpark_release | stage |
    evict | reclaim | lend. `count` is replicas or GPUs; `node` is set for stage and evict.
    """

    verb: str
    target: str = ""
    count: int = 0
    node: str = ""
    reason: Reason = field(default_factory=lambda: Reason("", ""))
