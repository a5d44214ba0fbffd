"""Between deciding and acting the world may change: what has lost its ground is a conflict, the rest is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from autoscaler.acting.fresh import still_valid
from autoscaler.outcomes import Conflict
from autoscaler.ports import ClusterView, PassRecord
from policies.actions import Action, ActionKind
from policies.keys import SnapshotKey
from policies.reasons import ReasonCode, because
from policies.types import Phase, ReplicaView
from simulations.world.cluster import SimulatedCluster
from tests.autoscaler.odd_clusters import Restless
from tests.autoscaler.quiet_pools import Fixed, Pool, key, managed, quiet_pool

A, B = key("a"), key("b")
Change = Callable[[SimulatedCluster], None]
WHY = because(ReasonCode.FIXED_COUNT, wanted=1)


def restless(policy: Fixed, change: Change, first: Mapping[str, int], *, at_s: float = 2.0, gpus: int = 16) -> Pool:
    """A pool of `a` and `b` whose world changes between the two looks of the pass at `at_s`."""

    def seen_as(world: SimulatedCluster) -> Restless:
        def changed(view: ClusterView) -> ClusterView:
            change(world)
            return world.observe(at_s)

        return Restless(world, changed, at_s)

    return quiet_pool((managed("a"), managed("b")), policy, first=first, gpus=gpus, seen_as=seen_as)


def dies(name: str) -> Change:
    """The replica's process ends and its GPU is free."""

    def change(world: SimulatedCluster) -> None:
        replica = next(r for members in world.replicas.values() for r in members.values() if r.name == name)
        if replica.phase is Phase.STARTING:
            world.free_gpus(replica, "starting")
        world.remove(replica)

    return change


def leaves(name: str) -> Change:
    """The node is gone from the cluster."""

    def change(world: SimulatedCluster) -> None:
        del world.nodes[name]
        world._node_views.pop(name, None)
        world._seen = None

    return change


def outcomes(record: PassRecord) -> dict[str, str]:
    return {name: type(outcome).__name__ for name, outcome in (record.outcomes or {}).items()}


def test_a_parked_replica_that_dies_is_not_promoted_and_the_others_are_asked_for() -> None:
    """`a` wakes its parked replica, `b` starts one. The parked one dies in between; the next pass starts another."""
    policy = Fixed({"a": 0, "b": 0}, spare=4, parked={"a": 1})
    pool = restless(policy, dies("a-0"), {}, at_s=20.0)
    pool.steps(18.0)
    assert pool.names("a", Phase.PARKED) == ["a-0"]
    policy.active, policy.parked = {"a": 1, "b": 1}, {}

    record = pool.step(20.0)

    conflict = (record.outcomes or {})["promote/default/a-0/node-000"]
    assert conflict == Conflict("replica a-0 is gone by now")
    assert outcomes(record)["start/default/b-0/node-000"] == "InFlight"
    assert (pool.names("a"), pool.names("b")) == ([], ["b-0"])
    again = pool.step(22.0)
    assert outcomes(again)["start/default/a-0/node-000"] == "InFlight"


def test_a_node_that_leaves_takes_no_start_and_the_next_pass_starts_elsewhere() -> None:
    """Of ten starts eight were to go to node-000. It leaves: two are asked for, and then the rest on node-001."""
    pool = restless(Fixed({"a": 10, "b": 0}), leaves("node-000"), {})

    record = pool.step(2.0)

    conflicts = {n: o for n, o in (record.outcomes or {}).items() if isinstance(o, Conflict)}
    assert set(conflicts.values()) == {Conflict("node node-000 has left")}
    assert set(conflicts) == {a.name for a in record.actions if a.node == "node-000"}
    assert len(pool.names("a")) == 2
    pool.step(4.0)
    assert {r.node.name for r in pool.world.replicas[A].values()} == {"node-001"}
    assert len(pool.names("a")) == 8


def absent(name: str) -> Change:
    """The node leaves the pool, which may buy it again."""

    def change(world: SimulatedCluster) -> None:
        node = world.nodes[name]
        world.move(None, node.lent, "lent", "absent")
        node.lent, node.absent = 0, True
        world.node_changed(node)

    return change


def test_a_node_that_left_the_pool_since_the_decision_takes_no_start_although_it_is_still_listed() -> None:
    pool = restless(Fixed({"a": 1, "b": 0}), absent("node-000"), {})

    record = pool.step(2.0)

    assert (record.outcomes or {})["start/default/a-0/node-000"] == Conflict("node node-000 has left")
    assert pool.names("a") == []


