"""The whole decision: what must always hold, and a few timelines worked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from policies.arrays import FloatArray
from policies.contract import ROUNDING, checked, gpus_of
from policies.decide import ForethawPolicy
from policies.types import PARKED, DecisionInput, Plan, TargetPlan, TargetSpec
from tests.policies.drawn import World, worlds
from tests.policies.timelines import codes
from tests.policies.worlds import STEP_ENDS_S, given, key, nodes, seen, steady, target

POLICY = ForethawPolicy()
A, B = key("a"), key("b")


def plan(*args: object, **kwargs: object) -> Plan:
    told = given(*args, **kwargs)  # type: ignore[arg-type]  # forwarded as they came
    return POLICY.decide(told, POLICY.initial()).plan


def test_steady_demand_is_carried_at_the_sustained_utilisation_and_no_more() -> None:
    """36 replicas' worth at 90% is 40 replicas; demand that never moves needs no spare GPU."""
    told = plan((target(),), (seen(40),), steady((36.0,)))

    assert (told.targets[A].active, told.spare_gpus) == (40, 0)
    assert told.targets[A].reasons[0].code == "Unchanged"


def test_growth_within_reach_of_a_reclaim_is_left_to_it_and_beyond_it_gets_spares() -> None:
    """Demand jumps to 60 within 4 s on a fifth of the paths: sooner than lent GPUs come (11 s)."""
    paths = steady((36.0,), n_paths=100)
    paths[:, :20, 2:] = 60.0

    told = plan((target(),), (seen(40),), paths)

    assert told.targets[A].active + told.spare_gpus >= 60
    assert told.targets[A].active < 60


def test_a_target_without_fresh_metrics_keeps_what_it_has() -> None:
    """Its forecast says zero; its metrics are missing; nothing is taken away, and the plan says so."""
    told = plan((target(),), (seen(40, starting=2, known=False),), steady((0.0,)))

    assert told.targets[A].active == 42
    assert codes(told.targets[A]) == ("Unchanged", "MetricsUnknown")


def test_a_forecast_that_stands_on_nothing_holds_too() -> None:
    told = plan((target(),), (seen(40),), steady((0.0,)), known=())

    assert told.targets[A].active == 40


def test_when_no_demand_is_known_free_gpus_and_those_on_their_way_are_kept() -> None:
    """Two nodes with 3 free GPUs each and 2 on their way to the first: 8 stay spare."""
    first, second = nodes((), 2, free=3, lent=0)
    pool = (replace(first, reclaiming_gpus=2), second)

    told = plan((target(),), (seen(40, known=False),), steady((0.0,)), pool=pool)

    assert (told.targets[A].active, told.spare_gpus) == (40, 8)


def test_no_forecast_at_all_holds_replicas_and_spares() -> None:
    told = replace(given((target(),), (seen(40),), steady((1.0,)), pool=nodes((), 2, free=3, lent=0)), paths=None)

    held = POLICY.decide(told, POLICY.initial()).plan

    assert (held.targets[A].active, held.spare_gpus) == (40, 6)


def test_replicas_on_their_way_count_as_capacity() -> None:
    """40 wanted, 30 serve and 10 start: nothing more is asked for."""
    told = plan((target(),), (seen(30, starting=10),), steady((36.0,)))

    assert told.targets[A].active == 40
    assert told.targets[A].reasons[0].code == "Unchanged"


def test_a_queue_asks_for_replicas_that_demand_alone_would_not() -> None:
    calm = plan((target(),), (seen(40),), steady((36.0,)))
    queued = plan((target(),), (seen(40, backlog_replica_s=200.0),), steady((36.0,)))

    assert queued.targets[A].active > calm.targets[A].active


def test_a_queue_that_stands_is_answered_as_too_little_capacity() -> None:
    """8 replica-seconds have stood for seconds: (36 + 8/2) / 0.9 = 44.4, so 45 replicas instead of 40."""
    told = plan((target(),), (seen(40, backlog_replica_s=8.0, standing=8.0),), steady((36.0,)))

    assert told.targets[A].active == 45


def test_spares_are_cut_before_replicas() -> None:
    paths = steady((36.0,), n_paths=100)
    paths[:, :20, 2:] = 60.0

    told = plan((target(),), (seen(40),), paths, budget=45)

    assert told.targets[A].active + told.spare_gpus == 45
    assert told.targets[A].active == plan((target(),), (seen(40),), paths).targets[A].active
    assert (told.reasons[0]["planned"], told.reasons[0]["gpu_budget"]) == (told.spare_gpus, 45)


def test_what_is_wanted_beyond_the_budget_is_said() -> None:
    told = plan((target(),), (seen(30),), steady((36.0,)), budget=32)

    assert told.targets[A].active == 32
    assert codes(told.targets[A]) == ("ScaledUp", "WakeCovered", "GpuBudget")
    assert told.targets[A].reasons[-1].text == "40 replicas wanted, 32 within the budget of 32 GPUs"


