"""Plans bound to nodes and replicas: whole lists of actions compared, each number worked by hand."""

from __future__ import annotations

from collections.abc import Mapping

from policies.actions import ON_THE_WAY, Action, ActionKind
from policies.assignment import assign
from policies.keys import SnapshotKey, TargetKey
from policies.reasons import Reason, ReasonCode, because
from policies.types import (
    ACTIVE,
    COLD,
    FREE,
    PARKED,
    STAGED,
    DecisionInput,
    NodeObservation,
    Phase,
    Plan,
    PoolSpec,
    ReplicaView,
    SupplyStep,
    TargetPlan,
    TargetSpec,
)
from tests.policies.worlds import BUYS, LENDS, LENDS_AND_BUYS, key, snapshot, target

NOW_S = 1000.0
A, B, BIG = target("a"), target("b", gpus=2), target("big", gpus=4)
WHY = because(ReasonCode.UNCHANGED, current=0, planned=0)
WAKES_S = {PARKED: 0.5, STAGED: 1.0, COLD: 60.0}
"""Lead times of the ladder in `worlds`, in seconds."""
SUPPLY_S = {"lent": 8.0, ON_THE_WAY: 8.0, "node": 120.0}
"""The slowest supply of LENDS, and of the ladders that buy: a pending start is allowed three of them."""


def replica(
    name: str,
    phase: Phase = Phase.ACTIVE,
    node: str = "n",
    since_s: float = NOW_S - 5.0,
    goal: str = ACTIVE,
    waits_for: str = "",
) -> ReplicaView:
    """A replica of the target that its name begins with."""
    return ReplicaView(name, key(name.split("-", maxsplit=1)[0]), phase, node, since_s, STAGED, goal, waits_for)


def node(
    name: str = "n",
    free: int = 0,
    lent: int = 0,
    coming: int = 0,
    near: str = "",
    fetching: str = "",
    gpus: int = 8,
    absent: bool = False,
) -> NodeObservation:
    """A node; `near` and `fetching` name the targets of its snapshots, separated by spaces."""
    return NodeObservation(
        name,
        gpus,
        free,
        lent,
        coming,
        frozenset(map(snapshot, near.split())),
        frozenset(map(snapshot, fetching.split())),
        cache_free_bytes=1000,
        absent=absent,
    )


def plan(
    parked: Mapping[str, int] | None = None,
    spare: int = 0,
    lent: int = 0,
    placement: Mapping[str, tuple[SnapshotKey, ...]] | None = None,
    **active: int,
) -> Plan:
    """Active replicas by target, all for the same reason."""
    warm = parked or {}
    targets = {key(n): TargetPlan(count, {PARKED: warm[n]} if n in warm else {}, (WHY,)) for n, count in active.items()}
    return Plan(targets, {FREE: spare, "lent": lent}, placement or {})


def assigned(
    wanted: Plan,
    *members: ReplicaView,
    nodes: tuple[NodeObservation, ...],
    targets: tuple[TargetSpec, ...] = (A, B, BIG),
    supply: tuple[SupplyStep, ...] = LENDS,
    running: Mapping[str, float] | None = None,
) -> list[Action]:
    given = DecisionInput(NOW_S, 1.0, 2.0, PoolSpec("pool", "", supply), 1000, targets, {}, nodes, None)
    replicas: dict[TargetKey, tuple[ReplicaView, ...]] = {}
    for member in members:
        replicas[member.target] = (*replicas.get(member.target, ()), member)
    return list(assign(wanted, given, replicas, {k: running or {} for k in replicas}))


def spec_of(name: str) -> TargetSpec:
    return next(t for t in (A, B, BIG) if t.key == key(name.split("-", maxsplit=1)[0]))


def start(
    name: str, at: str, origin: str = STAGED, goal: str = ACTIVE, waits_for: str = "", why: Reason = WHY
) -> Action:
    """A start that may take three times its own wake, the cold start it falls back to, and its supply."""
    spec = spec_of(name)
    wakes_s = WAKES_S[origin] + (0.0 if origin == COLD else WAKES_S[COLD])
    allowed_s = 3.0 * wakes_s + 3.0 * (SUPPLY_S[waits_for] if waits_for else 0.0)
    return Action(
        ActionKind.START,
        why,
        spec.key,
        name,
        at,
        origin,
        goal,
        spec.gpus_per_replica,
        deadline_s=NOW_S + allowed_s,
        waits_for=waits_for,
    )


