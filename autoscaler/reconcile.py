"""One reconcile pass: observe, forecast, decide, check, act.

A pass takes its time as an argument, reads its ports, and returns the next state with the moment at
which it wants to be called again; it never sleeps and never looks at a clock. The controller calls
it with real ports, the simulator with simulated ones: there is no second decision loop.

    cluster.observe -> metrics.read -> demand in replicas -> forecaster.absorb -> policy.decide
                    -> checked plan -> plan minus observed -> cluster.apply

All that a pass remembers is in `ReconcileState`; a crash between any two lines loses nothing that
the next pass does not see again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from autoscaler.errors import PlanError
from autoscaler.forecast.series import DemandFrame
from autoscaler.ports import Cluster, ClusterView, Forecaster, MetricFrame, MetricSource, PassRecord, Recorder
from policies.actions import plan_actions
from policies.capacity import ObservedRating, OutputLength, WorkRate, backlog_replica_s, demand_replicas
from policies.paths import DemandPaths
from policies.types import (
    ACTIVE,
    DecisionInput,
    FloatArray,
    Plan,
    Policy,
    SupplyStep,
    TargetObservation,
    TargetSpec,
)


@dataclass(frozen=True, slots=True)
class ManagedTarget:
    """A target with what turns its tokens into demand."""

    spec: TargetSpec
    work: WorkRate
    mean_output_tokens: float
    """First guess, until completions have been seen."""


@dataclass(frozen=True, slots=True)
class ReconcileConfig:
    """`window_s` bounds what a policy sees of the past; `stale_after_s` is how long the newest
    samples may be missing before a target's demand counts as unknown (a few scrapes, so that one
    lost scrape changes nothing)."""

    targets: tuple[ManagedTarget, ...]
    supply: tuple[SupplyStep, ...]
    window_s: float = 300.0
    stale_after_s: float = 10.0
    horizon_s: float = 60.0
    standing_s: float = 10.0


@dataclass(frozen=True, slots=True)
class ReconcileState:
    """What one pass hands to the next. Windows are (targets, samples), newest last."""

    memory: Any
    forecast: Any
    """The forecaster's state."""
    plan: Plan | None
    output_length: tuple[OutputLength, ...]
    rating: tuple[ObservedRating, ...]
    demand: FloatArray
    concurrency: FloatArray
    backlog_replica_s: FloatArray
    """(targets, samples) of the last `standing_s`; a missing sample repeats the one before."""


@dataclass(frozen=True, slots=True)
class Ports:
    metrics: MetricSource
    cluster: Cluster
    forecaster: Forecaster[Any]
    recorder: Recorder


def initial_state(policy: Policy, config: ReconcileConfig, forecaster: Forecaster[Any]) -> ReconcileState:
    """The state before the first pass: nothing seen, nothing planned."""
    n = len(config.targets)
    empty = np.empty((n, 0))
    return ReconcileState(
        policy.initial(tuple(t.spec for t in config.targets)),
        forecaster.initial(),
        None,
        tuple(OutputLength(t.mean_output_tokens, 1.0) for t in config.targets),
        tuple(ObservedRating() for _ in config.targets),
        empty,
        empty,
        np.zeros((n, 1)),
    )


def reconcile(
    ports: Ports, policy: Policy, config: ReconcileConfig, state: ReconcileState, now_s: float
) -> tuple[ReconcileState, float]:
    """One pass at `now_s`; returns the new state and when to call again, in seconds.

    Raises `PlanError` if the policy's plan breaks its contract; nothing has been applied then.
    """
    view = ports.cluster.observe(now_s)
    frame = ports.metrics.read(now_s)
    state = _absorb(ports.forecaster, config, state, view, frame)
    given = _input(ports.forecaster, policy, config, state, view, frame.period_s, now_s)
    decision = policy.decide(given, state.memory)
    check_plan(decision.plan, given)
    actions = plan_actions(decision.plan, given)
    ports.cluster.apply(actions, now_s)
    ports.recorder.record(PassRecord(given, decision.plan, actions))
    return replace(state, memory=decision.memory, plan=decision.plan), now_s + policy.interval_s


def _absorb(
    forecaster: Forecaster[Any], config: ReconcileConfig, state: ReconcileState, view: ClusterView, frame: MetricFrame
) -> ReconcileState:
    """Take in new samples: output lengths and ratings first, since demand is priced by them."""
    seen = [_absorb_target(config, state, view, frame, i) for i in range(len(config.targets))]
    demand = np.array([s.demand for s in seen])
    given = {t.spec.key: row for t, row in zip(config.targets, demand, strict=True)}
    forecast = forecaster.absorb(state.forecast, DemandFrame(frame.start_s, frame.period_s, given))
    keep = round(config.window_s / frame.period_s)
    standing = max(round(config.standing_s / frame.period_s), 1)
    return replace(
        state,
        forecast=forecast,
        output_length=tuple(s.length for s in seen),
        rating=tuple(s.rating for s in seen),
        demand=_append(state.demand, demand, keep),
        concurrency=_append(state.concurrency, frame.running + frame.queued, keep),
        backlog_replica_s=_append(state.backlog_replica_s, np.array([s.backlog for s in seen]), standing),
    )


