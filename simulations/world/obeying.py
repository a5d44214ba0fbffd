"""Obey actions in the simulated cluster, one function a kind; nothing is chosen here.

An action that is in force already is Done or InFlight and changes nothing. One that names a node, target or snapshot
that does not exist is Refused; one that the present state does not allow is a Conflict, for the next pass to look
again. None raises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from autoscaler.outcomes import Conflict, Done, InFlight, Outcome, Refused
from policies.actions import Action, ActionKind
from policies.types import ACTIVE, PARKED, Phase, SupplyStep
from simulations.world.nodes import Node
from simulations.world.replicas import Replica

if TYPE_CHECKING:
    from simulations.world.cluster import SimulatedCluster


def _replica(world: SimulatedCluster, action: Action) -> Replica | None:
    return world.replicas[action.target].get(action.replica) if action.target in world.replicas else None


def _start(world: SimulatedCluster, action: Action) -> Outcome:
    spec, node = world.specs.get(action.target) if action.target else None, world.nodes.get(action.node)
    if action.target is None or spec is None:
        return Refused(f"there is no target {action.target}")
    if (there := _replica(world, action)) is not None:
        return _started(there, action)
    if node is None:
        return Refused(f"there is no node {action.node}")
    if spec.gpus_per_replica > node.gpus:
        return Refused(f"node {node.name} has {node.gpus} GPUs, a replica needs {spec.gpus_per_replica}")
    if spec.tier(action.origin) is None:
        return Refused(f"{action.target} has no tier {action.origin!r} to start from")
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
    node.awaited += spec.gpus_per_replica
    world.pending[node.name].append(replica)
    world.node_changed(node)
    world.begin_pending(node)
    return InFlight(action.deadline_s)


def _started(there: Replica, action: Action) -> Outcome:
    """Return the outcome of a start whose replica exists already."""
    if there.node.name != action.node or there.phase is Phase.DRAINING:
        return Conflict(f"{there.name} exists on {there.node.name}, where it is {there.phase}")
    return InFlight(action.deadline_s) if there.phase in (Phase.PENDING, Phase.STARTING) else Done()


def _stop(world: SimulatedCluster, action: Action) -> Outcome:
    replica = _replica(world, action)
    if replica is None:
        return Done()
    if replica.phase is Phase.ACTIVE:
        _drain(world, replica, "")
    elif replica.phase is Phase.DRAINING:
        world.retarget(replica, "")
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
    if replica is None or replica.phase is Phase.PARKED:
        return Conflict(f"{action.replica} has drained by now")
    if replica.phase is not Phase.DRAINING:
        return Done()
    if replica.slot < 0 or not world.serving[replica.target].undrain(replica.slot):
        return Conflict(f"{action.replica} has drained by now")
    world.count_start(replica.target, "draining")
    world.move(replica.target, world.specs[replica.target].gpus_per_replica, "draining", "active")
    world.enter(replica, Phase.ACTIVE, goal=ACTIVE)
    return Done()


def _promote(world: SimulatedCluster, action: Action) -> Outcome:
    replica = _replica(world, action)
    if replica is None or replica.phase is Phase.DRAINING:
        return Conflict(f"{action.replica} is gone by now")
    if replica.phase is Phase.ACTIVE:
        return Done()
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
    parks = replica.phase is Phase.PARKED or replica.goal == PARKED
    return Done() if parks else Conflict(f"{action.replica} does not serve: it is {replica.phase}")


def _set_lent(world: SimulatedCluster, action: Action) -> Outcome:
    node = world.nodes.get(action.node)
    if node is None:
        return Refused(f"there is no node {action.node}")
    if node.absent:
        return Conflict(f"node {node.name} has left")
    taken = node.lent - action.gpus
    if taken > 0:
        return _take_back(world, node, taken)
    free = max(node.spare - node.awaited, 0)
    if -taken > free:
        return Conflict(f"node {node.name} has {free} free GPUs, {-taken} more were to be lent")
    if taken < 0:
        node.spare += taken
        node.lent = action.gpus
        world.move(None, -taken, "spare", "lent")
        world.node_changed(node)
    return Done() if node.lent == action.gpus else Conflict(f"node {node.name} has fewer free GPUs by now")


def _take_back(world: SimulatedCluster, node: Node, gpus: int) -> Outcome:
    if gpus > node.lent:
        return Refused(f"node {node.name} cannot lend {node.lent - gpus} GPUs")
    if _step(world, whole_nodes=False) is None:
        return Refused("the pool's supply lends no GPUs")
    node.lent -= gpus
    _bring(world, node, gpus, whole_nodes=False)
    return Done()


def _step(world: SimulatedCluster, *, whole_nodes: bool) -> SupplyStep | None:
    """Return the supply step that GPUs come from one by one, or as nodes; None if the ladder has none."""
    return next((s for s in world.config.supply[1:] if s.whole_nodes == whole_nodes), None)


def _bring(world: SimulatedCluster, node: Node, gpus: int, *, whole_nodes: bool) -> None:
    """Let `gpus` GPUs be on their way to `node`, taken back from preemptible work or with the node itself."""
    step = _step(world, whole_nodes=whole_nodes)
    if step is None:
        raise LookupError("GPUs were asked from a step that the supply ladder lacks")
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
    node = world.nodes.get(action.node)
    if node is None:
        return Refused(f"there is no node {action.node}")
    if node.absent:
        if _step(world, whole_nodes=True) is None:
            return Refused("the pool's supply buys no nodes")
        node.absent = False
        _bring(world, node, node.gpus, whole_nodes=True)
    return Done()


def _remove_node(world: SimulatedCluster, action: Action) -> Outcome:
    node = world.nodes.get(action.node)
    if node is None or node.absent:
        return Done()
    if node.spare + node.lent < node.gpus or node.awaited or _is_used(world, node):
        return Conflict(f"node {node.name} is in use by now")
    world.move(None, node.spare, "spare", "absent")
    world.move(None, node.lent, "lent", "absent")
    node.spare = node.lent = 0
    node.absent = True
    world.node_changed(node)
    return Done()


def _is_used(world: SimulatedCluster, node: Node) -> bool:
    return any(r.node is node for members in world.replicas.values() for r in members.values())


def _stage(world: SimulatedCluster, action: Action) -> Outcome:
    snapshot, node = action.snapshot, world.nodes.get(action.node)
    if node is None or snapshot is None or not world.snapshots.exists(snapshot):
        return Refused(f"there is no node {action.node} or no snapshot {snapshot}")
    if node.absent:
        return Conflict(f"node {node.name} has left")
    staged = world.snapshots.stage(snapshot, node)
    return Done() if staged else Refused(f"the cache of {action.node} has no space for {snapshot}")


def _evict(world: SimulatedCluster, action: Action) -> Outcome:
    node = world.nodes.get(action.node)
    if node is not None and action.snapshot is not None:
        world.snapshots.evict(action.snapshot, node)
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