def promote(name: str, at: str) -> Action:
    spec = spec_of(name)
    deadline_s = NOW_S + 3.0 * (WAKES_S[PARKED] + WAKES_S[COLD])
    return Action(
        ActionKind.PROMOTE, WHY, spec.key, name, at, PARKED, ACTIVE, spec.gpus_per_replica, deadline_s=deadline_s
    )


def stop(name: str, gpus: int = 0, why: Reason = WHY, goal: str = "") -> Action:
    return Action(ActionKind.STOP, why, spec_of(name).key, name, goal=goal, gpus=gpus)


def retain(name: str) -> Action:
    return Action(ActionKind.RETAIN, WHY, spec_of(name).key, name)


def demote(name: str) -> Action:
    return Action(ActionKind.DEMOTE, WHY, spec_of(name).key, name, goal=PARKED)


def set_lent(at: str, gpus: int, spare: int = 0) -> Action:
    return Action(ActionKind.SET_LENT, because(ReasonCode.SUPPLY_BALANCED, planned=spare), node=at, gpus=gpus)


def add(at: str, spare: int = 0) -> Action:
    return Action(ActionKind.ADD_NODE, because(ReasonCode.SUPPLY_BALANCED, planned=spare), node=at)


def remove(at: str, spare: int = 0) -> Action:
    return Action(ActionKind.REMOVE_NODE, because(ReasonCode.SUPPLY_BALANCED, planned=spare), node=at)


def stage(name: str, at: str) -> Action:
    return Action(ActionKind.STAGE, because(ReasonCode.SNAPSHOT_PLACED), key(name), node=at, snapshot=snapshot(name))


def evict(name: str, at: str) -> Action:
    return Action(ActionKind.EVICT, because(ReasonCode.SNAPSHOT_UNPLACED), key(name), node=at, snapshot=snapshot(name))


def warm(wanted: int, there: int) -> Reason:
    return because(ReasonCode.WARM_POOL, tier=PARKED, planned=wanted, current=there)


def overdue(elapsed_s: float, allowed_s: float) -> Reason:
    return because(ReasonCode.START_OVERDUE, elapsed_s=elapsed_s, deadline_s=allowed_s)


# -- the whole, in order ---------------------------------------------------------------------------------------


def test_what_is_as_planned_needs_no_action() -> None:
    """Three serve and one starts, one is parked, one GPU is free and one on its way: all as wanted."""
    members = [replica(f"a-{i}") for i in range(3)]
    members += [replica("a-3", Phase.STARTING), replica("b-0", Phase.PARKED)]
    wanted = plan(a=4, b=0, parked={"b": 1}, spare=2, placement={"n": (snapshot("a"),)})

    assert assigned(wanted, *members, nodes=(node(free=1, coming=1, near="a"),)) == []


def test_stops_come_first_then_starts_then_idle_gpus_then_warm_then_snapshots() -> None:
    """a goes from 6 to 4, one of them to be parked; b from 1 to 3 with 4 of the 5 free GPUs.

    Three GPUs are wanted spare, so 2 of 9 lent are taken back. The snapshot of a makes way before b's is fetched.
    """
    members = [replica(f"a-{i}") for i in range(6)] + [replica("b-0")]
    wanted = plan(a=4, b=3, parked={"a": 1}, spare=3, placement={"n": (snapshot("b"),)})

    actions = assigned(wanted, *members, nodes=(node(free=5, lent=9, near="a", gpus=22),), running={"a-4": 2.0})

    assert actions == [
        stop("a-0"),
        start("b-1", "n", COLD),
        start("b-2", "n", COLD),
        set_lent("n", 7, spare=3),
        demote("a-4"),
        evict("a", "n"),
        stage("b", "n"),
    ]


