"""A plan that breaks its contract is held where it does so, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from policies.contract import ROUNDING, Violation, checked, gpus_of
from policies.keys import SnapshotKey, TargetKey
from policies.reasons import ReasonCode, because, for_count
from policies.types import ACTIVE, FREE, PARKED, STANDBY, DecisionInput, Plan, TargetPlan
from tests.policies.drawn import World, plans, worlds
from tests.policies.timelines import codes
from tests.policies.worlds import given, key, nodes, seen, snapshot, steady, target

A, B = key("a"), key("b")
SPECS = (target("a", least=1, most=20), target("b", gpus=2, least=1, most=20))
FINE_B = TargetPlan(3, {}, (for_count(3, 3),))


def pool(budget: int = 100, known: bool = True) -> DecisionInput:
    """a has 4 replicas and 2 parked, b has 3 of two GPUs: 10.1 GPUs; caches of 1000 bytes beside two of 10."""
    observed = (seen(4, known=known, parked=2), seen(3))
    return given(SPECS, observed, steady((4.0, 3.0)), budget=budget, pool=nodes(SPECS, 2))


def planned(active: int, warm: Mapping[str, int] | None = None) -> TargetPlan:
    return TargetPlan(active, warm or {}, (for_count(4, active),))


def held(violation: str) -> TargetPlan:
    why = because(ReasonCode.PLAN_REJECTED, planned=4, violation=violation)
    return TargetPlan(4, {PARKED: 2}, (for_count(4, 4), why))


def test_a_plan_that_keeps_its_contract_passes_as_it_is() -> None:
    plan = Plan({A: planned(6, {PARKED: 2}), B: FINE_B}, {FREE: 5}, {"node-0": (snapshot("a"), snapshot("b"))})

    assert checked(plan, pool()) == (plan, ())


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (planned(21), "21 active replicas, allowed are 0 to 20"),
        (planned(-1), "-1 active replicas, allowed are 0 to 20"),
        (planned(4, {PARKED: -5}), "-5 warm replicas, 0 is the least"),
        (planned(4, {STANDBY: 1}), "warm replicas in tier standby, which its ladder lacks"),
        (TargetPlan(4, {}, ()), "the plan gives no reason"),
        (None, "the plan has no entry for it"),
    ],
    ids=["above the maximum", "negative", "negative warm", "unknown tier", "no reason", "missing"],
)
def test_a_target_whose_plan_is_wrong_is_held_and_the_others_are_not(wrong: TargetPlan | None, text: str) -> None:
    targets = {B: FINE_B} if wrong is None else {A: wrong, B: FINE_B}

    plan, violations = checked(Plan(targets, {FREE: 5}), pool())

    assert violations == (Violation(text, A),)
    assert plan == Plan({A: held(text), B: FINE_B}, {FREE: 5})


def test_a_shrink_while_demand_is_unknown_is_refused_and_growth_is_not() -> None:
    """Unknown is not zero: of 4 replicas none may go before metrics are back."""
    text = "3 active replicas with demand unknown, 4 are there"

    plan, violations = checked(Plan({A: planned(3), B: FINE_B}), pool(known=False))

    assert violations == (Violation(text, A),)
    assert plan == Plan({A: held(text), B: FINE_B})
    assert checked(Plan({A: planned(5), B: FINE_B}), pool(known=False))[1] == ()
    assert checked(Plan({A: planned(3), B: FINE_B}), pool())[1] == ()


def test_a_target_held_above_its_maximum_is_held_at_its_maximum() -> None:
    """Four serve, two are allowed by now: a broken plan is no way round the bound."""
    spec = replace(SPECS[0], max_replicas=2)

    plan, violations = checked(Plan({}), replace(pool(), targets=(spec,)))

    assert [v.target for v in violations] == [A]
    assert plan.targets[A].active == 2
    assert plan.targets[A].reasons[0] == for_count(4, 2)


def test_an_unknown_target_is_dropped_and_named() -> None:
    stray = TargetKey("elsewhere", "x")

    plan, violations = checked(Plan({A: planned(4), B: FINE_B, stray: planned(9)}), pool())

    assert violations == (Violation("elsewhere/x is no target of pool pool"),)
    assert plan == Plan({A: planned(4), B: FINE_B})


@pytest.mark.parametrize(
    ("name", "snapshots", "text"),
    [
        ("node-7", (snapshot("a"),), "no such node"),
        ("node-1", (snapshot("x"),), "default/x@sha256:1 is no snapshot of this pool's targets"),
        ("node-1", (SnapshotKey(A, "old"),), "default/a@old is no snapshot of this pool's targets"),
    ],
)
def test_a_wrong_placement_leaves_its_node_alone_and_the_others_stand(
    name: str, snapshots: tuple[SnapshotKey, ...], text: str
) -> None:
    placement = {"node-0": (snapshot("b"),), name: snapshots}

    plan, violations = checked(Plan({A: planned(4), B: FINE_B}, placement=placement), pool())

    assert violations == (Violation(text, node=name),)
    assert plan.placement == {"node-0": (snapshot("b"),)}


def test_snapshots_larger_than_a_cache_leave_the_node_alone() -> None:
    """10 of a lie there beside 1000 free bytes: a and a snapshot b of 1000 fit exactly, one byte more does not."""

    def violations(b_bytes: int) -> tuple[Violation, ...]:
        told = pool()
        first, second = told.nodes
        told = replace(
            told,
            targets=(SPECS[0], replace(SPECS[1], artifact_bytes=b_bytes)),
            nodes=(first, replace(second, snapshots=frozenset({snapshot("a")}))),
        )
        both = {"node-1": (snapshot("a"), snapshot("b"))}
        return checked(Plan({A: planned(4), B: FINE_B}, placement=both), told)[1]

    assert violations(1000) == ()
    assert violations(1001) == (Violation("1,011 bytes of snapshots in a cache of 1,010", node="node-1"),)


def test_negative_supply_is_dropped_and_named() -> None:
    plan, violations = checked(Plan({A: planned(4), B: FINE_B}, {FREE: 3, "lent": -2}), pool())

    assert violations == (Violation("supply of -2 GPUs planned, 0 is the least"),)
    assert plan.supply == {FREE: 3}


# -- budget ----------------------------------------------------------------------------------------------------


def test_over_the_budget_growth_is_granted_by_key_as_far_as_it_fits_and_says_so() -> None:
    """10.1 GPUs run, 9 + 10 x 2 + 0.1 + 5 are planned of 16: none is spare, a grows by 5, b by none of its pairs."""
    plan, violations = checked(Plan({B: planned(10), A: planned(9, {PARKED: 2})}, {FREE: 5}), pool(budget=16))

    assert violations == (Violation("34.1 GPUs planned, the budget is 16"),)
    assert (plan.targets[A].active, plan.targets[B].active, dict(plan.supply)) == (9, 3, {})
    cut = because(ReasonCode.GPU_BUDGET, wanted=10, planned=3, gpu_budget=16)
    assert plan.targets[B].reasons == (for_count(3, 3), cut)
    assert plan.targets[A] == planned(9, {PARKED: 2})


def test_growth_is_granted_by_key_whatever_the_order_of_the_input() -> None:
    told = pool(budget=16)
    wanted = Plan({A: planned(9, {PARKED: 2}), B: planned(10)})

    assert checked(wanted, replace(told, targets=told.targets[::-1])) == checked(wanted, told)


def test_more_parked_replicas_than_the_budget_holds_are_not_parked() -> None:
    """900 parked are 45 GPUs of 16: the two that are there stay, and the plan says that the budget cut it."""
    plan, violations = checked(Plan({A: planned(4, {PARKED: 900}), B: FINE_B}), pool(budget=16))

    assert [v.target for v in violations] == [None]
    assert (plan.targets[A].active, dict(plan.targets[A].warm)) == (4, {PARKED: 2})
    assert codes(plan.targets[A]) == ("Unchanged", "GpuBudget")
    assert plan.targets[B] == FINE_B


def test_a_budget_lowered_below_what_runs_is_no_fault_of_the_plan_and_takes_nothing() -> None:
    plan = Plan({A: planned(4, {PARKED: 2}), B: FINE_B})

    assert checked(plan, pool(budget=5)) == (plan, ())
    none_idle = replace(plan, supply={FREE: 0})
    assert checked(none_idle, pool(budget=5)) == (none_idle, ())


def test_a_cut_renews_what_is_said_to_be_held() -> None:
    """Demand is unknown and the minimum asks for 8: the budget leaves 5, and no sentence speaks of 8 held."""
    unknown = because(ReasonCode.METRICS_UNKNOWN, planned=8)
    wanted = TargetPlan(8, {}, (for_count(4, 8), unknown))

    plan, _ = checked(Plan({A: wanted, B: FINE_B}), pool(budget=11, known=False))

    cut = because(ReasonCode.GPU_BUDGET, wanted=8, planned=5, gpu_budget=11)
    assert plan.targets[A].reasons == (for_count(4, 5), because(ReasonCode.METRICS_UNKNOWN, planned=5), cut)


# -- whatever the plan -----------------------------------------------------------------------------------------


@st.composite
def worlds_and_wild_plans(draw: st.DrawFn) -> tuple[World, Plan]:
    """Draw a world, and a plan that may be wrong in any way."""
    world = draw(worlds())
    plan = draw(plans(world))
    targets = dict(plan.targets)
    for k in draw(st.sets(st.sampled_from([*targets, TargetKey("elsewhere", "x")]))):
        warm = draw(st.dictionaries(st.sampled_from([PARKED, STANDBY, "bogus"]), st.integers(-2, 60), max_size=2))
        reasons = draw(
            st.sampled_from([(), (for_count(1, 1),), (for_count(1, 1), because(ReasonCode.NO_FORECAST, planned=1))])
        )
        targets[k] = TargetPlan(draw(st.integers(-3, 40)), warm, reasons)
    for k in draw(st.sets(st.sampled_from([*world.given.keys]), max_size=1)):
        targets.pop(k)
    supply = draw(st.dictionaries(st.sampled_from([FREE, "lent", "node"]), st.integers(-3, 30)))
    strange = st.sampled_from([snapshot("a"), snapshot("b"), snapshot("x"), SnapshotKey(A, "old")])
    placement = draw(st.dictionaries(st.sampled_from(["node-0", "node-1", "node-9"]), st.lists(strange).map(tuple)))
    return world, replace(plan, targets=targets, supply=supply, placement=placement)


def running_gpus(world: World) -> float:
    """GPUs of what runs, warm replicas by their share."""
    targets = {}
    for spec in world.given.targets:
        there = world.given.observed[spec.key]
        warm = {tier: n for tier, n in there.ready.items() if tier != ACTIVE}
        targets[spec.key] = TargetPlan(there.current, warm, ())
    return gpus_of(Plan(targets), world.given.targets)


@settings(max_examples=200)
@drawn(worlds_and_wild_plans())
def test_what_was_checked_passes_again_and_keeps_the_budget_unless_what_runs_exceeds_it(
    wild: tuple[World, Plan],
) -> None:
    world, plan = wild

    good, _ = checked(plan, world.given)

    assert checked(good, world.given) == (good, ())
    assert good.targets.keys() == set(world.given.keys)
    assert gpus_of(good, world.given.targets) <= max(world.given.gpu_budget, running_gpus(world)) + ROUNDING
    for k in world.given.keys:
        there = world.given.observed[k]
        assert good.targets[k].active >= (0 if there.demand_known else min(there.current, world.spec(k).max_replicas))


@settings(max_examples=120)
@drawn(worlds_and_wild_plans())
def test_a_target_without_violation_keeps_its_plan_unless_the_pool_is_over_its_budget(
    wild: tuple[World, Plan],
) -> None:
    world, plan = wild

    good, violations = checked(plan, world.given)

    if not any("the budget is" in v.text for v in violations):
        blamed = {v.target for v in violations}
        assert all(good.targets[k] == plan.targets[k] for k in world.given.keys if k not in blamed)
        misplaced = {v.node for v in violations}
        assert good.placement == {n: s for n, s in plan.placement.items() if n not in misplaced}
