"""What actions make of a pool once they are obeyed, as a pure function: the yardstick of every cluster adapter.

`after` turns the replicas and nodes of now into those that the next observation should show. The autoscaler lays it
over a cache that has not caught up with its own writes (expectations), and tests hold assignments to it: assigning
the same plan again to the pool after its actions yields nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from policies.actions import Action, ActionKind
from policies.keys import TargetKey
from policies.types import ACTIVE, PARKED, NodeObservation, Phase, ReplicaView

Replicas = Mapping[TargetKey, tuple[ReplicaView, ...]]


def after(
    actions: Iterable[Action], replicas: Replicas, nodes: tuple[NodeObservation, ...], now_s: float
) -> tuple[dict[TargetKey, tuple[ReplicaView, ...]], tuple[NodeObservation, ...]]:
    """Return replicas and nodes with each of `actions` in force; one that is in force already changes nothing."""
    by_target = {key: {r.name: r for r in members} for key, members in replicas.items()}
    by_name = {n.name: n for n in nodes}
    for action in actions:
        if action.target is not None and action.replica:
            _on_replica(action, action.target, by_target.setdefault(action.target, {}), by_name, now_s)
        elif action.node in by_name:
            by_name[action.node] = _on_node(action, by_name[action.node])
    return {key: tuple(members.values()) for key, members in by_target.items()}, tuple(by_name.values())


def _on_replica(
    action: Action,
    target: TargetKey,
    members: dict[str, ReplicaView],
    nodes: dict[str, NodeObservation],
    now_s: float,
) -> None:
    there = members.get(action.replica)
    if action.kind is ActionKind.START:
        if there is None:
            members[action.replica] = ReplicaView(
                action.replica,
                target,
                Phase.PENDING,
                action.node,
                now_s,
                action.origin,
                action.goal,
                action.waits_for,
            )
            _take(nodes, action)
        return
    if there is None:
        return
    if action.kind is ActionKind.STOP:
        if there.phase is Phase.ACTIVE:
            members[action.replica] = replace(there, phase=Phase.DRAINING, since_s=now_s, goal="")
        elif there.phase is not Phase.DRAINING:
            del members[action.replica]
            _release(nodes, there.node, action.gpus)
    elif action.kind is ActionKind.RETAIN and there.phase is Phase.DRAINING:
        members[action.replica] = replace(there, phase=Phase.ACTIVE, since_s=now_s, goal=ACTIVE)
    elif action.kind is ActionKind.PROMOTE and there.phase is Phase.PARKED:
        members[action.replica] = replace(there, phase=Phase.STARTING, since_s=now_s, origin=PARKED, goal=ACTIVE)
        _take(nodes, action)
    elif action.kind is ActionKind.DEMOTE and there.phase is Phase.ACTIVE:
        members[action.replica] = replace(there, phase=Phase.DRAINING, since_s=now_s, goal=PARKED)


def _release(nodes: dict[str, NodeObservation], name: str, gpus: int) -> None:
    """Let the GPUs of a start that was cancelled be on their way to free."""
    node = nodes.get(name)
    if node is not None:
        nodes[name] = replace(node, reclaiming_gpus=node.reclaiming_gpus + gpus)


def _take(nodes: dict[str, NodeObservation], action: Action) -> None:
    """Take the replica's GPUs from what is free on its node, the rest from what is on its way there."""
    node = nodes.get(action.node)
    if node is None:
        return
    free = min(node.free_gpus, action.gpus)
    coming = min(node.reclaiming_gpus, action.gpus - free)
    lent = action.gpus - free - coming  # a later action of the same pass takes these back, or buys the node
    nodes[action.node] = replace(
        node, free_gpus=node.free_gpus - free, reclaiming_gpus=node.reclaiming_gpus - coming - lent
    )


def _on_node(action: Action, node: NodeObservation) -> NodeObservation:  # noqa: PLR0911 - one for each kind
    if action.kind is ActionKind.SET_LENT:
        change = node.lent_gpus - action.gpus
        if change >= 0:
            return replace(node, lent_gpus=action.gpus, reclaiming_gpus=node.reclaiming_gpus + change)
        return replace(node, lent_gpus=action.gpus, free_gpus=node.free_gpus + change)
    if action.kind is ActionKind.ADD_NODE and node.absent:
        return replace(node, absent=False, reclaiming_gpus=node.reclaiming_gpus + node.gpus)
    if action.kind is ActionKind.REMOVE_NODE:
        return replace(node, absent=True, free_gpus=0, lent_gpus=0, reclaiming_gpus=0)
    snapshot = action.snapshot
    if action.kind is ActionKind.STAGE and snapshot is not None and snapshot not in node.snapshots:
        return replace(node, fetching=node.fetching | {snapshot})
    if action.kind is ActionKind.EVICT and snapshot is not None:
        return replace(node, snapshots=node.snapshots - {snapshot}, fetching=node.fetching - {snapshot})
    return node