def test_replicas_on_their_way_are_not_asked_for_again() -> None:
    """Two serve, one starts and two wait for GPUs: one is missing of six."""
    members = [replica("a-0"), replica("a-1"), replica("a-2", Phase.STARTING)]
    members += [replica(f"a-{i}", Phase.PENDING, waits_for="lent") for i in (3, 4)]

    assert assigned(plan(a=6), *members, nodes=(node(lent=1, near="a"),)) == [
        start("a-5", "n", waits_for="lent"),
        set_lent("n", 0),
    ]


def test_new_replicas_take_the_lowest_free_ordinals_and_the_same_view_gives_the_same_names() -> None:
    """a-0 and a-3 are taken: the next are a-1, a-2 and a-4, in this pass and in one that repeats it."""
    members = (replica("a-0"), replica("a-3"), replica("b-0", Phase.PARKED))
    wanted, nodes = plan(a=5, b=0, parked={"b": 1}), (node(free=3, near="a"),)

    actions = assigned(wanted, *members, nodes=nodes)

    assert actions == [start("a-1", "n"), start("a-2", "n"), start("a-4", "n")]
    assert assigned(wanted, *members, nodes=nodes) == actions


# -- which node ------------------------------------------------------------------------------------------------


def test_a_start_goes_where_its_snapshot_lies_and_comes_from_there() -> None:
    """A tighter node without the snapshot is passed over; where it lies nowhere the start is cold."""
    nodes = (node("far", free=1), node("near", free=4, near="a"))

    assert assigned(plan(a=1, b=1, spare=2), nodes=nodes) == [
        start("a-0", "near"),
        start("b-0", "near", COLD),
    ]


def test_among_equally_near_nodes_the_tightest_fit_comes_first_then_the_name() -> None:
    nodes = (node("n3", free=3), node("n2", free=2), node("n1", free=2))

    assert assigned(plan(b=3, spare=1), nodes=nodes) == [
        start("b-0", "n1", COLD),
        start("b-1", "n2", COLD),
        start("b-2", "n3", COLD),
    ]


def test_a_replica_of_four_gpus_needs_four_on_one_node() -> None:
    """Three and three free are six GPUs and no place; four free are one."""
    crumbs = (node("n1", free=3), node("n2", free=3))

    assert assigned(plan(big=1, spare=6), nodes=crumbs) == []
    assert assigned(plan(big=2, spare=6), nodes=(*crumbs, node("n3", free=4))) == [start("big-0", "n3", COLD)]


def test_a_target_that_does_not_fit_blocks_none_behind_it() -> None:
    """The first by name needs eight GPUs on one node, b two, and a single one: only that one starts."""
    first = target("Z", gpus=8)
    nodes = (node("n1", free=1), node("n2", free=1, lent=0))
    wanted = plan(Z=1, a=1, b=1, spare=1)

    assert assigned(wanted, nodes=nodes, targets=(first, B, A)) == [start("a-0", "n1", COLD)]


def test_gpus_on_their_way_are_claimed_before_lent_ones_and_lent_ones_before_a_new_node() -> None:
    """One of a each: the node where one comes, the node where one is lent, and the one to be bought."""
    nodes = (node("coming", coming=1), node("lent", lent=1), node("new", absent=True))

    actions = assigned(plan(a=4), nodes=nodes, targets=(A,), supply=LENDS_AND_BUYS)

    assert [(x.kind, x.replica, x.node, x.waits_for) for x in actions] == [
        (ActionKind.START, "a-0", "coming", ON_THE_WAY),
        (ActionKind.START, "a-1", "lent", "lent"),
        (ActionKind.START, "a-2", "new", "node"),
        (ActionKind.START, "a-3", "new", ON_THE_WAY),
        (ActionKind.SET_LENT, "", "lent", ""),
        (ActionKind.ADD_NODE, "", "new", ""),
    ]
    assert {x.deadline_s for x in actions[:4]} == {NOW_S + 3.0 * 120.0 + 3.0 * 60.0}


def test_what_is_missing_on_a_node_beside_its_free_gpus_is_taken_back() -> None:
    """big needs 4: 2 free, 1 on its way and 1 of the 5 lent of one node, not the 3 lent of the other."""
    nodes = (node("n1", free=2, coming=1, lent=5), node("n2", lent=3))

    assert assigned(plan(big=1), nodes=nodes, targets=(BIG,)) == [
        start("big-0", "n1", COLD, waits_for="lent"),
        set_lent("n1", 4),
    ]


