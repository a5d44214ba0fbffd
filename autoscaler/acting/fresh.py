"""Look again before acting: drop what a second look shows to rest on something that is no longer so.

Between the observation that a decision stands on and the moment of acting, a replica may have died, a node left or a
name been taken. Each action has one precondition, checked against the newest view; an action that fails it is
dropped as a conflict, and the next pass, which sees the change, decides anew (Karpenter's validation does so).
"""

from __future__ import annotations

from autoscaler.outcomes import Conflict
from autoscaler.ports import ClusterView
from policies.actions import Action, ActionKind
from policies.types import NodeObservation, Phase, ReplicaView


def still_valid(
    actions: tuple[Action, ...], decided_on: ClusterView, now: ClusterView
) -> tuple[tuple[Action, ...], dict[str, Conflict]]:
    """Return the actions whose ground is as it was, and a conflict by name for each of the others."""
    if now is decided_on:
        return actions, {}
    members = {key: {r.name: r for r in replicas} for key, replicas in now.replicas.items()}
    nodes = {n.name: n for n in now.nodes}
    # A node that the pool no longer has is listed as absent; one that was absent before waits to be bought.
    absent = {n.name for n in now.nodes if n.absent}
    left = absent.intersection(n.name for n in decided_on.nodes if not n.absent)
    conflicts = {}
    for action in actions:
        there = members.get(action.target, {}).get(action.replica) if action.target else None
        changed = _changed(action, there, nodes, left)
        if changed:
            conflicts[action.name] = Conflict(changed)
    return tuple(a for a in actions if a.name not in conflicts), conflicts


def _changed(action: Action, there: ReplicaView | None, nodes: dict[str, NodeObservation], left: set[str]) -> str:
    """Return what has changed under `action`, or an empty string."""
    gone = action.node not in nodes or (action.node in left and action.kind is not ActionKind.REMOVE_NODE)
    if action.node and gone:
        return f"node {action.node} has left"
    if action.kind is ActionKind.START:
        taken = there is not None and there.node != action.node
        return f"replica {action.replica} exists on another node by now" if taken else ""
    needed = _NEEDED.get(action.kind)
    if needed is not None and (there is None or there.phase not in needed):
        return f"replica {action.replica} is {there.phase.value if there else 'gone'} by now"
    removes = action.kind is ActionKind.REMOVE_NODE and action.node not in left
    if removes and nodes[action.node].idle_gpus < nodes[action.node].gpus:
        return f"node {action.node} is in use by now"
    return ""


_NEEDED = {
    ActionKind.RETAIN: (Phase.DRAINING, Phase.ACTIVE),
    ActionKind.PROMOTE: (Phase.PARKED, Phase.STANDBY, Phase.STARTING, Phase.ACTIVE),
    ActionKind.DEMOTE: (Phase.ACTIVE, Phase.DRAINING, Phase.PARKED),
}
"""Phases that lead to the wanted end or are it already: a pass that died while it acted asks again. A stop needs none:
what is gone already is gone."""
