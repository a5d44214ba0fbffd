"""What one reconcile pass needs of the world, and nothing more.

Each port is a Protocol with two real implementations at the least: the production adapter and the
simulated world. All are synchronous: the asynchronous adapters of a live cluster answer from what
their watches have already seen, so that a pass never waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from autoscaler.forecast.series import DemandFrame
from policies.keys import TargetKey
from policies.paths import DemandPaths
from policies.types import Action, DecisionInput, FloatArray, NodeObservation, Plan


@dataclass(frozen=True, slots=True)
class MetricFrame:
    """Regular samples since the last read; arrays are (targets, samples), NaN where missing.

    Sample j covers (start_s + j*period_s, start_s + (j+1)*period_s]. Counters are given as counts
    within the period; gauges as the value at its end.
    """

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


@dataclass(frozen=True, slots=True)
class PassRecord:
    """All of one pass: enough to replay the decision from it."""

    given: DecisionInput
    plan: Plan
    actions: tuple[Action, ...]


@dataclass(frozen=True, slots=True)
class TargetState:
    ready: Mapping[str, int]
    starting: int
    draining: int


@dataclass(frozen=True, slots=True)
class ClusterView:
    targets: tuple[TargetState, ...]
    nodes: tuple[NodeObservation, ...]
    gpu_budget: int


class MetricSource(Protocol):
    def read(self, now_s: float) -> MetricFrame: ...


class Cluster(Protocol):
    def observe(self, now_s: float) -> ClusterView: ...

    def apply(self, actions: tuple[Action, ...], now_s: float) -> None: ...


S = TypeVar("S")


class Forecaster(Protocol[S]):
    """Sample paths from a growing record of demand. `S` is its state: a frozen value, held by the caller."""

    def initial(self) -> S:
        """Return the state that knows nothing, of no target."""
        ...

    def absorb(self, state: S, frame: DemandFrame) -> S:
        """Return the state after the samples of `frame` that end later than all absorbed before.

        Cheap; refits only when due. Raises ValueError if the sample period changes.
        """
        ...

    def bootstrap(self, history: DemandFrame) -> S:
        """Return the state after one long frame: the same as absorbing its samples piece by piece."""
        ...

    def retain(self, state: S, keys: frozenset[TargetKey]) -> S:
        """Return the state without all targets but `keys`, whose own history stays as it was."""
        ...

    def paths(self, state: S, keys: tuple[TargetKey, ...], now_s: float, horizon_s: float) -> DemandPaths:
        """Return joint sample paths of `keys` from `now_s` on, in that order.

        A pure read: equal arguments give equal bytes. Never raises for want of data (see `known`).
        """
        ...


class Recorder(Protocol):
    def record(self, record: PassRecord) -> None:
        """Keep or forward what one pass saw and decided; must not change it."""
        ...