def test_when_nothing_is_left_to_take_a_shortage_stays_without_action() -> None:
    assert assigned(plan(a=3), replica("a-0"), nodes=(node(),)) == []


# -- which replica ---------------------------------------------------------------------------------------------


def test_a_surplus_goes_pending_first_then_the_youngest_start_then_the_least_loaded_then_unknown_load() -> None:
    members = [
        replica("a-0"),
        replica("a-1"),
        replica("a-2"),
        replica("a-3", Phase.STARTING, since_s=NOW_S - 9.0),
        replica("a-4", Phase.STARTING, since_s=NOW_S - 3.0),
        replica("a-5", Phase.PENDING, waits_for="lent"),
    ]
    order = [stop("a-5", 1), stop("a-4", 1), stop("a-3", 1), stop("a-1"), stop("a-0"), stop("a-2")]

    for kept in range(6):
        actions = assigned(plan(a=kept), *members, nodes=(node(),), running={"a-0": 7.0, "a-1": 2.0})
        assert actions == order[: 6 - kept]


def test_of_equally_loaded_replicas_the_youngest_goes_then_by_name() -> None:
    members = [replica("a-0", since_s=NOW_S - 9.0), replica("a-1", since_s=NOW_S - 9.0), replica("a-2")]
    idle = dict.fromkeys(("a-0", "a-1", "a-2"), 0.0)

    assert assigned(plan(a=1), *members, nodes=(node(),), running=idle) == [stop("a-2"), stop("a-0")]


def test_draining_replicas_serve_again_before_anything_starts_and_keep_their_gpus() -> None:
    """Three wanted, two drain: of 4 free GPUs one start takes 1; with 3 wanted spare nothing is lent."""
    members = (replica("a-0", Phase.DRAINING, goal=""), replica("a-1", Phase.DRAINING, goal=""))
    nodes = (node(free=4, near="a"),)

    assert assigned(plan(a=3, spare=3), *members, nodes=nodes) == [retain("a-0"), retain("a-1"), start("a-2", "n")]
    assert assigned(plan(a=3), *members, nodes=nodes) == [
        retain("a-0"),
        retain("a-1"),
        start("a-2", "n"),
        set_lent("n", 3),
    ]


def test_a_drain_that_parks_is_retained_last_and_is_then_missing_among_the_parked() -> None:
    members = (replica("a-0", Phase.DRAINING, goal=PARKED), replica("a-1", Phase.DRAINING, goal=""))
    nodes = (node(free=1, near="a"),)

    assert assigned(plan(a=1, parked={"a": 1}, spare=1), *members, nodes=nodes) == [retain("a-1")]
    assert assigned(plan(a=2, parked={"a": 1}), *members, nodes=nodes) == [
        retain("a-1"),
        retain("a-0"),
        start("a-2", "n", goal=PARKED, why=warm(1, 0)),
    ]


# -- waiting replicas ------------------------------------------------------------------------------------------


def test_a_replica_that_waits_moves_to_gpus_that_are_free_now() -> None:
    """What it waited for comes to its old node all the same: wanted spare, so nothing more is taken back."""
    waiting = replica("a-0", Phase.PENDING, "n1", waits_for="lent")
    nodes = (node("n1", lent=4), node("n2", free=1, near="a"))

    assert assigned(plan(a=1, spare=1), waiting, nodes=nodes) == [stop("a-0", 1), start("a-1", "n2")]


def test_one_that_is_about_to_start_on_free_gpus_stays() -> None:
    """A fresh start is pending for a moment although its GPUs are free: it waits for no supply."""
    fresh = replica("a-0", Phase.PENDING, "n1")

    assert assigned(plan(a=1, spare=1), fresh, nodes=(node("n1"), node("n2", free=1))) == []


def test_survivors_of_a_surplus_move_too() -> None:
    waiting = [replica(f"a-{i}", Phase.PENDING, "n1", waits_for="lent") for i in (0, 1)]
    nodes = (node("n1"), node("n2", free=1, near="a"))

    assert assigned(plan(a=1, spare=2), *waiting, nodes=nodes) == [
        stop("a-0", 1),
        stop("a-1", 1),
        start("a-2", "n2"),
    ]


