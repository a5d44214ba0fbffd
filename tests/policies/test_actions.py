"""Plan minus observed: whole lists of actions compared, and a small cluster that obeys them at once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given as drawn
from hypothesis import strategies as st

from policies.actions import plan_actions
from policies.reasons import Reason
from policies.types import ACTIVE, PARKED, Action, DecisionInput, NodeObservation, Plan, TargetObservation, TargetPlan
from tests.policies.timelines import moment
from tests.policies.worlds import target

SPECS = (target("a", gpus=1), target("b", gpus=2))
WHY = Reason("test", "because the test says so")
EMPTY = moment(0.0, 0).observed[0]


def replicas(active: int = 0, starting: int = 0, draining: int = 0, parked: int = 0) -> TargetObservation:
    ready = {ACTIVE: active, PARKED: parked}
    return replace(EMPTY, ready=ready, starting=starting, draining=draining)


def node(
    name: str = "n", free: int = 0, lent: int = 0, reclaiming: int = 0, cached: str = "", coming: str = ""
) -> NodeObservation:
    """A node; `cached` and `coming` name its targets by one letter each."""
    return NodeObservation(name, 64, free, lent, reclaiming, frozenset(cached), frozenset(coming), 1000)


def world(a: TargetObservation, b: TargetObservation, *nodes: NodeObservation) -> DecisionInput:
    return replace(moment(0.0, 0), targets=SPECS, observed=(a, b), nodes=nodes)


def plan(a: int, b: int, spare: int = 0, parked: tuple[int, int] = (0, 0), **placement: tuple[str, ...]) -> Plan:
    targets = tuple(TargetPlan(n, {PARKED: p} if p else {}, (WHY,)) for n, p in zip((a, b), parked, strict=True))
    return Plan(targets, spare, placement)


def steps(actions: tuple[Action, ...]) -> list[tuple[str, str, int, str]]:
    return [(a.verb, a.target, a.count, a.node) for a in actions]


def test_what_is_as_planned_needs_no_step() -> None:
    seen = world(replicas(3, starting=1), replicas(2, parked=1), node(free=1, reclaiming=1, cached="a"))

    assert plan_actions(plan(4, 2, spare=2, parked=(0, 1), n=("a",)), seen) == ()


def test_stops_free_gpus_first_then_starts_then_the_pool_then_snapshots() -> None:
    """b starts 2 of 2 GPUs on the 5 free; 1 stays, 3 are wanted spare: reclaim 2. Room before the fetch."""
    seen = world(replicas(6), replicas(1), node(free=5, lent=9, cached="a"))

    actions = plan_actions(plan(4, 3, spare=3, parked=(1, 0), n=("b",)), seen)

    assert steps(actions) == [
        ("stop", "a", 2, ""),
        ("start", "b", 2, ""),
        ("reclaim", "", 2, ""),
        ("park", "a", 1, ""),
        ("evict", "a", 0, "n"),
        ("stage", "b", 0, "n"),
    ]
    assert actions[0].reason == actions[1].reason == WHY


def test_replicas_on_their_way_are_not_asked_for_again() -> None:
    seen = world(replicas(2, starting=3), replicas(), node())

    assert steps(plan_actions(plan(6, 0), seen)) == [("start", "a", 1, "")]


def test_a_drain_that_can_be_cancelled_takes_no_spare_gpu() -> None:
    """Three wanted, two of them drain still and keep their GPUs: of 4 free only 1 is taken, 3 stay over."""
    seen = world(replicas(0, draining=2), replicas(), node(free=4))

    assert steps(plan_actions(plan(3, 0, spare=3), seen)) == [("start", "a", 3, "")]
    assert steps(plan_actions(plan(3, 0), seen)) == [("start", "a", 3, ""), ("lend", "", 3, "")]


def test_gpus_on_their_way_back_count_as_spare_but_cannot_be_lent_yet() -> None:
    seen = world(replicas(), replicas(), node(free=1, reclaiming=4, lent=9))

    assert steps(plan_actions(plan(0, 0, spare=7), seen)) == [("reclaim", "", 2, "")]
    assert steps(plan_actions(plan(0, 0, spare=5), seen)) == []
    assert steps(plan_actions(plan(0, 0, spare=0), seen)) == [("lend", "", 1, "")]


def test_no_more_is_reclaimed_than_starts_leave_lent() -> None:
    """b needs 6 GPUs, 2 are free: the starts take 4 of the 5 lent back themselves; 1 is left for spares."""
    seen = world(replicas(), replicas(), node(free=2, lent=5))

    assert steps(plan_actions(plan(0, 3, spare=4), seen)) == [("start", "b", 3, ""), ("reclaim", "", 1, "")]
    assert steps(plan_actions(plan(0, 4, spare=4), seen)) == [("start", "b", 4, "")]


def test_a_node_without_a_placement_keeps_what_lies_there() -> None:
    """Silence about m leaves it alone; an empty list clears n; a fetch under way is not begun twice."""
    seen = world(replicas(), replicas(), node("n", cached="a"), node("m", cached="ab"), node("o", coming="b"))

    actions = plan_actions(plan(0, 0, n=(), o=("b", "a")), seen)

    assert steps(actions) == [("evict", "a", 0, "n"), ("stage", "a", 0, "o")]


def test_too_many_parked_are_released() -> None:
    seen = world(replicas(1, parked=3), replicas(), node())

    assert steps(plan_actions(plan(1, 0, parked=(1, 0)), seen)) == [("unpark_release", "a", 2, "")]


@dataclass
class IdealCluster:
    """Obeys at once and refuses the impossible; what takes time (boots, drains, fetches) stays under way.

    It speaks of GPUs as a scheduler does: those that a waiting replica has claimed are not free, and
    those that come back for one are not on their way to the spares.
    """

    seen: DecisionInput
    owed: dict[str, int] = field(default_factory=dict)
    """GPUs that the replicas of a target begun here still wait for."""

    def apply(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            getattr(self, f"_{action.verb}")(action)

    def _target(self, action: Action) -> tuple[int, TargetObservation, int]:
        i = [t.name for t in SPECS].index(action.target)
        return i, self.seen.observed[i], SPECS[i].gpus_per_replica

    def _put(self, i: int, seen: TargetObservation) -> None:
        observed = self.seen.observed
        self.seen = replace(self.seen, observed=(*observed[:i], seen, *observed[i + 1 :]))

    def _change(self, i: int, active: int = 0, starting: int = 0, draining: int = 0, parked: int = 0) -> None:
        seen = self.seen.observed[i]
        ready = {ACTIVE: seen.active + active, PARKED: seen.ready.get(PARKED, 0) + parked}
        changed = replicas(ready[ACTIVE], seen.starting + starting, seen.draining + draining, parked=ready[PARKED])
        assert min(*ready.values(), changed.starting, changed.draining) >= 0
        self._put(i, changed)

    def _take(self, counter: str, wanted: int) -> int:
        """Take up to `wanted` GPUs that are free or lent, node by node; returns how many there were."""
        nodes, taken = [], 0
        for n in self.seen.nodes:
            here = min(getattr(n, counter), wanted - taken)
            nodes.append(replace(n, **{counter: getattr(n, counter) - here}))
            taken += here
        self.seen = replace(self.seen, nodes=tuple(nodes))
        return taken

    def _give(self, counter: str, gpus: int) -> None:
        first, *others = self.seen.nodes
        given = replace(first, **{counter: getattr(first, counter) + gpus})
        self.seen = replace(self.seen, nodes=(given, *others))

    def _start(self, action: Action) -> None:
        i, seen, gpus = self._target(action)
        undrained = min(action.count, seen.draining)
        new = action.count - undrained
        self._change(i, active=undrained, starting=new, draining=-undrained)
        need = new * gpus
        need -= self._take("free_gpus", need)
        self._take("lent_gpus", need)

    def _stop(self, action: Action) -> None:
        i, seen, gpus = self._target(action)
        cancelled = min(action.count, seen.starting)
        self._change(i, starting=-cancelled)
        self._give("free_gpus", cancelled * gpus)
        drained = action.count - cancelled
        self._change(i, active=-drained, draining=drained)

    def _reclaim(self, action: Action) -> None:
        assert self._take("lent_gpus", action.count) == action.count
        self._give("reclaiming_gpus", action.count)

    def _lend(self, action: Action) -> None:
        assert self._take("free_gpus", action.count) == action.count
        self._give("lent_gpus", action.count)

    def _park(self, action: Action) -> None:
        self._change(self._target(action)[0], parked=action.count)

    def _unpark_release(self, action: Action) -> None:
        self._change(self._target(action)[0], parked=-action.count)

    def _on(self, action: Action, stage: bool) -> None:
        nodes = []
        for n in self.seen.nodes:
            if n.name == action.node:
                assert (action.target in n.snapshots | n.fetching) != stage
                gone = frozenset({action.target})
                fetching = n.fetching | gone if stage else n.fetching - gone
                n = replace(n, snapshots=n.snapshots - gone, fetching=fetching)
            nodes.append(n)
        self.seen = replace(self.seen, nodes=tuple(nodes))

    def _stage(self, action: Action) -> None:
        self._on(action, stage=True)

    def _evict(self, action: Action) -> None:
        self._on(action, stage=False)


SMALL = st.integers(0, 4)
REPLICAS = st.builds(replicas, active=SMALL, starting=SMALL, draining=SMALL, parked=SMALL)
CACHES = st.sampled_from([("", ""), ("a", ""), ("ab", ""), ("b", "a"), ("", "ab")])


@st.composite
def worlds(draw: st.DrawFn) -> DecisionInput:
    nodes = []
    for name in ("n", "m"):
        cached, coming = draw(CACHES)
        nodes.append(node(name, draw(SMALL), draw(st.integers(0, 12)), draw(SMALL), cached, coming))
    return world(draw(REPLICAS), draw(REPLICAS), *nodes)


PLACEMENTS = st.dictionaries(st.sampled_from(["n", "m"]), st.sampled_from([(), ("a",), ("b",), ("a", "b"), ("b", "a")]))
PLANS = st.builds(
    lambda a, b, spare, parked, placement: plan(a, b, spare, parked, **placement),
    st.integers(0, 12),
    st.integers(0, 12),
    st.integers(0, 12),
    st.tuples(SMALL, SMALL),
    PLACEMENTS,
)


@drawn(worlds(), PLANS)
def test_a_plan_once_applied_leaves_nothing_to_do(seen: DecisionInput, wanted: Plan) -> None:
    """Only cancelled starts leave an afterthought: they give back GPUs that nobody could count before.

    The observation does not say which of the starting replicas hold a GPU already, so the pool is set
    right in the pass after, by no more than those GPUs, and then all is done.
    """
    cluster = IdealCluster(seen)
    first = plan_actions(wanted, seen)
    cancelled_gpus = sum(
        min(a.count, o.starting) * t.gpus_per_replica
        for a in first
        for t, o in zip(SPECS, seen.observed, strict=True)
        if a.verb == "stop" and a.target == t.name
    )

    cluster.apply(first)
    second = plan_actions(wanted, cluster.seen)
    assert {a.verb for a in second} <= {"lend", "reclaim"}
    assert sum(a.count for a in second) <= cancelled_gpus
    cluster.apply(second)

    assert plan_actions(wanted, cluster.seen) == ()


@drawn(worlds(), PLANS)
def test_every_step_is_positive_explained_and_in_order(seen: DecisionInput, wanted: Plan) -> None:
    """GPUs are freed before they are taken, the pool is set right after both, snapshots come last."""
    rank = {
        "stop": 0,
        "start": 1,
        "reclaim": 2,
        "lend": 2,
        "park": 3,
        "unpark_release": 3,
        "evict": 4,
        "stage": 4,
    }

    actions = plan_actions(wanted, seen)

    assert plan_actions(wanted, seen) == actions
    assert all(a.reason.code and a.reason.text for a in actions)
    on_nodes = [a for a in actions if a.verb in ("evict", "stage")]
    assert all(a.node and not a.count for a in on_nodes)
    assert all(a.count > 0 and not a.node for a in actions if a not in on_nodes)
    ranks = [rank[a.verb] for a in actions]
    assert ranks == sorted(ranks)
    for name in ("n", "m"):
        verbs = [a.verb for a in on_nodes if a.node == name]
        assert verbs == sorted(verbs)  # room is made before it is filled: evict, then stage
    for alternatives in (("start", "stop"), ("park", "unpark_release"), ("reclaim", "lend")):
        acted_on = [a.target for a in actions if a.verb in alternatives]
        assert len(acted_on) == len(set(acted_on))
