"""The contract of the `Cluster` port (autoscaler/ports.py): every adapter runs these tests.

An adapter's test module derives a class from `ClusterContract` and returns a fresh `ClusterWorld` from `make`. What
actions should make of the cluster is `policies.effects.after`: the view after `apply` must equal it in all that does
not need time. Time alone lets a pending replica begin on GPUs that are free, lets a cancelled replica's GPUs come
back and a dropped snapshot's bytes be free again; `unhurried` takes these differences out of a comparison.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.outcomes import Conflict, Done, InFlight, Outcome, Refused
from autoscaler.ports import Cluster, ClusterView
from policies.actions import ON_THE_WAY, Action, ActionKind
from policies.effects import after
from policies.keys import SnapshotKey, TargetKey
from policies.reasons import ReasonCode, because
from policies.types import ACTIVE, PARKED, STAGED, NodeObservation, Phase, ReplicaView, TargetSpec

NODE_GPUS = 4
LONG_S = 600.0
"""Longer than any lead time of a world, and shorter than its requests."""
WHY = because(ReasonCode.FIXED_COUNT, wanted=0)


class ClusterWorld(Protocol):
    """A cluster under test, in a known state, whose time the test moves.

    Targets: `busy` (one GPU a replica) always has requests that take longer than `LONG_S`; `idle` (two GPUs a
    replica) has none. Both may start from `staged` and be parked; each one's snapshot takes more than half of a
    cache. Nodes have `NODE_GPUS` GPUs each: on `free` all are free and the snapshot of `busy` is cached, on `lent` all
    are lent, `absent` is not part of the pool yet.
    """

    busy: TargetSpec
    idle: TargetSpec
    free: str
    lent: str
    absent: str

    @property
    def cluster(self) -> Cluster: ...

    @property
    def now_s(self) -> float:
        """Return the world's moment, in seconds."""
        ...

    def advance(self, seconds: float) -> None:
        """Let that much time pass, whatever starts, drains or fetches meanwhile."""
        ...


@dataclass(frozen=True, slots=True)
class Scene:
    """One action in a state in which it changes something."""

    name: str
    prepare: Callable[[ClusterWorld], tuple[Action, ...]]
    """Bring the world there; return the action, with those that one pass asks for beside it."""


def start(
    spec: TargetSpec, replica: str, node: str, goal: str = ACTIVE, origin: str = STAGED, waits_for: str = ""
) -> Action:
    """Return a start of one replica, whose GPUs come from `waits_for` if they are not free."""
    return Action(
        ActionKind.START,
        WHY,
        spec.key,
        replica,
        node,
        origin,
        goal,
        spec.gpus_per_replica,
        deadline_s=math.inf,
        waits_for=waits_for,
    )


def promote(spec: TargetSpec, replica: str, node: str) -> Action:
    return Action(ActionKind.PROMOTE, WHY, spec.key, replica, node, PARKED, ACTIVE, spec.gpus_per_replica)


def on_replica(kind: ActionKind, spec: TargetSpec, replica: str) -> Action:
    return Action(kind, WHY, spec.key, replica, goal=PARKED if kind is ActionKind.DEMOTE else "")


def on_node(kind: ActionKind, node: str, gpus: int = 0, snapshot: SnapshotKey | None = None) -> Action:
    return Action(kind, WHY, snapshot.target if snapshot else None, node=node, gpus=gpus, snapshot=snapshot)


def replica(world: ClusterWorld, spec: TargetSpec, name: str) -> ReplicaView | None:
    """Return a replica as the cluster shows it now; None if it is gone."""
    members = world.cluster.observe(world.now_s).replicas.get(spec.key, ())
    return next((r for r in members if r.name == name), None)


def phase(world: ClusterWorld, spec: TargetSpec, name: str) -> Phase | None:
    there = replica(world, spec, name)
    return there.phase if there else None


