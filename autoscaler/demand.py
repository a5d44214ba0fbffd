"""From samples to demand: token lengths, ratings and windows of the past, by target.

New samples first teach what a request of each target costs (mean lengths, and under saturation what a replica
really does), then become demand in replicas. `DemandState` keeps only what has been learnt and short windows of the
past, newest last; it is a value, and its rows are found by key: a target that joins starts from its first guesses,
one that leaves takes its rows with it, and the others' are untouched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from autoscaler.config import ManagedTarget, ReconcileConfig
from autoscaler.ports import MetricFrame
from policies.arrays import FloatArray
from policies.capacity import ObservedRating, RunningMean, WorkRates, backlog_replica_s, demand_replicas, stacked
from policies.keys import TargetKey
from policies.types import Phase, ReplicaView

DRAINING_SHARE = 0.5
"""Of a replica's work that a draining one still does: its batch shrinks from full to nothing."""


@dataclass(frozen=True, slots=True)
class DemandState:
    """What has been learnt of the targets `keys`: arrays are (targets,) or (targets, samples) in that order."""

    keys: tuple[TargetKey, ...]
    prompt: RunningMean
    output: RunningMean
    rating: ObservedRating
    demand: FloatArray
    """Replicas, over the window that policies see; NaN where unknown."""
    concurrency: FloatArray
    backlog: FloatArray
    """Replica-seconds, over `standing_s`; a missing sample repeats the one before."""
    newest_s: FloatArray
    """When the newest known sample of demand ended; -inf before the first."""

    def row(self, key: TargetKey) -> int:
        """Return the row of `key`; ValueError for a target that has none."""
        return self.keys.index(key)


def no_demand() -> DemandState:
    """Return the state before any target is known."""
    none = np.empty(0)
    mean = RunningMean(none, none)
    return DemandState((), mean, mean, ObservedRating(none), np.empty((0, 0)), np.empty((0, 0)), np.zeros((0, 1)), none)


def aligned(state: DemandState, targets: tuple[ManagedTarget, ...]) -> DemandState:
    """Return the state with exactly the rows of `targets`, in their order; new ones begin from their first guesses."""
    keys = tuple(t.spec.key for t in targets)
    if keys == state.keys:
        return state
    old = {key: i for i, key in enumerate(state.keys)}

    def rows(values: FloatArray, first: FloatArray | float) -> FloatArray:
        out = np.empty((len(keys), *values.shape[1:]))
        out.T[...] = first  # first guesses are one number, or one a target
        for i, key in enumerate(keys):
            if key in old:
                out[i] = values[old[key]]
        return out

    def lengths(known: RunningMean, guesses: list[float]) -> RunningMean:
        return RunningMean(rows(known.mean, np.array(guesses)), rows(known.weight, 1.0))

    return DemandState(
        keys,
        lengths(state.prompt, [t.mean_prompt_tokens for t in targets]),
        lengths(state.output, [t.mean_output_tokens for t in targets]),
        ObservedRating(rows(state.rating.share, 1.0)),
        rows(state.demand, np.nan),
        rows(state.concurrency, np.nan),
        rows(state.backlog, 0.0),
        rows(state.newest_s, -np.inf),
    )


def serving_replicas(replicas: Mapping[TargetKey, tuple[ReplicaView, ...]], keys: tuple[TargetKey, ...]) -> FloatArray:
    """Return replicas that work on requests, (targets,): active ones, and draining ones by half."""

    def serving(members: tuple[ReplicaView, ...]) -> float:
        phases = [r.phase for r in members]
        return phases.count(Phase.ACTIVE) + DRAINING_SHARE * phases.count(Phase.DRAINING)

    return np.array([serving(replicas.get(key, ())) for key in keys])


def absorb(
    state: DemandState, config: ReconcileConfig, frame: MetricFrame, serving: FloatArray
) -> tuple[DemandState, FloatArray]:
    """Take in new samples; return the new state and their demand in replicas, (targets, samples).

    Lengths and ratings come first, since demand is priced by them. `serving` is `serving_replicas` of the same keys.
    """
    state = aligned(state, config.targets)
    if not frame.samples or not state.keys:
        return state, np.empty((len(state.keys), frame.samples))
    columns = {name: frame.rows(state.keys, name) for name in _COLUMNS}
    prompt, output = _lengths(state, columns)
    work = stacked([t.work for t in config.targets])
    raw = demand_replicas(
        work, frame.period_s, columns["offered_requests"], columns["prompt_tokens"], prompt.mean, output.mean
    )
    backlog = _backlog(state, columns, work, prompt, output)
    mean_raw = np.where(np.isnan(raw).any(axis=1), np.nan, raw.mean(axis=1))
    before = state.backlog[:, -1] * state.rating.share  # what is kept is in rated replicas, what is observed is not
    rating = state.rating.observe(mean_raw, before, backlog[:, -1], serving, frame.samples * frame.period_s)
    demand = raw / rating.share[:, None]
    window = round(config.window_s / frame.period_s)
    standing = max(round(config.standing_s / frame.period_s), 1)
    state = replace(
        state,
        prompt=prompt,
        output=output,
        rating=rating,
        demand=_append(state.demand, demand, window),
        concurrency=_append(state.concurrency, columns["running"] + columns["queued"], window),
        backlog=_append(state.backlog, backlog / rating.share[:, None], standing),
        newest_s=_newest(state.newest_s, demand, frame),
    )
    return state, demand


_COLUMNS = (
    "offered_requests",
    "prompt_tokens",
    "completed_requests",
    "output_tokens",
    "running",
    "queued",
    "queued_prompt_tokens",
)


def _lengths(state: DemandState, columns: Mapping[str, FloatArray]) -> tuple[RunningMean, RunningMean]:
    """Fold in the lengths of requests whose count and tokens are both known."""

    def observe(mean: RunningMean, requests: FloatArray, tokens: FloatArray) -> RunningMean:
        both = np.isfinite(requests) & np.isfinite(tokens)
        return mean.observe(np.where(both, requests, 0.0).sum(axis=1), np.where(both, tokens, 0.0).sum(axis=1))

    return (
        observe(state.prompt, columns["offered_requests"], columns["prompt_tokens"]),
        observe(state.output, columns["completed_requests"], columns["output_tokens"]),
    )


def _backlog(
    state: DemandState, columns: Mapping[str, FloatArray], work: WorkRates, prompt: RunningMean, output: RunningMean
) -> FloatArray:
    """Return the frame's backlog before the rating; where the count is missing the last known value stands.

    The first column of what is filled is the last value before the frame, in the same units.
    """
    backlog = backlog_replica_s(work, columns["queued"], columns["queued_prompt_tokens"], prompt.mean, output.mean)
    joined = np.concatenate((state.backlog[:, -1:] * state.rating.share[:, None], backlog), axis=1)
    known = np.where(np.isnan(joined), 0, np.arange(joined.shape[1]))
    filled: FloatArray = np.take_along_axis(joined, np.maximum.accumulate(known, axis=1), axis=1)[:, 1:]
    return filled


def _newest(newest_s: FloatArray, demand: FloatArray, frame: MetricFrame) -> FloatArray:
    ends_s = frame.start_s + (np.arange(frame.samples) + 1) * frame.period_s
    latest = np.where(np.isfinite(demand), ends_s, -np.inf).max(axis=1)
    seen: FloatArray = np.maximum(newest_s, latest)
    return seen


def _append(window: FloatArray, new: FloatArray, keep: int) -> FloatArray:
    joined = np.concatenate((window, new), axis=1)[:, -keep:]
    joined.flags.writeable = False
    return joined
