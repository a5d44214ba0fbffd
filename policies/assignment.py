"""Assignment: a plan bound to nodes and replicas.

A plan says how many; this module says which. It decides on which node a replica starts and from which tier it
comes, which replica is stopped, retained, promoted or demoted, which GPUs are taken back from preemptible work,
lent to it, bought or given back. It is pure, and whoever runs a cluster obeys its actions and decides nothing.

The order, since steps share GPUs:

1. per target, starts that hang are cancelled, then a surplus is stopped or a shortage filled: a draining replica
   that serves again is the nearest of all, then a warm one promoted where its node has GPUs, then a start;
2. warm replicas, on GPUs that are still free;
3. GPUs of the supply ladder: short ones taken back or bought, surplus ones lent or given back;
4. snapshots, which help only later wakes; an eviction precedes the fetch whose space it needs.

GPUs are counted in the shapes that replicas need: a replica of four GPUs needs four on one node.
`replicas.py` chooses among replicas, `gpus.py` among GPUs.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    plan: Plan, given: DecisionInput, replicas: Replicas, running: Mapping[TargetKey, Mapping[str, float]]
) -> tuple[Action, ...]:
    """Return the actions that lead from what `given` and `replicas` show to `plan`, in the order to apply them.

    `running` is requests in service by replica name; a replica without an entry counts as the busiest, so that
    an unknown load is never taken for none. Applying the actions and assigning again yields no action.
    """
    warm_on = frozenset(r.node for members in replicas.values() for r in members if r.phase is Phase.PARKED)
    gpus = Gpus(given.nodes, warm_on)
    stops: list[Action] = []
    starts: list[Action] = []
    warm: list[Action] = []
    for spec in given.targets:
        planned = plan.targets.get(spec.key)
        if planned is not None:
            _Target(spec, planned, given, gpus, replicas.get(spec.key, ()), running.get(spec.key, {})).settle(
                stops, starts, warm
            )
    why = because(ReasonCode.SUPPLY_BALANCED, planned=plan.spare_gpus)
    supply = balance_supply(plan, given.pool.supply, gpus, why)
    return (*stops, *starts, *supply, *warm, *_snapshots(plan, given.nodes))


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
    ) -> None:
        self.spec, self.planned, self.given, self.gpus, self.running = spec, planned, given, gpus, running
        self.why = planned.reasons[0]
        self.overdue = [r for r in replicas if is_overdue(spec, given.pool.supply, r, given.now_s)]
        late = {r.name for r in self.overdue}
        self.alive = [r for r in replicas if r.name not in late]
        self.names = free_names(spec.key, replicas)

    def settle(self, stops: list[Action], starts: list[Action], warm: list[Action]) -> None:
        """Append this target's actions to the three lists."""
        stops += [self._cancel(r) for r in self.overdue]
        missing = self.planned.active - sum(_counts_as_active(r) for r in self.alive)
        demoted = 0
        if missing < 0:
            demoted = self._shrink(-missing, stops, warm)
        else:
            self._rebind(stops, starts)
            self._grow(missing, starts)
        self._keep_warm(demoted, warm)

    def _cancel(self, replica: ReplicaView) -> Action:
        why = because(
            ReasonCode.START_OVERDUE,
            elapsed_s=self.given.now_s - replica.since_s,
            deadline_s=allowance_s(self.spec, self.given.pool.supply, replica),
        )
        if replica.phase is Phase.PENDING:
            self.gpus.release_claim(replica.node, self.spec.gpus_per_replica)
        return Action(ActionKind.STOP, why, self.spec.key, replica.name)

    # -- fewer ----------------------------------------------------------------------------------------------

    def _shrink(self, surplus: int, stops: list[Action], warm: list[Action]) -> int:
        """Stop `surplus` replicas, demoting where the plan wants more of them parked; return how many."""
        chosen = victims([r for r in self.alive if _counts_as_active(r)], self.running)[:surplus]
        want_parked = max(self.planned.warm.get(PARKED, 0) - self._parked(), 0)
        serving = [r for r in chosen if r.phase is Phase.ACTIVE][:want_parked]
        warm += [Action(ActionKind.DEMOTE, self.why, self.spec.key, r.name, goal=PARKED) for r in serving]
        kept = {r.name for r in serving}
        stops += [Action(ActionKind.STOP, self.why, self.spec.key, r.name) for r in chosen if r.name not in kept]
        for replica in chosen:
            if replica.phase is Phase.PENDING:
                self.gpus.release_claim(replica.node, self.spec.gpus_per_replica)
        return len(serving)

    # -- more -----------------------------------------------------------------------------------------------

    def _rebind(self, stops: list[Action], starts: list[Action]) -> None:
        """Move replicas that still wait for GPUs to nodes that have them free now: nothing has begun yet."""
        for replica in [r for r in self.alive if r.phase is Phase.PENDING and r.goal == ACTIVE]:
            node = self.gpus.free_node(self.spec)
            if node is None:
                return
            stops.append(Action(ActionKind.STOP, self.why, self.spec.key, replica.name))
            self.gpus.release_claim(replica.node, self.spec.gpus_per_replica)
            starts.append(self._start_on(node, ACTIVE, self.why))

    def _grow(self, missing: int, starts: list[Action]) -> None:
        draining = [r for r in self.alive if r.phase is Phase.DRAINING][:missing]
        starts += [Action(ActionKind.RETAIN, self.why, self.spec.key, r.name) for r in draining]
        missing -= len(draining)
        for replica in [r for r in self.alive if r.phase is Phase.PARKED]:
            if missing > 0 and self.gpus.take_free(replica.node, self.spec.gpus_per_replica):
                starts.append(self._promote(replica))
                self.alive.remove(replica)
                missing -= 1
        for _ in range(missing):
            action = self._start()
            if action is None:
                return
            starts.append(action)

    def _promote(self, replica: ReplicaView) -> Action:
        deadline_s = self.given.now_s + start_allowance_s(self.spec, PARKED)
        return self._bound(ActionKind.PROMOTE, replica.name, replica.node, PARKED, ACTIVE, self.why, deadline_s)

    def _start(self) -> Action | None:
        """Start on free GPUs, else on GPUs on their way, else on GPUs that are taken back or bought for it."""
        node = self.gpus.free_node(self.spec)
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
        taken = self.gpus.take_free(node, self.spec.gpus_per_replica)
        assert taken, f"{node} was said to have free GPUs"
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

    def _parked(self) -> int:
        return sum(r.phase is Phase.PARKED or r.goal == PARKED for r in self.alive)

    def _keep_warm(self, demoted: int, warm: list[Action]) -> None:
        """Restore and park what is missing on free GPUs, release what is too many."""
        have, wanted = self._parked() + demoted, self.planned.warm.get(PARKED, 0)
        why = because(ReasonCode.WARM_POOL, tier=PARKED, planned=wanted, current=have)
        for _ in range(wanted - have):
            node = self.gpus.free_node(self.spec)
            if node is None:  # a parked replica is no reason to take GPUs back
                return
            warm.append(self._start_on(node, PARKED, why))
        surplus = [r for r in self.alive if r.phase is Phase.PARKED][: max(have - wanted, 0)]
        warm += [Action(ActionKind.STOP, why, self.spec.key, r.name) for r in surplus]


def _counts_as_active(replica: ReplicaView) -> bool:
    return replica.goal == ACTIVE and replica.phase in (Phase.PENDING, Phase.STARTING, Phase.ACTIVE)


def _snapshots(plan: Plan, nodes: tuple[NodeObservation, ...]) -> list[Action]:
    """Stage and evict on the nodes that the placement names: silence about a node means leave it alone."""
    actions = []
    for node in nodes:
        if node.name not in plan.placement or node.absent:
            continue
        wanted = plan.placement[node.name]
        have = node.snapshots | node.fetching
        for snapshot in sorted(have - set(wanted)):
            why = because(ReasonCode.SNAPSHOT_UNPLACED)
            actions.append(Action(ActionKind.EVICT, why, snapshot.target, node=node.name, snapshot=snapshot))
        for snapshot in wanted:
            if snapshot not in have:
                why = because(ReasonCode.SNAPSHOT_PLACED)
                actions.append(Action(ActionKind.STAGE, why, snapshot.target, node=node.name, snapshot=snapshot))
    return actions