def node(world: ClusterWorld, name: str) -> NodeObservation:
    return next(n for n in world.cluster.observe(world.now_s).nodes if n.name == name)


def apply(world: ClusterWorld, *actions: Action) -> Mapping[str, Outcome]:
    return world.cluster.apply(actions, world.now_s)


def serving(world: ClusterWorld, name: str = "busy-0") -> None:
    """Let one replica of `busy` serve on the free node, with requests in service."""
    apply(world, start(world.busy, name, world.free))
    world.advance(LONG_S)
    assert phase(world, world.busy, name) is Phase.ACTIVE


def parked(world: ClusterWorld, name: str = "busy-0") -> None:
    apply(world, start(world.busy, name, world.free, goal=PARKED))
    world.advance(LONG_S)
    assert phase(world, world.busy, name) is Phase.PARKED


def of_replica(kind: ActionKind, before: Callable[[ClusterWorld], None]) -> Callable[[ClusterWorld], tuple[Action]]:
    def prepare(world: ClusterWorld) -> tuple[Action]:
        before(world)
        return (on_replica(kind, world.busy, "busy-0"),)

    return prepare


def pending_on_lent(world: ClusterWorld) -> None:
    apply(world, *start_on_lent(world))


def start_on_lent(world: ClusterWorld) -> tuple[Action, Action]:
    return (
        start(world.busy, "busy-0", world.lent, waits_for="lent"),
        on_node(ActionKind.SET_LENT, world.lent, NODE_GPUS - 1),
    )


def start_on_bought(world: ClusterWorld) -> tuple[Action, Action]:
    return (
        start(world.busy, "busy-0", world.absent, waits_for="node"),
        on_node(ActionKind.ADD_NODE, world.absent),
    )


def starting(world: ClusterWorld) -> None:
    apply(world, start(world.busy, "busy-0", world.free))


def draining(world: ClusterWorld) -> None:
    serving(world)
    apply(world, on_replica(ActionKind.STOP, world.busy, "busy-0"))


def promoting(world: ClusterWorld) -> tuple[Action]:
    parked(world)
    return (promote(world.busy, "busy-0", world.free),)


def start_on_arriving(world: ClusterWorld) -> tuple[Action]:
    apply(world, on_node(ActionKind.SET_LENT, world.lent, 0))
    return (start(world.idle, "idle-0", world.lent, waits_for=ON_THE_WAY),)


def staged_at(world: ClusterWorld, where: str) -> tuple[Action]:
    return (on_node(ActionKind.STAGE, where, snapshot=world.busy.snapshot),)


def evicting_a_fetch(world: ClusterWorld) -> tuple[Action]:
    apply(world, *staged_at(world, world.lent))
    return (on_node(ActionKind.EVICT, world.lent, snapshot=world.busy.snapshot),)


SCENES = (
    Scene("start-on-free-gpus", lambda w: (start(w.busy, "busy-0", w.free),)),
    Scene("start-to-park", lambda w: (start(w.busy, "busy-0", w.free, goal=PARKED),)),
    Scene("start-on-arriving-gpus", start_on_arriving),
    Scene("start-on-lent-gpus", start_on_lent),
    Scene("start-on-a-bought-node", start_on_bought),
    Scene("stop-pending", of_replica(ActionKind.STOP, pending_on_lent)),
    Scene("stop-starting", of_replica(ActionKind.STOP, starting)),
    Scene("stop-serving", of_replica(ActionKind.STOP, serving)),
    Scene("stop-parked", of_replica(ActionKind.STOP, parked)),
    Scene("retain", of_replica(ActionKind.RETAIN, draining)),
    Scene("promote", promoting),
    Scene("demote", of_replica(ActionKind.DEMOTE, serving)),
    Scene("lend", lambda w: (on_node(ActionKind.SET_LENT, w.free, 3),)),
    Scene("take-back", lambda w: (on_node(ActionKind.SET_LENT, w.lent, 1),)),
    Scene("add-node", lambda w: (on_node(ActionKind.ADD_NODE, w.absent),)),
    Scene("remove-free-node", lambda w: (on_node(ActionKind.REMOVE_NODE, w.free),)),
    Scene("remove-lent-node", lambda w: (on_node(ActionKind.REMOVE_NODE, w.lent),)),
    Scene("stage", lambda w: staged_at(w, w.lent)),
    Scene("evict-cached", lambda w: (on_node(ActionKind.EVICT, w.free, snapshot=w.busy.snapshot),)),
    Scene("evict-fetching", evicting_a_fetch),
)

