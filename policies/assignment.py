"""Assignment: a plan bound to nodes and replicas.

A plan says how many; this module says which. It decides on which node a replica starts and from which tier it
comes, which replica is stopped, retained, promoted or demoted, which GPUs are taken back from preemptible work,
lent to it, bought or given back. It is pure, and a cluster adapter obeys its actions and decides nothing.

The order, since steps share GPUs, and each step for all targets before the next begins, by key:

1. starts that hang are cancelled and surpluses stopped or demoted, so that what they give up is there for others;
2. replicas that wait move to GPUs that are free, and shortages are filled: a draining replica that serves again is
   the nearest of all, then a warm one promoted where its node has GPUs, then a start;
3. warm replicas, on GPUs that are still free;
4. GPUs of the supply ladder: short ones taken back or bought, surplus ones lent or given back;
5. snapshots, which help only later wakes; an eviction precedes the fetch whose space it needs.

GPUs are counted in the shapes that replicas need: a replica of four GPUs needs four on one node.
`victims.py` chooses among replicas, `gpus.py` among GPUs, `supply.py` among idle nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from policies.actions import Action, ActionKind
from policies.deadlines import allowance_s, is_overdue, start_allowance_s, supply_allowance_s
from policies.gpus import Gpus
from policies.keys import TargetKey
from policies.reasons import Reason, ReasonCode, because
from policies.supply import balance_supply
from policies.types import (
    ACTIVE,
    PARKED,
    DecisionInput,
    NodeObservation,
    Phase,
    Plan,
    ReplicaView,
    TargetPlan,
    TargetSpec,
)
from policies.victims import free_names, victims

Replicas = Mapping[TargetKey, tuple[ReplicaView, ...]]
Running = Mapping[TargetKey, Mapping[str, float]]


def assign(
    plan: Plan,
    given: DecisionInput,
    replicas: Replicas,
    running: Running,
    reserved: Mapping[TargetKey, frozenset[str]] | None = None,
) -> tuple[Action, ...]:
    """Return the actions that lead from what `given` and `replicas` show to `plan`, in the order to apply them.

    `running` is requests in service by replica name; a replica without an entry counts as the busiest, so that
    an unknown load is never taken for none. `reserved` are names that no new replica may bear. Applying the actions
    and assigning again yields no action.
    """
    gpus = Gpus(given.nodes)
    kept = reserved or {}
    targets = [
        _Target(
            spec,
            plan.targets[spec.key],
            given,
            gpus,
            replicas.get(spec.key, ()),
            running.get(spec.key, {}),
            kept.get(spec.key, frozenset()),
        )
        for spec in sorted(given.targets, key=lambda s: s.key)
        if spec.key in plan.targets
    ]
    for settle in (_Target.give_up, _Target.grow, _Target.keep_warm):
        for target in targets:
            settle(target)
    _keep_nodes(gpus, replicas, targets)
    why = because(ReasonCode.SUPPLY_BALANCED, planned=plan.spare_gpus)
    supply = balance_supply(plan, given.pool.supply, gpus, why)
    stops = [action for target in targets for action in target.stops]
    starts = [action for target in targets for action in target.starts]
    warm = [action for target in targets for action in target.warm]
    return (*stops, *starts, *supply, *warm, *_snapshots(plan, given.nodes, gpus))


class _Target:
    """One target's replicas against its plan; takes what it needs from the shared `gpus`."""

    def __init__(
        self,
        spec: TargetSpec,
        planned: TargetPlan,
        given: DecisionInput,
        gpus: Gpus,
        replicas: tuple[ReplicaView, ...],
        running: Mapping[str, float],
        reserved: frozenset[str],
    ) -> None:
        self.spec, self.planned, self.given, self.gpus, self.running = spec, planned, given, gpus, running
        self.why = planned.reasons[0]
        self.serving = [r for r in replicas if r.phase is Phase.ACTIVE]
        # Nearly all replicas serve: whatever else is asked of each is asked of the few others.
        others = sorted((r for r in replicas if r.phase is not Phase.ACTIVE), key=lambda r: r.name)
        self.overdue = [r for r in others if is_overdue(spec, given.pool.supply, r, given.now_s)]
        late = {r.name for r in self.overdue}
        self.others = [r for r in others if r.name not in late]
        """Alive and not serving, by name."""
        self.missing = planned.active - len(self.serving) - sum(_is_on_its_way(r) for r in self.others)
        self.parked = sum(_counts_as_parked(r) for r in self.others)
        self.names = _names(spec.key, reserved, replicas)
        self.stops: list[Action] = []
        self.starts: list[Action] = []
        self.warm: list[Action] = []

    # -- fewer ----------------------------------------------------------------------------------------------

    def give_up(self) -> None:
        """Cancel the starts that hang; stop a surplus, or demote it where the plan wants more replicas parked."""
        for replica in self.overdue:
            # GPUs that a start has waited for in vain may never come: its successor takes others if there are any.
            self._stop(replica, self._hangs(replica), doubtful=replica.phase is Phase.PENDING)
        if self.missing >= 0:
            return
        on_their_way = [r for r in self.others if _is_on_its_way(r)]
        chosen = victims([*self.serving, *on_their_way], self.running)[: -self.missing]
        going = {r.name for r in chosen}
        self.others = [r for r in self.others if r.name not in going]
        for replica in chosen:
            if replica.phase is Phase.ACTIVE and self.parked < self.planned.warm.get(PARKED, 0):
                self.warm.append(Action(ActionKind.DEMOTE, self.why, self.spec.key, replica.name, goal=PARKED))
                self.parked += 1
            else:
                self._stop(replica, self.why)

    def _hangs(self, replica: ReplicaView) -> Reason:
        allowed_s = allowance_s(self.spec, self.given.pool.supply, replica)
        return because(ReasonCode.START_OVERDUE, elapsed_s=self.given.now_s - replica.since_s, deadline_s=allowed_s)

    def _stop(self, replica: ReplicaView, why: Reason, *, doubtful: bool = False) -> None:
        """Stop a replica; what it holds or waits for without serving comes back at once."""
        gpus = self.spec.gpus_per_replica if replica.phase in (Phase.PENDING, Phase.STARTING) else 0
        self.gpus.release(replica.node, gpus, doubtful=doubtful)
        goal = PARKED if _counts_as_parked(replica) else ""
        self.stops.append(Action(ActionKind.STOP, why, self.spec.key, replica.name, goal=goal, gpus=gpus))

    # -- more -----------------------------------------------------------------------------------------------

    def grow(self) -> None:
        """Give waiting replicas free GPUs, and fill a shortage from what is nearest."""
        self._rebind()
        self._retain()
        self._promote_parked()
        for _ in range(max(self.missing, 0)):
            action = self._start()
            if action is None:
                return
            self.starts.append(action)

    def _rebind(self) -> None:
        """Move replicas that still wait for GPUs to nodes that have them free now: nothing has begun yet."""
        for replica in [r for r in self.others if r.phase is Phase.PENDING and r.waits_for and r.goal == ACTIVE]:
            node = self.gpus.take_free_node(self.spec)
            if node is None:
                return
            self._stop(replica, self.why)
            self.starts.append(self._start_on(node, ACTIVE, self.why))

    def _retain(self) -> None:
        """Let draining replicas serve again, those that would be parked last."""
        draining = sorted((r for r in self.others if r.phase is Phase.DRAINING), key=_counts_as_parked)
        for replica in draining[: max(self.missing, 0)]:
            self.starts.append(Action(ActionKind.RETAIN, self.why, self.spec.key, replica.name))
            self.parked -= _counts_as_parked(replica)
            self.missing -= 1

    def _promote_parked(self) -> None:
        for replica in [r for r in self.others if r.phase is Phase.PARKED]:
            if self.missing > 0 and self.gpus.take_free(replica.node, self.spec.gpus_per_replica):
                self.starts.append(self._promote(replica))
                self.others.remove(replica)
                self.parked -= 1
                self.missing -= 1

    def _promote(self, replica: ReplicaView) -> Action:
        deadline_s = self.given.now_s + start_allowance_s(self.spec, PARKED)
        return self._bound(ActionKind.PROMOTE, replica.name, replica.node, PARKED, ACTIVE, self.why, deadline_s)

    def _start(self) -> Action | None:
        """Start on free GPUs, else on GPUs on their way, else on GPUs that are taken back or bought for it."""
        node = self.gpus.take_free_node(self.spec)
        if node is not None:
            return self._start_on(node, ACTIVE, self.why)
        secured = self.gpus.secure(self.spec, self.given.pool.supply)
        if secured is None:
            return None
        node, step = secured
        origin = self.gpus.origin(self.spec, node)
        allowed_s = supply_allowance_s(self.given.pool.supply) + start_allowance_s(self.spec, origin)
        deadline_s = self.given.now_s + allowed_s
        start = self._bound(ActionKind.START, next(self.names), node, origin, ACTIVE, self.why, deadline_s)
        return replace(start, waits_for=step)

    def _start_on(self, node: str, goal: str, why: Reason) -> Action:
        """Start on GPUs of `node` that have been taken for it."""
        origin = self.gpus.origin(self.spec, node)
        deadline_s = self.given.now_s + start_allowance_s(self.spec, origin)
        return self._bound(ActionKind.START, next(self.names), node, origin, goal, why, deadline_s)

    def _bound(
        self, kind: ActionKind, replica: str, node: str, origin: str, goal: str, why: Reason, deadline_s: float
    ) -> Action:
        return Action(
            kind, why, self.spec.key, replica, node, origin, goal, self.spec.gpus_per_replica, deadline_s=deadline_s
        )

    # -- warm -----------------------------------------------------------------------------------------------

    def keep_warm(self) -> None:
        """Restore and park what is missing on free GPUs, release what is too many."""
        have, wanted = self.parked, self.planned.warm.get(PARKED, 0)
        if have == wanted:
            return
        why = because(ReasonCode.WARM_POOL, tier=PARKED, planned=wanted, current=have)
        for _ in range(wanted - have):
            node = self.gpus.take_free_node(self.spec)
            if node is None:  # a parked replica is no reason to take GPUs back
                return
            self.warm.append(self._start_on(node, PARKED, why))
        for replica in [r for r in self.others if r.phase is Phase.PARKED][: max(have - wanted, 0)]:
            self.warm.append(Action(ActionKind.STOP, why, self.spec.key, replica.name, goal=PARKED))
            self.others.remove(replica)