def test_a_name_that_is_taken_on_another_node_is_a_conflict_and_the_next_pass_takes_the_next_name() -> None:
    def taken(world: SimulatedCluster) -> None:
        start = Action(ActionKind.START, WHY, A, "a-1", "node-001", "staged", "active", 1)
        world.apply((start,), 2.0)

    pool = restless(Fixed({"a": 2, "b": 1}), taken, {"a": 1})

    record = pool.step(2.0)

    assert (record.outcomes or {})["start/default/a-1/node-000"] == Conflict(
        "replica a-1 exists on another node by now"
    )
    assert pool.names("b") == ["b-0"]
    later = pool.step(4.0)
    assert later.plan.targets[A].active == 2
    assert not [a for a in later.actions if a.target == A], "the one that took the name is counted"


def test_an_unchanged_world_confirms_every_action() -> None:
    pool = restless(Fixed({"a": 2, "b": 1}, spare=2), lambda world: None, {"a": 1})

    assert "Conflict" not in outcomes(pool.step(2.0)).values()
    assert (pool.names("a"), pool.names("b")) == (["a-0", "a-1"], ["b-0"])


# -- each kind of action and its ground ------------------------------------------------------------------------


def view(phase: Phase | None = None, node: str = "n1", **changes: Any) -> ClusterView:
    """A view of nodes n1 and n2, and of replica a-0 on `node` in `phase`, if any."""
    pool = quiet_pool((managed("a"),), Fixed({"a": 0}))
    first, second = pool.world.observe(0.0).nodes
    nodes = (replace(first, name="n1", **changes), replace(second, name="n2"))
    members = (ReplicaView("a-0", A, phase, node, 0.0),) if phase else ()
    return ClusterView(0.0, {A: members}, {}, nodes, 16)


EVERY = set(Phase)
GROUNDS: list[tuple[ActionKind, set[Phase | None]]] = [
    (ActionKind.STOP, {None, *EVERY}),
    (ActionKind.RETAIN, {Phase.DRAINING, Phase.ACTIVE}),
    (ActionKind.PROMOTE, {Phase.PARKED, Phase.STANDBY, Phase.STARTING, Phase.ACTIVE}),
    (ActionKind.DEMOTE, {Phase.ACTIVE, Phase.DRAINING, Phase.PARKED}),
    (ActionKind.START, {None, *EVERY}),
]


@pytest.mark.parametrize("phase", [None, *Phase])
@pytest.mark.parametrize(("kind", "allowed"), GROUNDS, ids=[kind.value for kind, _ in GROUNDS])
def test_an_action_on_a_replica_holds_in_the_phases_that_lead_to_its_end_or_are_it(
    kind: ActionKind, allowed: set[Phase | None], phase: Phase | None
) -> None:
    action = Action(kind, WHY, A, "a-0", "n1" if kind in (ActionKind.START, ActionKind.PROMOTE) else "")

    valid, conflicts = still_valid((action,), view(), view(phase))

    assert valid == ((action,) if phase in allowed else ())
    assert conflicts.keys() == ({action.name} if phase not in allowed else set())


ON_NODES = [
    Action(ActionKind.SET_LENT, WHY, node="n1", gpus=2),
    Action(ActionKind.ADD_NODE, WHY, node="n1"),
    Action(ActionKind.REMOVE_NODE, WHY, node="n1"),
    Action(ActionKind.STAGE, WHY, A, node="n1", snapshot=SnapshotKey(A, "v1")),
    Action(ActionKind.EVICT, WHY, A, node="n1", snapshot=SnapshotKey(A, "v1")),
    Action(ActionKind.START, WHY, A, "a-0", "n1"),
]


@pytest.mark.parametrize("action", ON_NODES, ids=[a.kind.value for a in ON_NODES])
def test_an_action_on_a_node_that_is_gone_is_a_conflict(action: Action) -> None:
    there, gone = view(), replace(view(), nodes=view().nodes[1:])

    assert still_valid((action,), there, view()) == ((action,), {})
    assert still_valid((action,), there, gone) == ((), {action.name: Conflict("node n1 has left")})


def test_a_node_that_is_in_use_by_now_is_not_removed() -> None:
    remove = ON_NODES[2]

    assert still_valid((remove,), view(), view(lent_gpus=7)) == (
        (),
        {remove.name: Conflict("node n1 is in use by now")},
    )


def test_a_node_that_is_removed_already_is_no_conflict() -> None:
    """A pass that died while it acted asks again."""
    remove = ON_NODES[2]

    assert still_valid((remove,), view(), view(absent=True, lent_gpus=0)) == ((remove,), {})


def test_a_start_on_a_node_that_was_absent_already_waits_for_the_node_to_be_bought() -> None:
    start = ON_NODES[5]

    assert still_valid((start,), view(absent=True), view(absent=True)) == ((start,), {})
