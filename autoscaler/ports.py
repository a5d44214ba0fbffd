"""What one reconcile pass needs of the world, and nothing more.

Each port is a Protocol with two real implementations at the least: the production adapter and the
simulated world. All are synchronous and answer from what they have seen already, so that a pass never waits.
Everything is found by key; a port may know more targets or nodes than a pass asks for.

Reading changes nothing: equal arguments give equal answers, so a pass that was killed can be run again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from autoscaler.acting.modes import Mode
from autoscaler.forecast.series import DemandFrame
from autoscaler.outcomes import Outcome
from autoscaler.planbook import PlanEntry
from policies.actions import Action
from policies.arrays import FloatArray
from policies.contract import Violation
from policies.keys import TargetKey
from policies.paths import DemandPaths
from policies.types import Decision, DecisionInput, NodeObservation, Plan, ReplicaView

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class MetricFrame:
    """Regular samples of the targets `keys`; arrays are (targets, samples) in that order, NaN where missing.

    Sample j covers (start_s + j*period_s, start_s + (j+1)*period_s]. Counters are given as counts
    within the period; gauges as the value at its end.
    """

    keys: tuple[TargetKey, ...]
    start_s: float
    period_s: float
    offered_requests: FloatArray
    prompt_tokens: FloatArray
    """Prompt tokens of the offered requests."""
    completed_requests: FloatArray
    output_tokens: FloatArray
    """Output tokens of the completed requests."""
    running: FloatArray
    queued: FloatArray
    queued_prompt_tokens: FloatArray

    @property
    def samples(self) -> int:
        return int(self.offered_requests.shape[1])

    @property
    def end_s(self) -> float:
        """Return the moment up to which the frame has been read, in seconds."""
        return self.start_s + self.samples * self.period_s

    def rows(self, keys: tuple[TargetKey, ...], column: str) -> FloatArray:
        """Return one column for `keys` in that order, (keys, samples); NaN for a target the frame lacks."""
        values: FloatArray = getattr(self, column)
        if keys == self.keys:
            return values
        index = {key: i for i, key in enumerate(self.keys)}
        missing = np.full(self.samples, np.nan)
        return np.array([values[index[k]] if k in index else missing for k in keys]).reshape(len(keys), self.samples)


@dataclass(frozen=True, slots=True)
class ClusterView:
    """The cluster as its cache showed it at `synced_at_s`."""

    synced_at_s: float
    replicas: Mapping[TargetKey, tuple[ReplicaView, ...]]
    running: Mapping[TargetKey, Mapping[str, float]]
    """Requests in service by replica; a replica whose load is unknown has no entry."""
    nodes: tuple[NodeObservation, ...]
    gpu_budget: int
    reserved: Mapping[TargetKey, frozenset[str]] = field(default_factory=dict)
    """Names that no new replica may bear: what was asked of their bearers is not seen yet, so the next view could
    confuse the two."""


@dataclass(frozen=True, slots=True)
class PassRecord:
    """All of one pass: `policy.decide(given, memory)` and the assignment replay from it, byte for byte.

    Written with `outcomes` None before anything acts, and again with them afterwards: a record without outcomes is a
    pass that died while it acted.
    """

    pool: str
    now_s: float
    view: ClusterView
    """As observed."""
    expected: ClusterView
    """The pool's part of it, with the effects of earlier actions that it did not show yet."""
    given: DecisionInput
    memory: Any
    """The policy's memory before the decision."""
    decision: Decision[Any]
    """As the policy made it; what broke its contract is in `violations`, and held in `plan`."""
    plan: Plan
    violations: tuple[Violation, ...]
    actions: tuple[Action, ...]
    """As assigned; a target's mode, a pause or a fresh look may keep some of them from being asked for."""
    outcomes: Mapping[str, Outcome] | None = None
    """By `Action.name`."""
    modes: Mapping[TargetKey, Mode] = field(default_factory=dict)
    """Who scaled each target; one without an entry was scaled by Forethaw."""


class MetricSource(Protocol):
    """Samples of load; the adapter keeps no cursor, the pass does."""

    def read(self, keys: Collection[TargetKey], after_s: float, until_s: float) -> MetricFrame:
        """Return the samples of the periods that end within (after_s, until_s], both in seconds.

        A target without samples is all NaN or absent from the frame: unknown, never zero. Raises PortError when no
        metrics can be had at all.
        """
        ...


class Cluster(Protocol):
    """Replicas, nodes and snapshots: observed from a cache, changed by actions."""

    def observe(self, now_s: float) -> ClusterView:
        """Return what the cache shows now. Raises NotSyncedError before its first full listing."""
        ...

    def apply(self, actions: tuple[Action, ...], now_s: float) -> Mapping[str, Outcome]:
        """Ask for each action, in order, and return what became of it by `Action.name`.

        Idempotent: an action that is in force already is Done. Never raises for what one action meets: that is its
        outcome, and the others are asked for all the same.
        """
        ...


class Forecaster(Protocol[S]):
    """Sample paths from a record of demand; `S` is the forecaster's own frozen state."""

    def initial(self) -> S:
        """Return the state that knows nothing."""
        ...

    def absorb(self, state: S, frame: DemandFrame) -> S:
        """Return the state with the frame's samples; those not newer than it are ignored."""
        ...

    def bootstrap(self, history: DemandFrame) -> S:
        """Return the state after one long record, equal to absorbing it piece by piece."""
        ...

    def retain(self, state: S, keys: frozenset[TargetKey]) -> S:
        """Return the state without targets that left; the others' records are untouched."""
        ...

    def paths(self, state: S, keys: tuple[TargetKey, ...], now_s: float, horizon_s: float) -> DemandPaths:
        """Return joint sample paths from `now_s` on; a pure read that never raises for want of data (see `known`)."""
        ...


class Recorder(Protocol):
    """Keeps what passes saw, decided and did."""

    def begin(self, record: PassRecord) -> None:
        """Keep the record of a pass that is about to act. Raises PortError if it cannot: then nothing acts."""
        ...

    def complete(self, record: PassRecord) -> None:
        """Replace the pass's record by one with outcomes."""
        ...

    def last(self, pool: str) -> PassRecord | None:
        """Return the pool's newest record, finished or not."""
        ...


class PlanReaders(Protocol):
    """Where the newest plan is published for everything that only reads it."""

    def publish(self, entry: PlanEntry) -> None:
        """Replace the pool's entry."""
        ...