def _names(target: TargetKey, reserved: frozenset[str], replicas: tuple[ReplicaView, ...]) -> Iterator[str]:
    """Yield free names; nothing is looked up before the first is needed."""
    yield from free_names(target, reserved.union(r.name for r in replicas))


def _keep_nodes(gpus: Gpus, replicas: Replicas, targets: list[_Target]) -> None:
    """Mark the nodes of parked replicas that stay: they hold no GPU, and their nodes are not given back."""
    staying = {t.spec.key: t.others for t in targets}
    members = (r for key, before in replicas.items() for r in staying.get(key, before))
    gpus.warm_on = frozenset(r.node for r in members if r.phase is Phase.PARKED)


def _is_on_its_way(replica: ReplicaView) -> bool:
    """Return whether the replica will serve without further asking."""
    return replica.goal == ACTIVE and replica.phase in (Phase.PENDING, Phase.STARTING)


def _counts_as_parked(replica: ReplicaView) -> bool:
    return replica.phase is Phase.PARKED or replica.goal == PARKED


def _snapshots(plan: Plan, nodes: tuple[NodeObservation, ...], gpus: Gpus) -> list[Action]:
    """Stage and evict on the nodes that the placement names: silence about a node means leave it alone."""
    actions = []
    for node in nodes:
        if node.name not in plan.placement or not gpus.nodes[node.name].stays:
            continue
        wanted = plan.placement[node.name]
        if node.snapshots == frozenset(wanted) and not node.fetching:
            continue
        have = node.snapshots | node.fetching
        for snapshot in sorted(have - set(wanted)):
            why = because(ReasonCode.SNAPSHOT_UNPLACED)
            actions.append(Action(ActionKind.EVICT, why, snapshot.target, node=node.name, snapshot=snapshot))
        for snapshot in wanted:
            if snapshot not in have:
                why = because(ReasonCode.SNAPSHOT_PLACED)
                actions.append(Action(ActionKind.STAGE, why, snapshot.target, node=node.name, snapshot=snapshot))
    return actions