@dataclass(frozen=True, slots=True)
class _Absorbed:
    length: OutputLength
    rating: ObservedRating
    demand: FloatArray
    backlog: list[float]


def _absorb_target(
    config: ReconcileConfig, state: ReconcileState, view: ClusterView, frame: MetricFrame, i: int
) -> _Absorbed:
    target, replicas = config.targets[i], view.targets[i]
    length = state.output_length[i].observe(
        float(np.nansum(frame.completed_requests[i])), float(np.nansum(frame.output_tokens[i]))
    )
    raw = demand_replicas(
        target.work, frame.period_s, frame.offered_requests[i], frame.prompt_tokens[i], length.mean_tokens
    )
    before = float(state.backlog_replica_s[i, -1])
    backlog = _backlogs(target, frame, i, length, before)
    rating = state.rating[i]
    if backlog:
        # A draining replica still works on what it has, with half a batch on the mean.
        serving = replicas.ready.get(ACTIVE, 0) + replicas.draining / 2.0
        rating = rating.observe(float(raw.mean()), before, backlog[-1], serving, len(backlog) * frame.period_s)
    return _Absorbed(length, rating, raw / rating.share, [b / rating.share for b in backlog])


def _backlogs(target: ManagedTarget, frame: MetricFrame, i: int, length: OutputLength, last: float) -> list[float]:
    """The frame's samples in replica-seconds; where the gauges are missing the last one stands."""
    samples = []
    for queued, prompt_tokens in zip(frame.queued[i], frame.queued_prompt_tokens[i], strict=True):
        if not np.isnan(queued):
            last = backlog_replica_s(target.work, float(queued), float(prompt_tokens), length.mean_tokens)
        samples.append(last)
    return samples


def _append(window: FloatArray, new: FloatArray, keep: int) -> FloatArray:
    joined = np.concatenate((window, new), axis=1)[:, -keep:]
    joined.flags.writeable = False
    return joined


def _input(
    forecaster: Forecaster[Any],
    policy: Policy,
    config: ReconcileConfig,
    state: ReconcileState,
    view: ClusterView,
    period_s: float,
    now_s: float,
) -> DecisionInput:
    paths: DemandPaths | None = _paths(forecaster, config, state, now_s) if policy.wants_paths else None
    stale_samples = max(round(config.stale_after_s / period_s), 1)
    recent = state.demand[:, -stale_samples:]
    observed = tuple(
        TargetObservation(
            ready=seen.ready,
            starting=seen.starting,
            draining=seen.draining,
            demand_replicas=state.demand[i],
            concurrency=state.concurrency[i],
            demand_known=bool(np.isfinite(recent[i]).any()),
            backlog_replica_s=float(state.backlog_replica_s[i, -1]),
            standing_backlog_replica_s=float(state.backlog_replica_s[i].min()),
        )
        for i, seen in enumerate(view.targets)
    )
    return DecisionInput(
        now_s=now_s,
        sample_period_s=period_s,
        targets=tuple(t.spec for t in config.targets),
        observed=observed,
        supply=config.supply,
        nodes=view.nodes,
        gpu_budget=view.gpu_budget,
        paths=paths,
        tick_s=policy.interval_s,
    )


def _paths(forecaster: Forecaster[Any], config: ReconcileConfig, state: ReconcileState, now_s: float) -> DemandPaths:
    return forecaster.paths(state.forecast, tuple(t.spec.key for t in config.targets), now_s, config.horizon_s)


def check_plan(plan: Plan, given: DecisionInput) -> None:
    """Refuse a plan that breaks its contract, before anything acts on it."""
    if len(plan.targets) != len(given.targets):
        raise PlanError(f"plan for {len(plan.targets)} targets, {len(given.targets)} were given")
    for spec, planned, seen in zip(given.targets, plan.targets, given.observed, strict=True):
        if not 0 <= planned.active <= spec.max_replicas:
            raise PlanError(f"{spec.name}: {planned.active} active replicas, allowed are 0 to {spec.max_replicas}")
        if not seen.demand_known and planned.active < min(seen.active + seen.starting, spec.max_replicas):
            raise PlanError(f"{spec.name}: scaled down without fresh metrics; unknown is not zero")
    if plan.spare_gpus < 0:
        raise PlanError(f"{plan.spare_gpus} spare GPUs planned; allowed are 0 and more")