scenes = pytest.mark.parametrize("scene", SCENES, ids=lambda s: s.name)


def unhurried(view: ClusterView, cancelled: Mapping[str, int]) -> tuple[object, ...]:
    """Return the view without what time alone changes; `cancelled` is GPUs of cancelled replicas by node."""
    replicas = {
        key: {replace(r, phase=_begun(r.phase), since_s=0.0) for r in members}
        for key, members in view.replicas.items()
        if members
    }
    nodes = {
        (n.name, n.idle_gpus - cancelled.get(n.name, 0), n.lent_gpus, n.snapshots, n.fetching, n.absent)
        for n in view.nodes
    }
    return replicas, nodes


def _begun(now: Phase) -> Phase:
    """Return STARTING for a replica that may begin at any moment: whether its GPUs were free is in the nodes."""
    return Phase.STARTING if now is Phase.PENDING else now


def cancelled_gpus(actions: tuple[Action, ...], view: ClusterView, gpus: Mapping[TargetKey, int]) -> dict[str, int]:
    """Return, by node, the GPUs of replicas that `actions` stop before they serve."""
    stopped = {(a.target, a.replica) for a in actions if a.kind is ActionKind.STOP}
    freed: dict[str, int] = {}
    for key, members in view.replicas.items():
        for r in members:
            if (key, r.name) in stopped and r.phase in (Phase.PENDING, Phase.STARTING):
                freed[r.node] = freed.get(r.node, 0) + gpus[key]
    return freed


def assert_gpus_conserved(view: ClusterView, gpus: Mapping[TargetKey, int]) -> None:
    """Check that each GPU of a node is in one place; what pending replicas wait for may still be elsewhere."""
    for n in view.nodes:
        on_it = [r for members in view.replicas.values() for r in members if r.node == n.name]
        held = sum(gpus[r.target] for r in on_it if r.phase not in (Phase.PENDING, Phase.PARKED))
        awaited = sum(gpus[r.target] for r in on_it if r.phase is Phase.PENDING)
        there = 0 if n.absent else n.gpus
        assert min(n.free_gpus, n.lent_gpus, n.reclaiming_gpus) >= 0, n
        assert n.idle_gpus + held <= there <= n.idle_gpus + held + awaited, (n, on_it)


