"""The whole decision: what must always hold, and a few timelines worked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from policies.decide import ForethawPolicy
from policies.types import Plan, TargetSpec
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


def noisy(means: tuple[float, float], seed: int) -> np.ndarray:
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