def test_after_the_surge_replicas_go_once_holding_them_costs_more_than_waking_them() -> None:
    """100 serve, demand is back at 36 and stays there on every path: no path needs them again."""
    told = plan((target(),), (seen(100),), steady((36.0,)))

    assert told.targets[A].active == 40
    assert told.targets[A].reasons[0].code == "ScaledDown"


def test_pooled_spares_are_fewer_than_spares_apart() -> None:
    """Two targets surge by the same amount, never together."""
    paths = steady((36.0, 36.0), n_paths=100)
    paths[0, :10, 2:] = 60.0
    paths[1, 50:60, 2:] = 60.0
    told = given((target("a"), target("b")), (seen(40), seen(40)), paths)

    pooled = ForethawPolicy().decide(told, POLICY.initial()).plan
    apart = ForethawPolicy(pooled=False).decide(told, POLICY.initial()).plan

    assert pooled.spare_gpus < apart.spare_gpus


demand_paths = st.integers(0, 2**32 - 1)
levels = st.tuples(st.floats(0.0, 60.0), st.floats(0.0, 60.0))


def noisy(means: tuple[float, float], seed: int) -> FloatArray:
    """Gamma noise around two levels, rising or falling: (2, 60 paths, steps)."""
    random = np.random.default_rng(seed)
    trend = random.uniform(0.5, 2.0, (2, 1, len(STEP_ENDS_S)))
    return np.array(means)[:, None, None] * trend * random.gamma(4.0, 0.25, (2, 60, len(STEP_ENDS_S)))


def pair() -> tuple[TargetSpec, TargetSpec]:
    return target("a"), target("b", gpus=2, miss_cost=3.0)


@settings(max_examples=60)
@drawn(levels, demand_paths, st.integers(3, 200), st.tuples(st.integers(0, 80), st.integers(0, 80)))
def test_a_plan_never_exceeds_the_gpu_budget(
    means: tuple[float, float], seed: int, budget: int, have: tuple[int, int]
) -> None:
    told = plan(pair(), (seen(have[0]), seen(have[1])), noisy(means, seed), budget=budget)

    used = told.targets[A].active + 2 * told.targets[B].active
    assert used + told.spare_gpus <= budget
    assert all(t.reasons[0]["planned"] == t.active for t in told.targets.values())


@settings(max_examples=60)
@drawn(levels, demand_paths, st.floats(0.0, 3.0), st.tuples(st.integers(0, 80), st.integers(0, 80)))
def test_more_demand_never_plans_fewer_gpus_ready(
    means: tuple[float, float], seed: int, growth: float, have: tuple[int, int]
) -> None:
    """Whatever every path adds, active replicas do not fall, nor do GPUs at hand in all."""
    paths = noisy(means, seed)
    observed = (seen(have[0]), seen(have[1]))

    less = plan(pair(), observed, paths)
    more = plan(pair(), observed, paths * (1.0 + growth))

    assert all(more.targets[k].active >= less.targets[k].active for k in less.targets)


@settings(max_examples=30)
@drawn(levels, demand_paths)
def test_the_same_input_gives_the_same_decision(means: tuple[float, float], seed: int) -> None:
    told = given(pair(), (seen(3), seen(4)), noisy(means, seed))
    memory = POLICY.initial()

    assert POLICY.decide(told, memory) == POLICY.decide(told, memory)


@settings(max_examples=40)
@drawn(levels, demand_paths, st.tuples(st.integers(0, 80), st.integers(0, 80)))
def test_deciding_again_on_the_planned_state_changes_no_replicas(
    means: tuple[float, float], seed: int, have: tuple[int, int]
) -> None:
    """Once the plan is true, the same forecast plans the same replicas: no flapping by itself."""
    paths = noisy(means, seed)
    first = plan(pair(), (seen(have[0]), seen(have[1])), paths)

    second = plan(pair(), tuple(seen(first.targets[k].active) for k in (A, B)), paths)

    assert {k: t.active for k, t in second.targets.items()} == {k: t.active for k, t in first.targets.items()}


def test_placement_is_kept_between_moves() -> None:
    """Snapshots may move every 30 s; ten seconds later the placement stands whatever the demand."""
    told = given((target(),), (seen(40),), steady((36.0,)))
    first = POLICY.decide(told, POLICY.initial())

    later = replace(told, now_s=told.now_s + 10.0, nodes=nodes((), 2))

    assert POLICY.decide(later, first.memory).plan.placement == first.plan.placement
    assert POLICY.decide(replace(later, now_s=told.now_s + 30.0), first.memory).plan.placement.keys() == {
        "node-0",
        "node-1",
    }


# -- unknown demand, parked replicas and short budgets ---------------------------------------------------------