class ClusterContract(ABC):
    """Derive from it, name the class `Test...`, and implement `make`."""

    @abstractmethod
    def make(self) -> ClusterWorld:
        """Return a fresh world, as `ClusterWorld` describes it."""

    @pytest.fixture
    def world(self) -> ClusterWorld:
        return self.make()

    # -- the world that the other tests stand on -----------------------------------------------------------------

    def test_the_world_begins_as_described(self, world: ClusterWorld) -> None:
        free, lent, absent = (node(world, name) for name in (world.free, world.lent, world.absent))

        assert (free.free_gpus, free.lent_gpus, free.absent) == (NODE_GPUS, 0, False)
        assert (lent.free_gpus, lent.lent_gpus, lent.absent) == (0, NODE_GPUS, False)
        assert (absent.idle_gpus, absent.absent) == (0, True)
        assert world.busy.snapshot in free.snapshots
        assert lent.snapshots == frozenset()

    def test_every_kind_of_action_has_a_scene(self) -> None:
        kinds = {action.kind for scene in SCENES for action in scene.prepare(self.make())}

        assert kinds == set(ActionKind)

    # -- observe -------------------------------------------------------------------------------------------------

    @scenes
    def test_observing_changes_nothing_and_is_equal_twice_at_one_moment(
        self, world: ClusterWorld, scene: Scene
    ) -> None:
        apply(world, *scene.prepare(world))

        first = world.cluster.observe(world.now_s)
        again = world.cluster.observe(world.now_s)
        world.advance(1.0)
        later = world.cluster.observe(world.now_s)

        assert first == again
        unobserved = self.make()
        apply(unobserved, *scene.prepare(unobserved))
        unobserved.advance(1.0)
        assert unhurried(unobserved.cluster.observe(unobserved.now_s), {}) == unhurried(later, {})

    def test_a_view_that_was_taken_does_not_change(self, world: ClusterWorld) -> None:
        view = world.cluster.observe(world.now_s)
        replicas, nodes = {k: tuple(m) for k, m in view.replicas.items()}, tuple(view.nodes)

        apply(world, start(world.busy, "busy-0", world.free), on_node(ActionKind.SET_LENT, world.lent, 0))
        world.advance(LONG_S)

        assert (dict(view.replicas), tuple(view.nodes)) == (replicas, nodes)

    # -- apply ---------------------------------------------------------------------------------------------------

    @scenes
    def test_the_view_after_apply_is_the_effect_of_the_actions(self, world: ClusterWorld, scene: Scene) -> None:
        actions = scene.prepare(world)
        before = world.cluster.observe(world.now_s)

        outcomes = apply(world, *actions)

        seen = world.cluster.observe(world.now_s)
        replicas, nodes = after(actions, before.replicas, before.nodes, world.now_s)
        expected = replace(before, replicas=replicas, nodes=nodes)
        freed = cancelled_gpus(actions, before, self.gpus(world))
        assert set(outcomes) == {a.name for a in actions}
        assert all(isinstance(o, Done | InFlight) for o in outcomes.values()), outcomes
        assert unhurried(seen, freed) == unhurried(expected, {})
        assert unhurried(seen, {}) != unhurried(before, {}), "the scene's action changed nothing"

    @scenes
    @pytest.mark.parametrize("later_s", [0.0, 1.0, LONG_S])
    def test_an_action_in_force_is_done_or_in_flight_and_changes_nothing(
        self, world: ClusterWorld, scene: Scene, later_s: float
    ) -> None:
        actions = scene.prepare(world)
        apply(world, *actions)
        if later_s:
            world.advance(later_s)
        before = world.cluster.observe(world.now_s)

        outcomes = apply(world, *actions)

        assert world.cluster.observe(world.now_s) == before
        assert set(outcomes) == {a.name for a in actions}
        assert all(isinstance(o, Done | InFlight) for o in outcomes.values()), outcomes

    def test_unknown_replicas_nodes_targets_and_snapshots_are_outcomes(self, world: ClusterWorld) -> None:
        """What is wanted gone and is not there is Done; all else is a Conflict or Refused, and nothing changes."""
        stranger = replace(world.busy, key=TargetKey("nowhere", "none"))
        unknown = SnapshotKey(world.busy.key, "no-such-digest")
        before = world.cluster.observe(world.now_s)
        gone = (
            on_replica(ActionKind.STOP, world.busy, "busy-99"),
            on_node(ActionKind.REMOVE_NODE, "no-such-node"),
            on_node(ActionKind.EVICT, "no-such-node", snapshot=world.busy.snapshot),
            on_node(ActionKind.EVICT, world.free, snapshot=unknown),
            on_replica(ActionKind.STOP, stranger, "none-0"),
        )
        wrong = (
            start(world.busy, "busy-1", "no-such-node"),
            start(world.busy, "busy-2", world.free, origin="no-such-tier"),
            start(stranger, "none-0", world.free),
            on_replica(ActionKind.RETAIN, world.busy, "busy-99"),
            on_replica(ActionKind.DEMOTE, world.busy, "busy-99"),
            promote(world.busy, "busy-99", world.free),
            on_node(ActionKind.SET_LENT, "no-such-node", 1),
            on_node(ActionKind.SET_LENT, world.free, NODE_GPUS + 1),
            on_node(ActionKind.SET_LENT, world.absent, 1),
            on_node(ActionKind.ADD_NODE, "no-such-node"),
            on_node(ActionKind.STAGE, "no-such-node", snapshot=world.busy.snapshot),
            on_node(ActionKind.STAGE, world.lent, snapshot=unknown),
            on_node(ActionKind.STAGE, world.absent, snapshot=world.busy.snapshot),
        )

        outcomes = apply(world, *gone, *wrong)

        assert {a.name: outcomes[a.name] for a in gone} == {a.name: Done() for a in gone}
        assert [a.name for a in wrong if not isinstance(outcomes[a.name], Conflict | Refused)] == []
        assert world.cluster.observe(world.now_s) == before

    @scenes
    def test_a_bad_action_keeps_no_other_from_being_applied(self, world: ClusterWorld, scene: Scene) -> None:
        actions = scene.prepare(world)
        other = self.make()
        apply(other, *scene.prepare(other))

        bad = (promote(world.busy, "busy-99", world.free), on_node(ActionKind.ADD_NODE, "no-such-node"))
        outcomes = apply(world, bad[0], *actions, bad[1])

        assert set(outcomes) == {a.name for a in (*bad, *actions)}
        assert unhurried(world.cluster.observe(world.now_s), {}) == unhurried(other.cluster.observe(other.now_s), {})

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def test_any_actions_in_any_order_conserve_gpus_and_twice_is_once(self, data: st.DataObject) -> None:
        """Passes of random actions on known and unknown names, with time between them."""
        world = self.make()
        possible = self._possible(world)
        for _ in range(data.draw(st.integers(1, 5))):
            actions = tuple(data.draw(st.lists(st.sampled_from(possible), max_size=6, unique_by=lambda a: a.name)))
            # One pass wants one end of each thing: contradicting actions have no "once" to compare with.
            actions = tuple(
                {((a.target, a.replica) if a.replica else (a.node, a.snapshot)): a for a in actions}.values()
            )
            outcomes = apply(world, *actions)
            once = world.cluster.observe(world.now_s)
            granted = tuple(a for a in actions if isinstance(outcomes[a.name], Done | InFlight))
            apply(world, *granted)

            assert set(outcomes) == {a.name for a in actions}
            assert world.cluster.observe(world.now_s) == once
            assert_gpus_conserved(once, self.gpus(world))
            world.advance(data.draw(st.sampled_from([0.5, 3.0, LONG_S])))
            assert_gpus_conserved(world.cluster.observe(world.now_s), self.gpus(world))

    def _possible(self, world: ClusterWorld) -> list[Action]:
        """Return actions of every kind on every replica name and node, real ones and none."""
        nodes = (world.free, world.lent, world.absent, "no-such-node")
        kinds = (ActionKind.STOP, ActionKind.RETAIN, ActionKind.DEMOTE)
        names = [(spec, f"{spec.key.name}-{i}") for spec in (world.busy, world.idle) for i in range(3)]
        snapshots = (world.busy.snapshot, world.idle.snapshot)
        return [
            *(start(spec, name, n, goal) for spec, name in names for n in nodes for goal in (ACTIVE, PARKED)),
            *(promote(spec, name, n) for spec, name in names for n in nodes[:2]),
            *(on_replica(kind, spec, name) for spec, name in names for kind in kinds),
            *(on_node(ActionKind.SET_LENT, n, gpus) for n in nodes for gpus in range(NODE_GPUS + 2)),
            *(on_node(kind, n) for n in nodes for kind in (ActionKind.ADD_NODE, ActionKind.REMOVE_NODE)),
            *(
                on_node(k, n, snapshot=s)
                for n in nodes
                for s in snapshots
                for k in (ActionKind.STAGE, ActionKind.EVICT)
            ),
        ]

    def gpus(self, world: ClusterWorld) -> dict[TargetKey, int]:
        return {spec.key: spec.gpus_per_replica for spec in (world.busy, world.idle)}

    # -- replicas over time --------------------------------------------------------------------------------------

    def test_a_start_without_free_gpus_waits_and_begins_when_they_arrive(self, world: ClusterWorld) -> None:
        apply(world, start(world.busy, "busy-0", world.lent, waits_for="lent"))
        world.advance(LONG_S)
        assert phase(world, world.busy, "busy-0") is Phase.PENDING

        apply(world, on_node(ActionKind.SET_LENT, world.lent, NODE_GPUS - 1))
        assert phase(world, world.busy, "busy-0") is Phase.PENDING
        world.advance(LONG_S)

        assert phase(world, world.busy, "busy-0") is Phase.ACTIVE
        assert (node(world, world.lent).free_gpus, node(world, world.lent).lent_gpus) == (0, NODE_GPUS - 1)

    def test_gpus_that_a_pending_replica_waits_for_are_neither_free_nor_lent(self, world: ClusterWorld) -> None:
        """Two GPUs come back for a replica of two: none of them is on its way for others, or may be lent again."""
        apply(
            world,
            start(world.idle, "idle-0", world.lent, waits_for="lent"),
            on_node(ActionKind.SET_LENT, world.lent, NODE_GPUS - 2),
        )
        seen = node(world, world.lent)

        assert (seen.free_gpus, seen.lent_gpus, seen.reclaiming_gpus) == (0, NODE_GPUS - 2, 0)
        refused = apply(world, on_node(ActionKind.SET_LENT, world.lent, NODE_GPUS))
        assert all(isinstance(o, Conflict | Refused) for o in refused.values())

    def test_replicas_that_wait_on_a_node_begin_first_come_first_served(self, world: ClusterWorld) -> None:
        names = [f"busy-{i}" for i in range(3)]
        apply(world, *(start(world.busy, name, world.lent, waits_for="lent") for name in names))

        for begun in range(1, 4):
            apply(world, on_node(ActionKind.SET_LENT, world.lent, NODE_GPUS - begun))
            world.advance(LONG_S)
            phases = [phase(world, world.busy, name) for name in names]
            assert phases == [Phase.ACTIVE] * begun + [Phase.PENDING] * (3 - begun)

    def test_a_stopped_pending_replica_never_begins_and_leaves_its_gpus(self, world: ClusterWorld) -> None:
        pending_on_lent(world)

        apply(world, on_replica(ActionKind.STOP, world.busy, "busy-0"))
        world.advance(LONG_S)

        assert replica(world, world.busy, "busy-0") is None
        assert node(world, world.lent).free_gpus == 1

    def test_a_stopped_starting_replica_never_serves_and_leaves_its_gpus(self, world: ClusterWorld) -> None:
        apply(world, start(world.idle, "idle-0", world.free))
        assert node(world, world.free).free_gpus == NODE_GPUS - 2

        apply(world, on_replica(ActionKind.STOP, world.idle, "idle-0"))
        world.advance(LONG_S)

        assert replica(world, world.idle, "idle-0") is None
        assert node(world, world.free).free_gpus == NODE_GPUS

    def test_a_name_that_was_stopped_can_be_started_again(self, world: ClusterWorld) -> None:
        """The second start is not completed by what was begun for the first."""
        apply(world, start(world.idle, "idle-0", world.free))
        world.advance(1.0)
        apply(world, on_replica(ActionKind.STOP, world.idle, "idle-0"))
        apply(world, start(world.idle, "idle-0", world.free))
        assert phase(world, world.idle, "idle-0") is not Phase.ACTIVE

        world.advance(LONG_S)

        assert phase(world, world.idle, "idle-0") is Phase.ACTIVE
        assert node(world, world.free).free_gpus == NODE_GPUS - 2

    def test_a_start_elsewhere_of_a_replica_that_exists_is_a_conflict(self, world: ClusterWorld) -> None:
        serving(world)

        outcomes = apply(world, start(world.busy, "busy-0", world.lent))

        assert all(isinstance(o, Conflict) for o in outcomes.values())

    def test_a_replica_in_use_drains_and_keeps_its_gpus_until_then(self, world: ClusterWorld) -> None:
        draining(world)
        world.advance(1.0)

        assert phase(world, world.busy, "busy-0") is Phase.DRAINING
        assert node(world, world.free).free_gpus == NODE_GPUS - 1

    def test_a_stopped_replica_without_requests_goes_and_leaves_its_gpus(self, world: ClusterWorld) -> None:
        apply(world, start(world.idle, "idle-0", world.free))
        world.advance(LONG_S)

        apply(world, on_replica(ActionKind.STOP, world.idle, "idle-0"))
        world.advance(LONG_S)

        assert replica(world, world.idle, "idle-0") is None
        assert node(world, world.free).free_gpus == NODE_GPUS

    def test_a_retained_replica_serves_on(self, world: ClusterWorld) -> None:
        draining(world)
        world.advance(1.0)

        apply(world, on_replica(ActionKind.RETAIN, world.busy, "busy-0"))
        world.advance(LONG_S)

        assert phase(world, world.busy, "busy-0") is Phase.ACTIVE

    def test_a_replica_that_has_drained_is_not_retained(self, world: ClusterWorld) -> None:
        """It has no requests, so that it is empty at once, even if no time has passed."""
        apply(world, start(world.idle, "idle-0", world.free))
        world.advance(LONG_S)
        apply(world, on_replica(ActionKind.STOP, world.idle, "idle-0"))

        outcomes = apply(world, on_replica(ActionKind.RETAIN, world.idle, "idle-0"))
        world.advance(LONG_S)

        serves_on = phase(world, world.idle, "idle-0") is Phase.ACTIVE
        assert [isinstance(o, Done) for o in outcomes.values()] == [serves_on]

    def test_a_demoted_replica_parks_and_a_promoted_one_serves_again(self, world: ClusterWorld) -> None:
        apply(world, start(world.idle, "idle-0", world.free))
        world.advance(LONG_S)

        apply(world, on_replica(ActionKind.DEMOTE, world.idle, "idle-0"))
        world.advance(LONG_S)
        assert phase(world, world.idle, "idle-0") is Phase.PARKED
        assert node(world, world.free).free_gpus == NODE_GPUS

        apply(world, promote(world.idle, "idle-0", world.free))
        assert node(world, world.free).free_gpus == NODE_GPUS - 2
        world.advance(LONG_S)
        assert phase(world, world.idle, "idle-0") is Phase.ACTIVE

    def test_a_promotion_without_free_gpus_is_a_conflict_and_takes_none(self, world: ClusterWorld) -> None:
        parked(world)
        apply(world, on_node(ActionKind.SET_LENT, world.free, NODE_GPUS))
        before = world.cluster.observe(world.now_s)

        outcomes = apply(world, promote(world.busy, "busy-0", world.free))

        assert all(isinstance(o, Conflict) for o in outcomes.values())
        assert world.cluster.observe(world.now_s) == before

    @pytest.mark.parametrize("after_s", [0.0, 0.1, LONG_S])
    def test_a_stop_ends_a_replica_that_is_on_its_way_to_be_parked(self, world: ClusterWorld, after_s: float) -> None:
        apply(world, start(world.idle, "idle-0", world.free))
        world.advance(LONG_S)
        apply(world, on_replica(ActionKind.DEMOTE, world.idle, "idle-0"))
        if after_s:
            world.advance(after_s)

        apply(world, on_replica(ActionKind.STOP, world.idle, "idle-0"))
        world.advance(LONG_S)

        assert replica(world, world.idle, "idle-0") is None
        assert node(world, world.free).free_gpus == NODE_GPUS

    # -- nodes and snapshots over time ---------------------------------------------------------------------------

    def test_an_added_node_brings_all_its_gpus_and_a_removed_one_takes_them(self, world: ClusterWorld) -> None:
        apply(world, on_node(ActionKind.ADD_NODE, world.absent))
        assert node(world, world.absent).reclaiming_gpus == NODE_GPUS
        world.advance(LONG_S)
        assert node(world, world.absent).free_gpus == NODE_GPUS

        apply(world, on_node(ActionKind.REMOVE_NODE, world.absent))
        world.advance(LONG_S)

        assert (node(world, world.absent).idle_gpus, node(world, world.absent).absent) == (0, True)

    @pytest.mark.parametrize("goal", [ACTIVE, PARKED])
    def test_a_node_in_use_is_not_removed(self, world: ClusterWorld, goal: str) -> None:
        apply(world, start(world.busy, "busy-0", world.free, goal=goal))
        world.advance(LONG_S)
        before = world.cluster.observe(world.now_s)

        outcomes = apply(world, on_node(ActionKind.REMOVE_NODE, world.free))

        assert all(isinstance(o, Conflict) for o in outcomes.values())
        assert world.cluster.observe(world.now_s) == before

    def test_a_staged_snapshot_is_fetched_and_then_cached(self, world: ClusterWorld) -> None:
        apply(world, *staged_at(world, world.lent))
        assert node(world, world.lent).fetching == {world.busy.snapshot}

        world.advance(LONG_S)

        assert node(world, world.lent).fetching == frozenset()
        assert node(world, world.lent).snapshots == {world.busy.snapshot}

    def test_an_evicted_fetch_does_not_complete_a_later_one(self, world: ClusterWorld) -> None:
        """Fetched, evicted and fetched again, a snapshot is there no earlier than the second fetch alone."""
        alone = self.make()
        apply(alone, *staged_at(alone, alone.lent))
        fetch_s = 0.0
        while node(alone, alone.lent).fetching:
            alone.advance(1.0)
            fetch_s += 1.0
        apply(world, *staged_at(world, world.lent))
        world.advance(fetch_s - 1.0)
        apply(world, on_node(ActionKind.EVICT, world.lent, snapshot=world.busy.snapshot))
        apply(world, *staged_at(world, world.lent))
        if fetch_s <= 2.0:
            pytest.skip("fetches of this world are too short to tell two apart")

        world.advance(fetch_s - 2.0)
        assert node(world, world.lent).snapshots == frozenset()
        world.advance(LONG_S)
        assert node(world, world.lent).snapshots == {world.busy.snapshot}

    def test_an_eviction_gives_back_the_cache_that_a_stage_took(self, world: ClusterWorld) -> None:
        empty_bytes = node(world, world.lent).cache_free_bytes
        apply(world, *staged_at(world, world.lent))
        world.advance(LONG_S)
        assert node(world, world.lent).cache_free_bytes == empty_bytes - world.busy.artifact_bytes

        apply(world, on_node(ActionKind.EVICT, world.lent, snapshot=world.busy.snapshot))
        world.advance(LONG_S)

        assert node(world, world.lent).cache_free_bytes == empty_bytes

    def test_a_snapshot_that_does_not_fit_is_refused_and_one_whose_space_was_evicted_fits(
        self, world: ClusterWorld
    ) -> None:
        stage = on_node(ActionKind.STAGE, world.free, snapshot=world.idle.snapshot)

        refused = apply(world, stage)
        assert all(isinstance(o, Refused) for o in refused.values())
        assert node(world, world.free).fetching == frozenset()

        apply(world, on_node(ActionKind.EVICT, world.free, snapshot=world.busy.snapshot), stage)
        world.advance(LONG_S)

        assert node(world, world.free).snapshots == {world.idle.snapshot}
