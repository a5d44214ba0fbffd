"""One reconcile pass for one pool: observe, decide, write it down, look again, act.

A pass takes its time as an argument, reads its ports, and returns the next state with the moment at
which it wants to be called again; it never sleeps and never looks at a clock. The controller calls
it with real ports, the simulator with simulated ones: there is no second decision loop.

    cluster.observe -> metrics.read -> demand in replicas -> forecaster.absorb -> policy.decide -> checked plan
                    -> assignment -> recorder.begin -> cluster.observe -> cluster.apply -> recorder.complete

All that a pass remembers is in `ReconcileState`, a value. A pass that dies anywhere can be run again from the state
that it began with: reads change nothing, and a record that was begun at the same moment is carried on rather than
decided anew. A process that dies resumes with `resumed` from the last record and the metrics' own history.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from autoscaler.acting.fresh import still_valid
from autoscaler.acting.inflight import Flight
from autoscaler.acting.modes import Mode, divided, permitted
from autoscaler.config import ReconcileConfig
from autoscaler.demand import DemandState, absorb, no_demand, serving_replicas
from autoscaler.forecast.series import DemandFrame
from autoscaler.leadtimes.book import LeadTimeBook
from autoscaler.leadtimes.learning import Learning
from autoscaler.observation import decision_input, pool_view
from autoscaler.outcomes import Outcome, Unknown
from autoscaler.planbook import PlanEntry
from autoscaler.ports import (
    Cluster,
    ClusterView,
    Forecaster,
    MetricFrame,
    MetricSource,
    PassRecord,
    PlanReaders,
    Recorder,
)
from policies.actions import Action
from policies.assignment import assign
from policies.contract import checked
from policies.keys import TargetKey
from policies.types import DecisionInput, Plan, Policy

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class ReconcileState(Generic[S]):
    """What one pass hands to the next."""

    memory: Any
    """The policy's own."""
    demand: DemandState
    forecast: S
    flight: Flight
    learning: Learning
    read_until_s: float
    """Up to when metrics have been read, in seconds."""


@dataclass(frozen=True, slots=True)
class Ports(Generic[S]):
    metrics: MetricSource
    cluster: Cluster
    forecaster: Forecaster[S]
    recorder: Recorder
    readers: PlanReaders


def initial_state(ports: Ports[S], policy: Policy[Any], config: ReconcileConfig, since_s: float) -> ReconcileState[S]:
    """Return the state before the first pass: nothing seen, nothing planned; metrics are read from `since_s` on."""
    learning = Learning(LeadTimeBook(config.lead_times) if config.lead_times is not None else None)
    return ReconcileState(policy.initial(), no_demand(), ports.forecaster.initial(), Flight(), learning, since_s)


def resumed(ports: Ports[S], policy: Policy[Any], config: ReconcileConfig, now_s: float) -> ReconcileState[S]:
    """Return the state of a process that begins: history from the metrics, the policy's memory from the last record.

    Actions of a record without outcomes may be in force or not, so each is expected until the view shows.
    Raises what the ports raise.
    """
    since_s = max(now_s - config.history_s, 0.0)
    state = initial_state(ports, policy, config, since_s)
    view = ports.cluster.observe(now_s)
    while state.read_until_s < now_s - config.sample_period_s / 2.0:
        # Piece by piece: lengths and ratings are learnt on the way, and an hour of a thousand targets is 200 MB.
        until_s = min(state.read_until_s + config.window_s, now_s)
        frame = ports.metrics.read(config.keys, state.read_until_s, until_s)
        state = replace(_absorb(ports, config, state, view, frame), read_until_s=until_s)
    last = ports.recorder.last(config.pool.name)
    if last is None:
        return state
    unknown = {a.name: Unknown("the process ended before it answered") for a in last.actions}
    outcomes = last.outcomes if last.outcomes is not None else unknown
    flight = Flight().with_outcomes(last.actions, outcomes, last.now_s)
    return replace(state, memory=last.decision.memory, flight=flight)


def reconcile(
    ports: Ports[S], policy: Policy[Any], config: ReconcileConfig, state: ReconcileState[S], now_s: float
) -> tuple[ReconcileState[S], float]:
    """Run one pass at `now_s`; return the new state and when to call again, in seconds.

    Raises PortError when a port cannot answer; the pass may then be run again from the same `state`.
    """
    begun = _begun(ports, config, now_s)
    view = begun.view if begun else ports.cluster.observe(now_s)
    state = _absorb(ports, config, state, view, ports.metrics.read(config.keys, state.read_until_s, now_s))
    state = replace(state, learning=state.learning.after_view(config, view, now_s))
    if begun is None:
        begun = _decide(ports, policy, config, state, view, now_s)
        ports.recorder.begin(begun)
    outcomes = begun.outcomes
    if outcomes is None:
        outcomes = _act(ports, config, state, begun, now_s)
        ports.recorder.complete(replace(begun, outcomes=outcomes))
    ports.readers.publish(_entry(config, state, begun))
    flight = state.flight.seen(view, now_s).with_outcomes(begun.actions, outcomes, now_s)
    learning = replace(state.learning, watch=state.learning.watch.asked(begun.actions, outcomes, now_s))
    state = replace(state, memory=begun.decision.memory, flight=flight, learning=learning)
    return state, now_s + policy.interval_s