def test_what_one_target_gives_up_is_there_for_another_whatever_their_names() -> None:
    """b cancels a start of two GPUs; a, which comes first by name, takes one of them, and the other is wanted spare."""
    cancelled = replica("b-0", Phase.STARTING)

    assert assigned(plan(a=1, b=0, spare=1), cancelled, nodes=(node(lent=4),)) == [
        stop("b-0", 2),
        start("a-0", "n", COLD, waits_for=ON_THE_WAY),
    ]


# -- overdue starts --------------------------------------------------------------------------------------------


def test_a_start_that_hangs_is_cancelled_and_replaced() -> None:
    """From staged: 3 x (1 + 60) = 183 s. One second later it is no capacity, and its GPU comes back."""
    due = replica("a-0", Phase.STARTING, since_s=NOW_S - 183.0)
    hung = replica("a-0", Phase.STARTING, since_s=NOW_S - 184.0)
    nodes = (node(free=1, near="a"),)

    assert assigned(plan(a=1, spare=1), due, nodes=nodes) == []
    assert assigned(plan(a=1, spare=1), hung, nodes=nodes) == [
        stop("a-0", 1, overdue(184.0, 183.0)),
        start("a-1", "n"),
    ]


def test_a_replica_that_waits_for_gpus_longer_than_the_supply_allows_is_replaced() -> None:
    """The supply of lent GPUs takes 8 s, three of which are allowed; what it waited for comes for its successor."""
    hung = replica("a-0", Phase.PENDING, since_s=NOW_S - 25.0, waits_for="lent")

    assert assigned(plan(a=1), hung, nodes=(node(near="a"),)) == [
        stop("a-0", 1, overdue(25.0, 24.0)),
        start("a-1", "n", waits_for=ON_THE_WAY),
    ]


def test_gpus_that_were_waited_for_in_vain_are_the_last_that_the_next_start_waits_for() -> None:
    """They may never come: a start that waited for them again would wait for ever while lent GPUs stand elsewhere."""
    hung = replica("a-0", Phase.PENDING, "n1", since_s=NOW_S - 25.0, waits_for="lent")

    assert assigned(plan(a=1), hung, nodes=(node("n1", near="a"), node("n2", lent=2))) == [
        stop("a-0", 1, overdue(25.0, 24.0)),
        start("a-1", "n2", COLD, waits_for="lent"),
        set_lent("n2", 1),
    ]


def test_a_parking_start_that_hangs_counts_as_no_parked_replica() -> None:
    hung = replica("a-0", Phase.STARTING, since_s=NOW_S - 999.0, goal=PARKED)

    assert assigned(plan(a=0, parked={"a": 1}), hung, nodes=(node(free=1, near="a"),)) == [
        stop("a-0", 1, overdue(999.0, 183.0), goal=PARKED),
        start("a-1", "n", goal=PARKED, why=warm(1, 0)),
    ]


# -- warm replicas ---------------------------------------------------------------------------------------------


def test_a_parked_replica_is_promoted_where_its_node_has_gpus() -> None:
    """n1 has no GPU for a-0; a-1 wakes on n2, and the parked ones left are as wanted."""
    members = (replica("a-0", Phase.PARKED, "n1"), replica("a-1", Phase.PARKED, "n2"))

    actions = assigned(plan(a=1, parked={"a": 1}), *members, nodes=(node("n1"), node("n2", free=1)))

    assert actions == [promote("a-1", "n2")]


def test_a_surplus_is_demoted_instead_of_stopped_where_parked_replicas_are_missing() -> None:
    """Surplus of two active, two parked wanted: two demotions and no start. A third, the busiest, is stopped."""
    members = [replica(f"a-{i}") for i in range(3)]
    running = {"a-0": 1.0, "a-1": 2.0, "a-2": 3.0}

    assert assigned(plan(a=1, parked={"a": 2}), *members, nodes=(node(),), running=running) == [
        demote("a-0"),
        demote("a-1"),
    ]
    assert assigned(plan(a=0, parked={"a": 2}), *members, nodes=(node(),), running=running) == [
        stop("a-2"),
        demote("a-0"),
        demote("a-1"),
    ]


