"""From what two views show to observations for the book: every start, seen from outside.

A replica's attempt is known by its name and the moment it began; what the next view shows says how it ended. The
replica serves: it succeeded. It has begun another attempt from a farther tier: it failed. It has its GPUs: the supply
step delivered them. It is still at it: pending, which the book counts as censored, once it is late enough to
teach anything. It is gone: cancelled, and of a cancelled start only what was observed while it ran is known.
An attempt begins when the pass asked for it (`asked`), since a restore or a wait for GPUs may be over before the next
view; it ends at the cluster's own moment (`ReplicaView.since_s`), so a slow tick blurs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from autoscaler.leadtimes.observation import StartObservation, StartOutcome
from autoscaler.outcomes import EXPECTED, Outcome
from policies.actions import ON_THE_WAY, Action, ActionKind
from policies.keys import TargetKey
from policies.types import ACTIVE, Phase, ReplicaView, SupplyStep, TargetSpec

LATE = 0.9
"""A pending attempt is reported from this quantile of its lead time on; a younger one would teach nothing."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt under way: the tier that it comes from, or the supply step whose GPUs it waits for."""

    path: str
    since_s: float
    supply: bool


@dataclass(frozen=True, slots=True)
class Size:
    """What a replica of one target takes: GPUs, and bytes of its weights."""

    gpus_per_replica: int
    weights_bytes: int


@dataclass(frozen=True, slots=True)
class Scope:
    """The pool that is watched: its targets, what their replicas take, its supply and its GPU model."""

    specs: Mapping[TargetKey, TargetSpec]
    sizes: Mapping[TargetKey, Size]
    supply: tuple[SupplyStep, ...]
    node_class: str

    def late_s(self, attempt: Attempt, key: TargetKey) -> float:
        """Return from when on an attempt teaches something by not having ended, in seconds."""
        rungs = self.supply if attempt.supply else self.specs[key].ladder
        lead_time = next((rung.lead_time for rung in rungs if rung.name == attempt.path), None)
        return lead_time.at(LATE) if lead_time is not None else float("inf")

    def observation(
        self, replica: ReplicaView, attempt: Attempt, outcome: StartOutcome, elapsed_s: float, now_s: float
    ) -> StartObservation:
        """Name the attempt by its replica and beginning, so that a name used again is another attempt."""
        of_target = not attempt.supply
        size = self.sizes[replica.target]
        return StartObservation(
            target=replica.target if of_target else None,
            path=attempt.path,
            node_class=self.node_class,
            outcome=outcome,
            elapsed_s=max(elapsed_s, 0.0),
            replica=f"{replica.target}/{replica.name}@{attempt.since_s:.3f}",
            at_s=now_s,
            gpus_per_replica=size.gpus_per_replica if of_target else 0,
            weights_bytes=size.weights_bytes if of_target else 0,
        )


@dataclass(frozen=True, slots=True)
class Watch:
    """The attempts of the last view; a value, part of the pass's state."""

    attempts: Mapping[tuple[TargetKey, str], Attempt] = field(default_factory=dict)

    def next(
        self, replicas: Mapping[TargetKey, tuple[ReplicaView, ...]], scope: Scope, now_s: float
    ) -> tuple[Watch, tuple[StartObservation, ...]]:
        """Return the watch after a view at `now_s`, and what it has taught of the targets in `scope`."""
        attempts: dict[tuple[TargetKey, str], Attempt] = {}
        observed: list[StartObservation] = []
        for key in scope.specs:
            for replica in replicas.get(key, ()):
                was = self.attempts.get((key, replica.name))
                if was is None and replica.phase is Phase.ACTIVE:
                    continue
                attempt = _attempt(replica, was)
                if attempt is not None:
                    attempts[key, replica.name] = attempt
                outcome = _ended(was, replica) if attempt is not was else None
                if was is not None and outcome is not None:
                    observed.append(scope.observation(replica, was, outcome, replica.since_s - was.since_s, now_s))
                if attempt is not None and now_s - attempt.since_s > scope.late_s(attempt, key):
                    pending, elapsed_s = StartOutcome.PENDING, now_s - attempt.since_s
                    observed.append(scope.observation(replica, attempt, pending, elapsed_s, now_s))
        return Watch(attempts), tuple(observed)

    def asked(self, actions: tuple[Action, ...], outcomes: Mapping[str, Outcome], now_s: float) -> Watch:
        """Return the watch once `actions` were asked for at `now_s`: starts on free GPUs and waits for others began."""
        begun = {
            (a.target, a.replica): Attempt(a.waits_for or a.origin, now_s, supply=bool(a.waits_for))
            for a in actions
            if a.target is not None
            and a.kind in (ActionKind.START, ActionKind.PROMOTE)
            and a.goal == ACTIVE
            and a.waits_for != ON_THE_WAY
            and isinstance(outcomes.get(a.name), EXPECTED)
        }
        return Watch({**begun, **self.attempts}) if begun else self


def _attempt(replica: ReplicaView, was: Attempt | None) -> Attempt | None:
    """Return the attempt that a replica is in: `was` while it goes on.

    A start that will park takes longer by that, and is not followed.
    """
    if replica.goal != ACTIVE:
        return None
    if replica.phase is Phase.STARTING:
        same = was is not None and not was.supply and was.path == replica.origin
        return was if same else Attempt(replica.origin, replica.since_s, supply=False)
    if replica.phase is Phase.PENDING:
        if not replica.waits_for:
            return was
        if replica.waits_for == ON_THE_WAY:
            return None
        same = was is not None and was.supply
        return was if same else Attempt(replica.waits_for, replica.since_s, supply=True)
    return None


def _ended(was: Attempt | None, replica: ReplicaView) -> StartOutcome | None:
    """Return how an attempt ended, by what the replica does now; None if that says nothing of it."""
    if was is None:
        return None
    if was.supply:
        return StartOutcome.SUCCEEDED if replica.phase is Phase.STARTING else None
    if replica.phase is Phase.ACTIVE:
        return StartOutcome.SUCCEEDED
    return StartOutcome.FAILED if replica.phase is Phase.STARTING else None
