"""What was asked for and is not seen yet, and what failed and waits.

A cluster's cache lags behind its own writes. A controller that plans on it alone asks twice for the same replica, so
each accepted action is *expected* until the view shows its effect or `EXPECTED_FOR_S` has passed (Kubernetes'
ControllerExpectations, UID-tracked, expire after five minutes). Decisions stand on the view with the expected
effects laid over it. An action that was refused or failed is not asked for again before a pause that doubles.

Of several actions on one object the newest is expected: what it wants replaces what was wanted before. Only a start
that the view does not show yet stays before what follows it, so that a replica that was started and stopped within
the lag is expected to be gone, and not to be there because the view lacks it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from autoscaler.outcomes import EXPECTED, SETBACKS, Outcome
from autoscaler.ports import ClusterView
from policies.actions import SCALING, Action, ActionKind
from policies.effects import after
from policies.keys import TargetKey
from policies.types import NodeObservation, Phase, ReplicaView

EXPECTED_FOR_S = 300.0
"""As long as Kubernetes' own controllers believe a write that their cache does not show."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 60.0
"""Pauses after setbacks: one tick at first, a minute at the most, so that a node that recovers is used soon."""


_Name = tuple[TargetKey | None, str]


@dataclass(frozen=True, slots=True)
class Expected:
    """An action whose effect the view should show, and when it was asked for."""

    action: Action
    since_s: float


@dataclass(frozen=True, slots=True)
class Pause:
    """An action that was refused or failed `times` in a row; not asked for again before `until_s`."""

    times: int
    until_s: float


@dataclass(frozen=True, slots=True)
class Flight:
    """Expected effects and pauses by action name; a value, part of the pass's state."""

    expected: tuple[Expected, ...] = ()
    pauses: Mapping[str, Pause] = field(default_factory=dict)

    def seen(self, view: ClusterView, now_s: float) -> Flight:
        """Return the flight without what `view` shows by now, and without what has expired."""
        if not self.expected and not self.pauses:
            return self
        members: dict[_Name, ReplicaView] = {
            (r.target, r.name): r for replicas in view.replicas.values() for r in replicas
        }
        nodes = {n.name: n for n in view.nodes}
        waiting = _waiting(
            tuple(e for e in self.expected if now_s - e.since_s < EXPECTED_FOR_S),
            lambda action: _shows(action, members, nodes),
        )
        # A pause is remembered for a while after it ended: the next setback in a row doubles it.
        pauses = {name: p for name, p in self.pauses.items() if now_s < p.until_s + LONGEST_PAUSE_S}
        return Flight(waiting, pauses)

    def over(self, view: ClusterView) -> ClusterView:
        """Return `view` with the expected effects in force."""
        if not self.expected:
            return view
        replicas, nodes = view.replicas, view.nodes
        for each in self.expected:
            replicas, nodes = after((each.action,), replicas, nodes, each.since_s)
        return replace(view, replicas=replicas, nodes=nodes, reserved=self._reserved())

    def _reserved(self) -> dict[TargetKey, frozenset[str]]:
        """Return the names of replicas of which something is expected."""
        names: dict[TargetKey, frozenset[str]] = {}
        for target, replica in ((e.action.target, e.action.replica) for e in self.expected):
            if target is not None and replica:
                names[target] = names.get(target, frozenset()) | {replica}
        return names

    def paused(self, action: Action, now_s: float) -> bool:
        """Return whether `action` met a setback too recently to be asked for again."""
        pause = self.pauses.get(action.name)
        return pause is not None and now_s < pause.until_s

    def with_outcomes(self, actions: tuple[Action, ...], outcomes: Mapping[str, Outcome], now_s: float) -> Flight:
        """Return the flight once `outcomes` are known, by `Action.name`."""
        expected = self.expected
        pauses = dict(self.pauses)
        for action in actions:
            outcome = outcomes.get(action.name)
            if isinstance(outcome, EXPECTED):
                expected = _joined(expected, Expected(action, now_s))
                pauses.pop(action.name, None)
            elif isinstance(outcome, SETBACKS):
                pauses[action.name] = _longer(pauses.get(action.name), now_s)
        return Flight(expected, pauses)


def _joined(expected: tuple[Expected, ...], new: Expected) -> tuple[Expected, ...]:
    """Return what is expected once `new` was accepted; an action that is asked for again keeps its first moment."""
    of = _object(new.action)
    same = tuple(e for e in expected if _object(e.action) == of)
    if same and _wants_the_same(same[-1].action, new.action):
        return expected
    unseen_start = new.action.kind is not ActionKind.START
    return (
        *(e for e in expected if e not in same or (unseen_start and e.action.kind is ActionKind.START)),
        new,
    )


def _object(action: Action) -> tuple[object, ...]:
    """Return what an action is about: a replica, a node's place in the pool, its lent GPUs, or one of its snapshots."""
    if action.kind in SCALING:
        return action.target, action.replica
    about = "lent" if action.kind is ActionKind.SET_LENT else "node"
    return action.node, action.snapshot or about


def _wants_the_same(before: Action, now: Action) -> bool:
    return before.name == now.name and (now.kind is not ActionKind.SET_LENT or before.gpus == now.gpus)


def _waiting(expected: tuple[Expected, ...], shows: Callable[[Action], bool]) -> tuple[Expected, ...]:
    """Return what the view does not show; what follows an unseen start is not seen either."""
    waiting: list[Expected] = []
    unseen: set[tuple[object, ...]] = set()
    for each in expected:
        of = _object(each.action)
        if of in unseen or not shows(each.action):
            waiting.append(each)
            unseen.add(of)
    return tuple(waiting)


def _longer(pause: Pause | None, now_s: float) -> Pause:
    times = (pause.times if pause else 0) + 1
    return Pause(times, now_s + min(FIRST_PAUSE_S * 2.0 ** (times - 1), LONGEST_PAUSE_S))


def _shows(action: Action, members: Mapping[_Name, ReplicaView], nodes: Mapping[str, NodeObservation]) -> bool:
    """Return whether the view shows the action's effect."""
    kind = action.kind
    there = members.get((action.target, action.replica))
    if kind is ActionKind.START:
        return there is not None
    if kind in (ActionKind.STOP, ActionKind.DEMOTE):
        return there is None or there.phase not in (Phase.ACTIVE, Phase.STARTING, Phase.PENDING, *_WARM_IF[kind])
    if kind is ActionKind.RETAIN:
        return there is None or there.phase is not Phase.DRAINING
    if kind is ActionKind.PROMOTE:
        return there is None or there.phase not in (Phase.PARKED, Phase.STANDBY)
    node = nodes.get(action.node)
    return node is None or _node_shows(action, node)


_WARM_IF = {ActionKind.STOP: (Phase.PARKED, Phase.STANDBY), ActionKind.DEMOTE: ()}


def _node_shows(action: Action, node: NodeObservation) -> bool:
    if action.kind is ActionKind.SET_LENT:
        return node.lent_gpus == action.gpus
    if action.kind in (ActionKind.ADD_NODE, ActionKind.REMOVE_NODE):
        return node.absent == (action.kind is ActionKind.REMOVE_NODE)
    there = action.snapshot in node.snapshots | node.fetching
    return there == (action.kind is ActionKind.STAGE)