def _begun(ports: Ports[S], config: ReconcileConfig, now_s: float) -> PassRecord | None:
    """Return the record of this very pass if it was begun before: it died, and is carried on rather than repeated."""
    last = ports.recorder.last(config.pool.name)
    return last if last is not None and last.now_s == now_s else None


def _absorb(
    ports: Ports[S], config: ReconcileConfig, state: ReconcileState[S], view: ClusterView, frame: MetricFrame
) -> ReconcileState[S]:
    """Take in new samples, and forget targets that left."""
    serving = serving_replicas(view.replicas, config.keys)
    demand, samples = absorb(state.demand, config, frame, serving)
    forecast = state.forecast
    if demand.keys != state.demand.keys:
        forecast = ports.forecaster.retain(forecast, frozenset(demand.keys))
    rows = dict(zip(demand.keys, samples, strict=True))
    forecast = ports.forecaster.absorb(forecast, DemandFrame(frame.start_s, frame.period_s, rows))
    return replace(state, demand=demand, forecast=forecast, read_until_s=max(frame.end_s, state.read_until_s))


def _decide(
    ports: Ports[S],
    policy: Policy[Any],
    config: ReconcileConfig,
    state: ReconcileState[S],
    view: ClusterView,
    now_s: float,
) -> PassRecord:
    expected = pool_view(state.flight.seen(view, now_s).over(view), config.pool, config.keys)
    paths = None
    if policy.wants_paths:
        paths = ports.forecaster.paths(state.forecast, config.keys, now_s, config.horizon_s)
    specs, pool = state.learning.specs(config), state.learning.pool(config)
    given = decision_input(config, specs, pool, expected, state.demand, paths, now_s, policy.interval_s)
    modes = {t.spec.key: t.mode for t in config.targets}
    return decided(policy, config.pool.name, view, expected, given, state.memory, modes)


def decided(
    policy: Policy[Any],
    pool: str,
    view: ClusterView,
    expected: ClusterView,
    given: DecisionInput,
    memory: Any,
    modes: Mapping[TargetKey, Mode],
) -> PassRecord:
    """Decide, check and assign: pure, so a record's decision can be made again from the record alone."""
    decision = policy.decide(given, memory)
    plan, violations = checked(decision.plan, given)
    actions = _assigned(plan, given, expected, modes)
    return PassRecord(
        pool, given.now_s, view, expected, given, memory, decision, plan, violations, actions, None, modes
    )


def _assigned(
    plan: Plan, given: DecisionInput, expected: ClusterView, modes: Mapping[TargetKey, Mode]
) -> tuple[Action, ...]:
    """Assign GPUs to what will happen first; what advised targets would do follows, for the record."""
    acting, everyone = divided(plan, modes, given)
    actions = assign(acting, given, expected.replicas, expected.running, expected.reserved)
    advised = everyone.targets.keys() - acting.targets.keys()
    if not advised:
        return actions
    would = assign(everyone, given, expected.replicas, expected.running, expected.reserved)
    names = {a.name for a in actions}
    return (*actions, *(a for a in would if a.target in advised and a.name not in names))


def decided_again(policy: Policy[Any], record: PassRecord) -> PassRecord:
    """Replay a record: the same policy must come to an equal record, outcomes aside."""
    return decided(policy, record.pool, record.view, record.expected, record.given, record.memory, record.modes)


def _act(
    ports: Ports[S], config: ReconcileConfig, state: ReconcileState[S], begun: PassRecord, now_s: float
) -> Mapping[str, Outcome]:
    """Carry out the record: what the modes permit, no pause forbids and a fresh look still supports."""
    actions = tuple(a for a in permitted(begun.actions, begun.modes) if not state.flight.paused(a, now_s))
    if not actions:
        return {}
    valid, conflicts = still_valid(actions, begun.view, ports.cluster.observe(now_s))
    return {**conflicts, **ports.cluster.apply(valid, now_s)}


def _entry(config: ReconcileConfig, state: ReconcileState[S], begun: PassRecord) -> PlanEntry:
    newest = {
        key: float(at_s) for key, at_s in zip(state.demand.keys, state.demand.newest_s, strict=True) if at_s > -math.inf
    }
    unknown = frozenset(key for key in begun.given.keys if not begun.given.known(key))
    return PlanEntry(config.pool.name, begun.now_s, begun.plan, state.read_until_s, newest, unknown)