def test_only_serving_replicas_are_demoted() -> None:
    """A start that is not wanted any more is cancelled: there is nothing to park yet."""
    members = (replica("a-0"), replica("a-1", Phase.STARTING))

    assert assigned(plan(a=1, parked={"a": 1}, spare=1), *members, nodes=(node(),)) == [stop("a-1", 1)]


def test_warm_replicas_take_what_every_target_leaves_free_and_take_nothing_back() -> None:
    """One free GPU for two wanted parked: one parks. Where b needs two to serve, it gets that one, and none parks."""
    nodes = (node(free=1, lent=5, near="a"),)

    assert assigned(plan(a=0, parked={"a": 2}), nodes=nodes) == [start("a-0", "n", goal=PARKED, why=warm(2, 0))]
    assert assigned(plan(a=0, b=1, parked={"a": 1}), nodes=nodes) == [
        start("b-0", "n", COLD, waits_for="lent"),
        set_lent("n", 4),
    ]


def test_too_many_parked_are_released() -> None:
    members = [replica("a-0"), *(replica(f"a-{i}", Phase.PARKED) for i in (1, 2, 3))]

    assert assigned(plan(a=1, parked={"a": 1}), *members, nodes=(node(),)) == [
        stop("a-1", why=warm(1, 3), goal=PARKED),
        stop("a-2", why=warm(1, 3), goal=PARKED),
    ]


# -- idle GPUs -------------------------------------------------------------------------------------------------


def test_what_is_short_of_spares_is_taken_back_from_the_node_with_most_at_hand() -> None:
    """Free 1 and 4 on their way of 7 wanted: 2 of 9 lent; SET_LENT names what is left, not the difference."""
    nodes = (node("n1", free=1, coming=4, lent=9, gpus=14), node("n2", lent=8))

    assert assigned(plan(spare=7), nodes=nodes) == [set_lent("n1", 7, spare=7)]
    assert assigned(plan(spare=5), nodes=nodes) == []


def test_gpus_on_their_way_cannot_be_lent_and_do_not_let_free_ones_be_lent() -> None:
    """Of free 1 and 4 on their way 1 is wanted: the free one stays until another is there."""
    nodes = (node(free=1, coming=4, lent=3),)

    assert assigned(plan(spare=1), nodes=nodes) == []
    assert assigned(plan(spare=0), nodes=nodes) == [set_lent("n", 4)]


def test_surplus_gpus_are_lent_from_the_nodes_with_the_fewest_so_that_groups_stay_whole() -> None:
    nodes = (node("n1", free=4, lent=4), node("n2", free=2, lent=6), node("n3", free=1, lent=7))

    assert assigned(plan(spare=4), nodes=nodes) == [set_lent("n2", 8, spare=4), set_lent("n3", 8, spare=4)]


def test_starts_leave_no_more_to_take_back_than_there_is() -> None:
    """b needs 6 GPUs, 2 are free: the other 4 of 5 lent are taken back for it, and the last for 4 wanted spare."""
    nodes = (node(free=2, lent=5, gpus=7),)

    assert assigned(plan(b=3, spare=4), nodes=nodes) == [
        start("b-0", "n", COLD),
        start("b-1", "n", COLD, waits_for="lent"),
        start("b-2", "n", COLD, waits_for="lent"),
        set_lent("n", 0, spare=4),
    ]


def test_nodes_are_bought_whole_until_the_spares_are_covered() -> None:
    """Two are free: two wanted need no node, ten need one of eight more, eleven a second one."""
    nodes = (node("n1", free=2), node("n2", absent=True), node("n3", absent=True))

    assert assigned(plan(spare=2), nodes=nodes, supply=BUYS) == []
    assert assigned(plan(spare=10), nodes=nodes, supply=BUYS) == [add("n2", spare=10)]
    assert assigned(plan(spare=11), nodes=nodes, supply=BUYS) == [add("n2", spare=11), add("n3", spare=11)]