def surging(level: float, peak: float) -> FloatArray:
    """One target's paths: at `level`, and on a fifth of them at `peak` from 4 s on."""
    paths = steady((level,), n_paths=100)
    paths[:, :20, 2:] = peak
    return paths


def test_an_unknown_target_sizes_no_spares_whatever_its_forecast_says() -> None:
    """b's forecast surges; with its metrics missing its spares are none, and a's are as if b were not there."""
    pair = (target("a"), target("b"))
    paths = np.concatenate((surging(36.0, 50.0), surging(36.0, 90.0)))

    alone = plan(pair[:1], (seen(40),), paths[:1])
    both = plan(pair, (seen(40), seen(40)), paths)
    unknown = plan(pair, (seen(40), seen(40, known=False)), paths)
    no_forecast = plan(pair, (seen(40), seen(40)), paths, known=("a",))

    assert 0 < alone.spare_gpus < both.spare_gpus
    assert unknown.spare_gpus == no_forecast.spare_gpus == alone.spare_gpus


def test_an_unknown_target_is_not_cut_before_known_ones() -> None:
    """b lost its metrics, and its forecast says zero. The budget is short by 10: a goes short, b keeps its 20."""
    pair = (target("a"), target("b"))
    told = plan(pair, (seen(20), seen(20, known=False)), steady((36.0, 0.0)), budget=50)

    assert (told.targets[A].active, told.targets[B].active) == (30, 20)
    assert codes(told.targets[A])[-1] == "GpuBudget"
    assert codes(told.targets[B]) == ("Unchanged", "MetricsUnknown")


def test_a_budget_below_the_minimums_is_kept_all_the_same() -> None:
    """Minimums of 4 + 2 x 4 GPUs within a budget of 7: not one GPU more, none spare, and both plans say why."""
    pair = (target("a", least=4), target("b", gpus=2, least=4))
    told = plan(pair, (seen(0), seen(0)), steady((3.6, 3.6)), budget=7)

    assert told.targets[A].active + 2 * told.targets[B].active <= 7
    assert told.spare_gpus == 0
    assert all(of.active == of.reasons[0]["planned"] for of in told.targets.values())
    assert {codes(of)[-1] for of in told.targets.values() if of.active < 4} == {"GpuBudget"}


def test_parked_replicas_take_their_share_of_the_budget() -> None:
    """Without a snapshot near, parked replicas cover a surge: with active and spare ones they keep within 60 GPUs."""
    told = given((target(),), (seen(34),), surging(30.0, 80.0), budget=60, pool=nodes((), 10))

    made = POLICY.decide(told, POLICY.initial()).plan

    assert made.targets[A].warm[PARKED] > 0
    assert gpus_of(made, told.targets) <= 60


def running_gpus(told: DecisionInput) -> float:
    """GPUs of what runs, parked replicas by their share."""
    warm = {k: {PARKED: o.ready.get(PARKED, 0)} for k, o in told.observed.items()}
    there = {k: TargetPlan(o.current, warm[k], ()) for k, o in told.observed.items()}
    return gpus_of(Plan(there), told.targets)


@settings(max_examples=150)
@drawn(worlds())
def test_active_parked_and_spare_gpus_keep_the_budget_unless_what_runs_exceeds_it(world: World) -> None:
    """Budgets below the minimums, parked replicas, unknown targets and several GPUs a replica among the worlds."""
    told = world.given

    made = POLICY.decide(told, POLICY.initial()).plan

    assert gpus_of(made, told.targets) <= max(told.gpu_budget, running_gpus(told)) + ROUNDING


def test_without_a_forecast_minimums_and_idle_gpus_are_kept_within_the_budget() -> None:
    """One replica is there, five are the minimum, 8 GPUs are free, the budget is 3: three replicas and none spare."""
    told = given((target(least=5),), (seen(1),), steady((1.0,)), budget=3, pool=nodes((), 1, free=8, lent=0))

    made = POLICY.decide(replace(told, paths=None), POLICY.initial()).plan
    wide = POLICY.decide(replace(told, paths=None, gpu_budget=9), POLICY.initial()).plan

    assert (made.targets[A].active, made.spare_gpus) == (3, 0)
    assert codes(made.targets[A]) == ("ScaledUp", "NoForecast", "GpuBudget")
    assert made.targets[A].reasons[1].text == "no forecast yet: holding 3 replicas"
    assert (wide.targets[A].active, wide.spare_gpus) == (5, 4)


@settings(max_examples=150)
@drawn(worlds())
def test_the_contract_finds_nothing_to_hold_without_a_forecast(world: World) -> None:
    told = replace(world.given, paths=None)

    made = POLICY.decide(told, POLICY.initial()).plan

    assert checked(made, told) == (made, ())


@settings(max_examples=150)
@drawn(worlds())
def test_the_contract_finds_nothing_to_hold_in_our_plans(world: World) -> None:
    made = POLICY.decide(world.given, POLICY.initial()).plan

    assert checked(made, world.given) == (made, ())
