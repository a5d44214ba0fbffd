"""The words of the decision engine: frozen inputs, frozen plans.

Everything that a policy may look at is in `DecisionInput`; everything that it may say is in
`Decision`. Nothing here reads a clock, a network or an environment, so any decision can be replayed
from its input alone. The story goes on in `tiers.py` (how much capacity must be how near),
`spares.py` (GPUs pooled over targets), `decide.py` (the whole), `contract.py` (what every plan must
satisfy) and `assignment.py` (a plan bound to nodes and replicas).

Conventions: targets are found by `TargetKey`, never by position; arrays are read-only, and one that
speaks of several targets carries its keys. Demand is measured in *replicas*: 1.0 is the work that one
replica does at its rated capacity. Costs are in GPU-seconds, so that one spare GPU costs 1 per second by
definition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from policies.keys import SnapshotKey, TargetKey
from policies.reasons import Reason

FloatArray = NDArray[np.float64]
M = TypeVar("M")

ACTIVE = "active"
STANDBY = "standby"
PARKED = "parked"
STAGED = "staged"
REMOTE = "remote"
COLD = "cold"
FREE = "free"


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
    """Share of its GPUs that one replica in this tier takes from the budget."""
    holding_cost: float
    needs_snapshot: bool = False


@dataclass(frozen=True, slots=True)
class SupplyStep:
    """One rung of the GPU supply: free, lent to preemptible work, a new node.

    `holding_cost` is in GPU-seconds per GPU and second that is kept at this step (free 1.0; lent 0.0 where the
    pool is owned anyway; the last step is never held); `taking_cost` is the one-off price of taking one GPU
    from this step, in GPU-seconds (preempted work that must be done again, a node's boot).
    """

    name: str
    lead_time: LeadTime
    holding_cost: float
    taking_cost: float = 0.0
    whole_nodes: bool = False
    """GPUs of this step come and go as whole nodes."""


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """A set of nodes with one GPU model: one budget, one supply ladder, one decision pass.

    `supply` is nearest first and of any length: its first step is `free`, its last is unlimited up to the
    """

    name: str
    gpu_model: str
    supply: tuple[SupplyStep, ...]


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """What the user asked for one target, validated at the edge."""

    key: TargetKey
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
    snapshot: SnapshotKey | None = None
    """The snapshot that a wake restores today; None while there is none that is good."""

    def tier(self, name: str) -> TierSpec | None:
        """Return the rung called `name`, or None if the ladder has none such."""
        return next((t for t in self.ladder if t.name == name), None)


class Phase(StrEnum):
    """Where a replica is in its life: the tiers that hold a process, and the ways between them."""

    PENDING = "pending"
    """Bound to a node, waiting there for GPUs that are on their way."""
    STARTING = "starting"
    """Holds its GPUs; a restore or a cold start runs."""
    ACTIVE = "active"
    STANDBY = "standby"
    PARKED = "parked"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """One replica as the cluster shows it. `since_s` is when its present phase began.

    `origin` is the tier that a start comes from; `goal` is the tier that it is on its way to (`active`, or
    `parked` for a start that parks and for a drain that parks).
    """

    name: str
    target: TargetKey
    phase: Phase
    node: str
    since_s: float
    origin: str = ""
    goal: str = ACTIVE


@dataclass(frozen=True, slots=True)
class TargetObservation:
    """What is true of one target now. Counts are replicas.

    `demand_replicas` and `concurrency` are the last samples of `DecisionInput.sample_period_s`,
    oldest first, NaN where the metric was missing. `demand_known` is False when the newest samples
    are missing, stale or NaN: a policy must then hold the last good plan.
    """

    ready: Mapping[str, int]
    """Ready replicas by tier (active, standby, parked); those on their way to park count as parked."""
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

    @property
    def current(self) -> int:
        """Replicas as the scale subresource counts them: serving or on their way to it."""
        return self.active + self.starting


@dataclass(frozen=True, slots=True)
class NodeObservation:
    """A node and its GPUs, each in exactly one place: with a replica, free, lent, reclaiming or absent.

    A node that is not there yet (`absent`) is one that the pool may still buy; once ordered, all of its GPUs
    are `reclaiming` until it has joined.
    """

    name: str
    gpus: int
    free_gpus: int
    """Owned and idle: spare."""
    lent_gpus: int
    reclaiming_gpus: int
    """On their way to free, from preemptible work or with a node that boots; those a pending replica waits for
    are not among them."""
    snapshots: frozenset[SnapshotKey]
    """Snapshots whose artifact is verified and cached here."""
    fetching: frozenset[SnapshotKey]
    cache_free_bytes: int
    gpu_model: str = ""
    absent: bool = False

    @property
    def idle_gpus(self) -> int:
        """GPUs that no replica holds or waits for, wherever they are now."""
        return self.free_gpus + self.lent_gpus + self.reclaiming_gpus


@dataclass(frozen=True, slots=True)
class DemandPaths:
    """Joint sample paths of future demand.

    `paths[i, k, h]` is the mean demand of target `keys[i]`, in replicas, on path k within the step that ends
    `step_ends_s[h]` seconds from now. Path k is one joint future of all targets, so sums over i
    carry the targets' correlation.
    """

    keys: tuple[TargetKey, ...]
    step_ends_s: FloatArray
    paths: FloatArray
    known: frozenset[TargetKey]
    """Targets whose forecast has something to stand on."""
    model: str = ""

    def rows(self, keys: tuple[TargetKey, ...]) -> FloatArray:
        """Return the paths of `keys` in that order, (keys, paths, steps); zeros for a key without a forecast."""
        if keys == self.keys:
            return self.paths
        index = {key: i for i, key in enumerate(self.keys)}
        empty = np.zeros(self.paths.shape[1:], self.paths.dtype)
        return np.stack([self.paths[index[k]] if k in index else empty for k in keys])


@dataclass(frozen=True, slots=True)
class DecisionInput:
    """All that a policy may look at: one pool at one moment."""

    now_s: float
    sample_period_s: float
    tick_s: float
    """Seconds until the next decision."""
    pool: PoolSpec
    gpu_budget: int
    targets: tuple[TargetSpec, ...]
    observed: Mapping[TargetKey, TargetObservation]
    nodes: tuple[NodeObservation, ...]
    paths: DemandPaths | None

    @property
    def keys(self) -> tuple[TargetKey, ...]:
        return tuple(t.key for t in self.targets)

    def known(self, key: TargetKey) -> bool:
        """Return whether the target's demand and its forecast stand on fresh metrics."""
        return self.observed[key].demand_known and (self.paths is None or key in self.paths.known)


@dataclass(frozen=True, slots=True)
class TargetPlan:
    """Replicas wanted per tier (active: serving or on the way to it). The first reason says what changes."""

    active: int
    warm: Mapping[str, int]
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pool should look like. `supply` is GPUs to keep idle per supply step, the last step aside."""

    targets: Mapping[TargetKey, TargetPlan]
    supply: Mapping[str, int] = field(default_factory=dict)
    placement: Mapping[str, tuple[SnapshotKey, ...]] = field(default_factory=dict)
    """Node name to the snapshots that should lie there, most wanted first; a node without entry is left alone."""
    reasons: tuple[Reason, ...] = ()

    @property
    def spare_gpus(self) -> int:
        """GPUs to keep free."""
        return self.supply.get(FREE, 0)


@dataclass(frozen=True, slots=True)
class Decision(Generic[M]):
    plan: Plan
    memory: M
    """Handed back on the next call, and to nothing else: a policy's own frozen state."""


class Policy(Protocol[M]):
    """One interface for our policy, the baselines and the bounds that act; `M` is its own frozen memory."""

    @property
    def name(self) -> str: ...

    @property
    def interval_s(self) -> float:
        """How often the policy wants to be asked, in seconds."""
        ...

    @property
    def wants_paths(self) -> bool:
        """False spares the forecast for a policy that never looks at it."""
        ...

    def initial(self) -> M:
        """Return the memory before the first decision; targets that join later start from it as well."""
        ...

    def decide(self, given: DecisionInput, memory: M) -> Decision[M]:
        """Return the plan for `given`. Pure: equal arguments give equal decisions. Memory is kept by target key."""
        ...