def test_an_idle_node_is_given_back_and_one_with_warm_replicas_is_not() -> None:
    """Both are idle; n2 comes last by name, but a parked replica lives there."""
    nodes = (node("n1", free=8), node("n2", free=8))

    assert assigned(plan(spare=8), nodes=nodes, supply=BUYS) == [remove("n2", spare=8)]
    parked = replica("a-0", Phase.PARKED, "n2")
    assert assigned(plan(a=0, parked={"a": 1}, spare=8), parked, nodes=nodes, supply=BUYS) == [remove("n1", spare=8)]
    assert assigned(plan(a=0, spare=8), parked, nodes=nodes, supply=BUYS) == [
        remove("n2", spare=8),
        stop("a-0", why=warm(0, 1), goal=PARKED),
    ]


def test_no_node_is_given_back_on_the_promise_of_one_that_boots() -> None:
    """Eight wanted: the eight free stay while a second node boots; once it has come one of them may go."""
    booting = (node("n1", free=8), node("n2", coming=8))

    assert assigned(plan(spare=8), nodes=booting, supply=BUYS) == []
    assert assigned(plan(spare=8), nodes=(node("n1", free=8), node("n2", free=8)), supply=BUYS) == [
        remove("n2", spare=8)
    ]


def test_a_pool_that_lends_and_buys_keeps_the_lent_gpus_that_the_plan_wants() -> None:
    """Free 2 and lent 6 on one node, lent 8 on the other. With 2 spare and 8 lent wanted both stay, with 2 lent one."""
    nodes = (node("n1", free=2, lent=6), node("n2", lent=8))

    assert assigned(plan(spare=2, lent=8), nodes=nodes, supply=LENDS_AND_BUYS) == []
    assert assigned(plan(spare=2, lent=2), nodes=nodes, supply=LENDS_AND_BUYS) == [remove("n2", spare=2)]


def test_spares_lost_with_a_node_that_leaves_are_filled_up_in_the_same_pass() -> None:
    """n1 leaves first, for n2 has a snapshot: its 2 free GPUs are taken back from n2's eight lent ones."""
    nodes = (node("n1", free=2, lent=6), node("n2", lent=8, near="a"))

    assert assigned(plan(spare=2), nodes=nodes, supply=LENDS_AND_BUYS) == [
        remove("n1", spare=2),
        set_lent("n2", 6, spare=2),
    ]


def test_a_bought_node_brings_gpus_for_those_behind_and_no_free_gpu_is_lent_for_them() -> None:
    """Two spares wanted with one free: a whole node of eight is bought, the free GPU stays free."""
    nodes = (node("n1", free=1), node("n2", absent=True))

    assert assigned(plan(spare=2), nodes=nodes, supply=LENDS_AND_BUYS) == [add("n2", spare=2)]


# -- snapshots -------------------------------------------------------------------------------------------------


def test_a_node_without_a_placement_keeps_its_snapshots() -> None:
    """Silence about m leaves it alone; an empty list clears n; a fetch under way is not begun twice."""
    nodes = (node("n", near="a"), node("m", near="a b"), node("o", fetching="b"))
    wanted = plan(placement={"n": (), "o": (snapshot("b"), snapshot("a"))})

    assert assigned(wanted, nodes=nodes) == [evict("a", "n"), stage("a", "o")]


def test_an_outdated_snapshot_makes_way_and_a_stopped_fetch_is_evicted() -> None:
    old = SnapshotKey(key("a"), "sha256:0")
    there = NodeObservation("n", 8, 0, 0, 0, frozenset({old}), frozenset({snapshot("b")}), 0)

    actions = assigned(plan(placement={"n": (snapshot("a"),)}), nodes=(there,))

    gone = Action(ActionKind.EVICT, because(ReasonCode.SNAPSHOT_UNPLACED), key("a"), node="n", snapshot=old)
    assert actions == [gone, evict("b", "n"), stage("a", "n")]


def test_snapshots_are_staged_on_nodes_that_come_and_not_on_those_that_leave() -> None:
    nodes = (node("n1", absent=True), node("n2", absent=True))
    everywhere = {name: (snapshot("a"),) for name in ("n1", "n2")}

    assert assigned(plan(spare=1, placement=everywhere), nodes=nodes, supply=BUYS) == [
        add("n1", spare=1),
        stage("a", "n1"),
    ]
    leaving = (node("n1", free=8, near="b"), node("n2", absent=True))
    assert assigned(plan(placement=everywhere), nodes=leaving, supply=BUYS) == [remove("n1")]
