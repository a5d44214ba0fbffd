"""What each action does in the simulated cluster. An action in force already is done; nothing is chosen here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from autoscaler.outcomes import Conflict, Done, InFlight, Outcome, Refused
from policies.actions import Action, ActionKind
from policies.types import ACTIVE, PARKED, Phase
from simulations.world.nodes import Node
from simulations.world.replicas import Replica

if TYPE_CHECKING:
    from simulations.world.cluster import SimulatedCluster


def _replica(world: SimulatedCluster, action: Action) -> Replica | None:
    assert action.target is not None, f"{action.name} names no target"
    return world.replicas[action.target].get(action.replica)


def _start(world: SimulatedCluster, action: Action) -> Outcome:
    assert action.target is not None, f"{action.name} names no target"
    if (there := _replica(world, action)) is not None:
        return InFlight(action.deadline_s) if there.node.name == action.node else Conflict(f"{there.name} exists")
    node = world.nodes.get(action.node)
    if node is None:
        return Refused(f"there is no node {action.node}")
    replica = Replica(
        action.replica,
        action.target,
        node,
        world.now_s,
        origin=action.origin,
        goal=action.goal,
        waits_for=action.waits_for,
    )
    world.replicas[action.target][action.replica] = replica
    world.replica_changed(action.target)
    node.awaited += world.specs[action.target].gpus_per_replica
    world.pending[node.name].append(replica)
    world.node_changed(node)
    world.begin_pending(node)
    return InFlight(action.deadline_s)


def _stop(world: SimulatedCluster, action: Action) -> Outcome:
    replica = _replica(world, action)
    if replica is None:
        return Done()
    if replica.phase is Phase.ACTIVE:
        _drain(world, replica, "")
    elif replica.phase is Phase.DRAINING:
        world.enter(replica, Phase.DRAINING, goal="")
    else:
        _cancel(world, replica)
    return Done()


def _cancel(world: SimulatedCluster, replica: Replica) -> None:
    world.remove(replica)
    if replica.phase is Phase.PENDING:
        world.pending[replica.node.name].remove(replica)
        replica.node.awaited -= world.specs[replica.target].gpus_per_replica
        world.node_changed(replica.node)
        world.begin_pending(replica.node)
    elif replica.phase is Phase.STARTING:
        world.free_gpus(replica, "starting")


def _drain(world: SimulatedCluster, replica: Replica, goal: str) -> None:
    world.move(replica.target, world.specs[replica.target].gpus_per_replica, "active", "draining")
    world.enter(replica, Phase.DRAINING, goal)
    world.serving[replica.target].drain(replica.slot)


def _retain(world: SimulatedCluster, action: Action) -> Outcome:
    replica = _replica(world, action)
    if replica is None or (replica.phase is Phase.DRAINING and replica.slot < 0):
        return Conflict(f"{action.replica} has drained by now")
    if replica.phase is Phase.DRAINING:
        world.serving[replica.target].undrain(replica.slot)
        world.count_start(replica.target, "draining")
        world.move(replica.target, world.specs[replica.target].gpus_per_replica, "draining", "active")
        world.enter(replica, Phase.ACTIVE, goal=ACTIVE)
    return Done()


def _promote(world: SimulatedCluster, action: Action) -> Outcome:
    replica = _replica(world, action)
    if replica is None:
        return Conflict(f"{action.replica} is gone by now")
    if replica.phase is not Phase.PARKED:
        return InFlight(action.deadline_s)
    if replica.node.spare - replica.node.awaited < world.specs[replica.target].gpus_per_replica:
        return Conflict(f"{replica.node.name} has no GPUs for {action.replica} by now")
    replica.origin, replica.goal = PARKED, ACTIVE
    world.begin(replica)
    return InFlight(action.deadline_s)


def _demote(world: SimulatedCluster, action: Action) -> Outcome:
    replica = _replica(world, action)
    if replica is None:
        return Conflict(f"{action.replica} is gone by now")
    if replica.phase is Phase.ACTIVE:
        _drain(world, replica, PARKED)
    return Done()


def _set_lent(world: SimulatedCluster, action: Action) -> Outcome:
    node = world.nodes[action.node]
    if node.absent:
        return Conflict(f"node {node.name} has left")
    taken = node.lent - action.gpus
    if taken > 0:
        node.lent -= taken
        _bring(world, node, taken, whole_nodes=False)
    elif taken < 0:
        lent = min(-taken, node.spare)
        node.spare -= lent
        node.lent += lent
        world.move(None, lent, "spare", "lent")
        world.node_changed(node)
    return Done() if node.lent == action.gpus else Conflict(f"node {node.name} has fewer free GPUs by now")


def _bring(world: SimulatedCluster, node: Node, gpus: int, *, whole_nodes: bool) -> None:
    """Let `gpus` GPUs be on their way to `node`, taken back from preemptible work or with the node itself."""
    step = next(s for s in world.config.supply[1:] if s.whole_nodes == whole_nodes)
    node.reclaiming += gpus
    world.move(None, gpus, "absent" if whole_nodes else "lent", "reclaiming")
    world.node_changed(node)

    def arrived(at_s: float) -> None:
        node.reclaiming -= gpus
        node.spare += gpus
        world.move(None, gpus, "reclaiming", "spare")
        world.node_changed(node)
        world.begin_pending(node)

    world.after(world.draw_any(step.lead_time), arrived)


def _add_node(world: SimulatedCluster, action: Action) -> Outcome:
    node = world.nodes[action.node]
    if node.absent:
        node.absent = False
        _bring(world, node, node.gpus, whole_nodes=True)
    return Done()


def _remove_node(world: SimulatedCluster, action: Action) -> Outcome:
    node = world.nodes[action.node]
    if node.absent:
        return Done()
    if node.spare + node.lent < node.gpus or node.awaited or _warm_on(world, node):
        return Conflict(f"node {node.name} is in use by now")
    world.move(None, node.spare, "spare", "absent")
    world.move(None, node.lent, "lent", "absent")
    node.spare = node.lent = 0
    node.absent = True
    world.node_changed(node)
    return Done()


def _warm_on(world: SimulatedCluster, node: Node) -> bool:
    return any(r.node is node for members in world.replicas.values() for r in members.values())


def _stage(world: SimulatedCluster, action: Action) -> Outcome:
    assert action.snapshot is not None, f"{action.name} names no snapshot"
    staged = world.snapshots.stage(action.snapshot, world.nodes[action.node])
    return Done() if staged else Refused(f"the cache of {action.node} has no space for {action.snapshot}")


def _evict(world: SimulatedCluster, action: Action) -> Outcome:
    assert action.snapshot is not None, f"{action.name} names no snapshot"
    world.snapshots.evict(action.snapshot, world.nodes[action.node])
    return Done()


VERBS: dict[ActionKind, Callable[[SimulatedCluster, Action], Outcome]] = {
    ActionKind.START: _start,
    ActionKind.STOP: _stop,
    ActionKind.RETAIN: _retain,
    ActionKind.PROMOTE: _promote,
    ActionKind.DEMOTE: _demote,
    ActionKind.SET_LENT: _set_lent,
    ActionKind.ADD_NODE: _add_node,
    ActionKind.REMOVE_NODE: _remove_node,
    ActionKind.STAGE: _stage,
    ActionKind.EVICT: _evict,
}
"""Every kind of action; a test holds the table to be complete."""
