"""One pass: what it reads, what it refuses, what it hands on; time is only ever an argument."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from autoscaler.errors import PlanError
from autoscaler.forecast.series import DemandFrame
from autoscaler.ports import ClusterView, MetricFrame, PassRecord, TargetState
from autoscaler.reconcile import ManagedTarget, Ports, ReconcileConfig, ReconcileState, initial_state, reconcile
from policies.capacity import WorkRate
from policies.keys import TargetKey
from policies.paths import DemandPaths
from policies.types import (
    ACTIVE,
    Action,
    Decision,
    DecisionInput,
    Plan,
    Reason,
    SupplyStep,
    TargetPlan,
    TargetSpec,
)
from tests.policies.worlds import AT_ONCE, nodes, target

WORK = WorkRate(per_request_s=0.1, per_prompt_token_s=0.0, per_output_token_s=0.0)


@dataclass
class Metrics:
    """Two samples a read: `offered` requests a second, `queued` at the end; NaN where missing."""

    offered: float = 100.0
    queued: float = 0.0
    reads: int = 0

    def read(self, now_s: float) -> MetricFrame:
        self.reads += 1
        two = np.ones((1, 2))
        return MetricFrame(
            now_s - 2.0, 1.0, self.offered * two, 0 * two, 0 * two, 0 * two, 5 * two, self.queued * two, 0 * two
        )


@dataclass
class Cluster:
    active: int = 10
    applied: list[tuple[Action, ...]] = field(default_factory=list)

    def observe(self, now_s: float) -> ClusterView:
        return ClusterView((TargetState({ACTIVE: self.active}, 0, 0),), nodes((target(),), 2), 16)

    def apply(self, actions: tuple[Action, ...], now_s: float) -> None:
        self.applied.append(actions)


@dataclass
class Forecast:
    seen: list[float] = field(default_factory=list)

    def initial(self) -> None:
        """No state of its own."""

    def absorb(self, state: None, frame: DemandFrame) -> None:
        self.seen.extend(frame.demand[target().key].tolist())

    def bootstrap(self, history: DemandFrame) -> None:
        """No state of its own."""

    def retain(self, state: None, keys: frozenset[TargetKey]) -> None:
        """No state of its own."""

    def paths(self, state: None, keys: tuple[TargetKey, ...], now_s: float, horizon_s: float) -> DemandPaths:
        return DemandPaths(keys, np.array([horizon_s]), np.full((1, 3, 1), 10.0), frozenset(keys))


@dataclass
class Recorder:
    records: list[PassRecord] = field(default_factory=list)

    def record(self, record: PassRecord) -> None:
        self.records.append(record)


@dataclass(frozen=True)
class Fixed:
    """Plans a fixed number and counts its calls in its memory."""

    active: int
    spare: int = 0
    name: str = "fixed"
    interval_s: float = 5.0
    wants_paths: bool = True

    def initial(self, targets: tuple[TargetSpec, ...]) -> int:
        return 0

    def decide(self, given: DecisionInput, memory: int) -> Decision:
        planned = TargetPlan(self.active, {}, (Reason("fixed", "as told"),))
        return Decision(Plan((planned,), self.spare, {}), memory + 1)


def world(**metrics: float) -> tuple[Ports, ReconcileConfig]:
    supply = (SupplyStep("free", AT_ONCE, 1.0), SupplyStep("lent", AT_ONCE, 0.0))
    config = ReconcileConfig((ManagedTarget(target(), WORK, 50.0),), supply)
    return Ports(Metrics(**metrics), Cluster(), Forecast(), Recorder()), config


def passes(ports: Ports, config: ReconcileConfig, policy: Fixed, times_s: tuple[float, ...]) -> ReconcileState:
    state = initial_state(policy, config, ports.forecaster)
    for now_s in times_s:
        state, _ = reconcile(ports, policy, config, state, now_s)
    return state


def test_a_pass_prices_demand_acts_records_and_names_its_next_moment() -> None:
    """100 requests/s at 0.1 replica-seconds are 10 replicas of demand; 12 planned are 2 to start."""
    ports, config = world()
    policy = Fixed(12)

    state, next_at_s = reconcile(ports, policy, config, initial_state(policy, config, ports.forecaster), 2.0)

    assert next_at_s == 7.0
    assert ports.forecaster.seen == [10.0, 10.0]  # type: ignore[attr-defined]  # our fake's own field
    (actions,) = ports.cluster.applied  # type: ignore[attr-defined]  # our fake's own field
    assert [(a.verb, a.target, a.count) for a in actions] == [("start", "a", 2)]
    assert (state.memory, state.plan.targets[0].active if state.plan else None) == (1, 12)
    (record,) = ports.recorder.records  # type: ignore[attr-defined]  # our fake's own field
    assert record.given.now_s == 2.0


def test_a_recorded_input_replays_to_the_same_decision() -> None:
    ports, config = world()
    passes(ports, config, Fixed(12), (2.0, 7.0))

    last = ports.recorder.records[-1]  # type: ignore[attr-defined]  # our fake's own field
    assert Fixed(12).decide(last.given, 1).plan == last.plan


def test_missing_samples_leave_demand_unknown_only_after_a_while() -> None:
    """Ten seconds of silence are tolerated, then the target counts as unknown."""
    ports, config = world()
    policy = Fixed(12)
    state = passes(ports, config, policy, (2.0,))
    ports.metrics.offered = float("nan")  # type: ignore[attr-defined]  # our fake's own field
    known = []
    for now_s in (4.0, 6.0, 8.0, 10.0, 12.0, 14.0):
        state, _ = reconcile(ports, policy, config, state, now_s)
        known.append(ports.recorder.records[-1].given.observed[0].demand_known)  # type: ignore[attr-defined]

    assert known == [True, True, True, True, False, False]


def test_a_plan_that_shrinks_without_metrics_is_refused_and_nothing_is_applied() -> None:
    ports, config = world(offered=float("nan"))

    with pytest.raises(PlanError, match="unknown is not zero"):
        passes(ports, config, Fixed(3), (2.0,))
    assert ports.cluster.applied == []  # type: ignore[attr-defined]  # our fake's own field


@pytest.mark.parametrize(
    ("policy", "said"), [(Fixed(5000), "5000 active"), (Fixed(-1), "-1 active"), (Fixed(5, -2), "-2 spare")]
)
def test_a_plan_out_of_bounds_is_refused(policy: Fixed, said: str) -> None:
    ports, config = world()

    with pytest.raises(PlanError, match=said):
        passes(ports, config, policy, (2.0,))


def test_a_standing_queue_is_told_apart_from_a_burst() -> None:
    """20 queued requests are 2 replica-seconds: backlog at once, standing only once they have stood."""
    ports, config = world(queued=20.0)
    policy = Fixed(10)
    state = passes(ports, config, policy, (2.0,))
    first = ports.recorder.records[-1].given.observed[0]  # type: ignore[attr-defined]  # our fake's own field
    for now_s in (4.0, 6.0, 8.0, 10.0, 12.0, 14.0):
        state, _ = reconcile(ports, policy, config, state, now_s)
    last = ports.recorder.records[-1].given.observed[0]  # type: ignore[attr-defined]  # our fake's own field

    assert (first.backlog_replica_s > 0, first.standing_backlog_replica_s) == (True, 0.0)
    assert last.standing_backlog_replica_s > 0


def test_a_crash_after_acting_repeats_the_same_plan() -> None:
    """The pass is run again from the old state: it asks for the same, as the world has not moved."""
    ports, config = world()
    policy = Fixed(12)
    state = initial_state(policy, config, ports.forecaster)
    reconcile(ports, policy, config, state, 2.0)
    reconcile(ports, policy, config, replace(state), 2.0)

    first, second = ports.cluster.applied  # type: ignore[attr-defined]  # our fake's own field
    assert first == second
