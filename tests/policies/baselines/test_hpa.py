"""The HPA's arithmetic, each number worked by hand; target 0.70 of a replica unless said otherwise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from policies.baselines.hpa import Behavior, HpaMemory, HpaPolicy, ScalingRule
from tests.policies.timelines import A, Timeline, codes, constant, ending, moment, observing
from tests.policies.worlds import target


def test_a_surge_is_met_by_doubling_once_that_is_more_than_four_pods() -> None:
    """35.0 / 0.70 = 50 wanted from 1 on: 1+4=5, 2x5=10, 2x10=20, 2x20=40, then 50 within 2x40=80."""
    hpa, current, followed = Timeline(HpaPolicy()), 1, []

    for sync in range(6):
        current = hpa.active(moment(sync * 15.0, current, demand=constant(35.0)))
        followed.append(current)

    assert followed == [5, 10, 20, 40, 50, 50]


def test_what_the_period_has_already_added_is_used_up() -> None:
    """A sync 5 s after 1 to 5: the period began with 5-4=1 replica, so still max(2, 5) = 5 at the most.

    At 15 s the event is exactly as old as the period and has left it: max(2x5, 5+4) = 10.
    """
    hpa = Timeline(HpaPolicy())

    assert hpa.active(moment(0.0, 1, demand=constant(35.0))) == 5
    limited = hpa.ask(moment(5.0, 5, demand=constant(35.0)))
    assert (limited.active, codes(limited)) == (5, ("Unchanged", "DemandMeasured", "RateLimited"))
    assert hpa.active(moment(15.0, 5, demand=constant(35.0))) == 10


def test_what_the_period_has_removed_may_come_back() -> None:
    """10 to 2 at 15 s (no stabilisation); 5 s later the period began with 2+8=10, so 20 are allowed."""
    hpa = Timeline(HpaPolicy(scale_down=Behavior(0.0, (ScalingRule("percent", 100, 15.0),))))

    assert hpa.active(moment(15.0, 10, demand=constant(1.4))) == 2
    assert hpa.active(moment(20.0, 2, demand=constant(14.0))) == 20


@pytest.mark.parametrize(
    ("demand", "planned"),
    [
        (6.300, 10),  # 6300 / 7000 = 0.9: the edge is still within
        (6.299, 9),  # below it: ceil(6299 / 700 = 8.9986) = 9
        (7.700, 10),  # 7700 / 7000 = 1.1: within
        (7.701, 12),  # above it: ceil(7701 / 700 = 11.0014) = 12
    ],
)
def test_both_edges_of_the_tolerance_are_within_it(demand: float, planned: int) -> None:
    hpa = HpaPolicy(scale_down=Behavior(0.0, (ScalingRule("percent", 100, 15.0),)))

    assert Timeline(hpa).active(moment(0.0, 10, demand=constant(demand))) == planned


def test_plus_one_is_swallowed_from_eleven_replicas_on() -> None:
    """A metric that asks for one replica more is within 10% as soon as 1/n is: 1/10 is, and so is 1/11."""
    one_each = HpaPolicy(utilization=1.0)

    grown = [Timeline(one_each).active(moment(0.0, n, demand=constant(n + 1.0))) for n in (8, 9, 10, 11, 12)]

    assert grown == [9, 10, 10, 11, 12]


def test_shrinking_waits_until_the_last_high_recommendation_is_exactly_300_s_old() -> None:
    """14.0 / 0.70 = 20 until 30 s, then 1.4 / 0.70 = 2: the 20 of 30 s hold to 315 s and are out at 330 s."""
    hpa, current, changes = Timeline(HpaPolicy()), 20, []

    for sync in range(30):
        now_s = sync * 15.0
        plan = hpa.ask(moment(now_s, current, demand=constant(14.0 if now_s <= 30.0 else 1.4)))
        if plan.active != current:
            changes.append((now_s, plan.active))
        if 45.0 <= now_s <= 315.0:
            assert codes(plan) == ("Unchanged", "DemandMeasured", "Stabilized")
        current = plan.active

    assert changes == [(330.0, 2)]


def test_within_the_window_a_count_falls_to_the_highest_recommendation_not_to_the_newest() -> None:
    """20 at 0 s, 10 at 15 s, 2 from 30 s: at 300 s the window holds 10 and 2s, at 315 s only 2s."""
    hpa, current, followed = Timeline(HpaPolicy()), 20, {}

    for sync in range(22):
        now_s = sync * 15.0
        demand = {0: 14.0, 1: 7.0}.get(sync, 1.4)
        current = hpa.active(moment(now_s, current, demand=constant(demand)))
        followed[now_s] = current

    assert (followed[285.0], followed[300.0], followed[315.0]) == (20, 10, 2)


def test_a_fresh_controller_takes_what_it_finds_for_its_first_recommendation() -> None:
    """Eight replicas, demand for two: nothing shrinks before the 8 found at 1000 s are 300 s old."""
    hpa = Timeline(HpaPolicy())

    assert hpa.active(moment(1000.0, 8, demand=constant(1.4))) == 8
    assert hpa.active(moment(1299.0, 8, demand=constant(1.4))) == 8
    assert hpa.active(moment(1300.0, 8, demand=constant(1.4))) == 2


def test_a_scale_down_rule_bounds_each_step_and_rounds_towards_fewer() -> None:
    """10% of 15 a minute: int(15 x 0.9 = 13.5) = 13; within the minute the start stays 15."""
    slow = Behavior(0.0, (ScalingRule("percent", 10, 60.0),))
    hpa = Timeline(HpaPolicy(scale_down=slow))

    assert hpa.active(moment(0.0, 15, demand=constant(1.4))) == 13
    assert hpa.active(moment(15.0, 13, demand=constant(1.4))) == 13
    assert hpa.active(moment(60.0, 13, demand=constant(1.4))) == 11  # int(11.7)


@pytest.mark.parametrize(("select", "planned"), [("max", 20), ("min", 14), ("disabled", 10)])
def test_select_policy_picks_among_the_rules(select: str, planned: int) -> None:
    """From 10, wanting 50: 100% allows 20, four pods allow 14."""
    rules = (ScalingRule("percent", 100, 15.0), ScalingRule("pods", 4, 15.0))
    hpa = HpaPolicy(scale_up=Behavior(0.0, rules, select))  # type: ignore[arg-type]  # drawn from a list

    assert Timeline(hpa).active(moment(0.0, 10, demand=constant(35.0))) == planned


def test_scale_up_stabilisation_takes_the_lowest_recent_recommendation() -> None:
    """A spike to 20 for one sync is not followed with a 30 s window; one that lasts is."""
    hpa = Timeline(HpaPolicy(scale_up=Behavior(30.0, (ScalingRule("percent", 900, 15.0),))))

    followed = [hpa.active(moment(t, 4, demand=constant(d))) for t, d in ((0, 2.8), (15, 14.0), (30, 14.0), (45, 14.0))]

    assert followed == [4, 4, 20, 20]  # at 30 s the 4 of 0 s is exactly 30 s old


def test_the_metric_is_the_mean_of_its_window_with_gaps_left_out() -> None:
    """Of the last 30 s, 10 are missing and the others read 14.0: 20 wanted, what was before is not seen."""
    samples = ending(0.0, 30, 14.0)
    samples[-20:-10] = np.nan

    assert Timeline(HpaPolicy()).active(moment(0.0, 10, demand=samples)) == 20


def test_a_missing_metric_holds_and_leaves_no_recommendation_behind() -> None:
    hpa = Timeline(HpaPolicy())
    hpa.ask(moment(0.0, 10, demand=constant(7.0)))
    before = hpa.memory

    held = hpa.ask(moment(15.0, 10, starting=2, known=False, demand=constant(0.0)))

    assert (held.active, codes(held)) == (12, ("Unchanged", "MetricsUnknown"))
    assert hpa.memory == before == {A: HpaMemory(((0.0, 10), (0.0, 10)))}


def test_pods_that_start_count_and_pods_that_drain_do_not() -> None:
    """7.0 / 0.70 = 10: six ready and four on their way are enough, however many drain."""
    plan = Timeline(HpaPolicy()).ask(moment(0.0, 6, starting=4, draining=5, demand=constant(7.0)))

    assert (plan.active, codes(plan)) == (10, ("Unchanged", "DemandMeasured"))


def test_a_count_out_of_bounds_goes_to_the_bound_without_a_look_at_metrics() -> None:
    spec = target(least=3, most=9)

    above = Timeline(HpaPolicy()).ask(moment(0.0, 12, known=False, spec=spec))
    below = Timeline(HpaPolicy()).ask(moment(0.0, 1, demand=constant(35.0), spec=spec))

    assert (above.active, codes(above)) == (9, ("ScaledDown", "Bounds"))
    assert (below.active, codes(below)) == (3, ("ScaledUp", "Bounds"))


def test_a_target_of_less_than_a_thousandth_is_refused() -> None:
    with pytest.raises(ValueError, match=r"utilization must be 0\.001"):
        HpaPolicy(utilization=0.0)


TIMED = st.lists(st.tuples(st.floats(0.0, 1000.0), st.integers(1, 60)), max_size=6).map(tuple)
MEMORIES = st.builds(HpaMemory, recommendations=TIMED, added=TIMED, removed=TIMED)


@drawn(
    MEMORIES,
    st.integers(0, 60),
    st.integers(0, 20),
    st.floats(0.0, 80.0),
    st.floats(0.0, 40.0),
    st.booleans(),
)
def test_bounds_monotony_and_no_blind_cuts_hold_for_any_history(
    memory: HpaMemory, ready: int, starting: int, demand: float, more: float, known: bool
) -> None:
    """Within bounds; more demand never plans fewer; no data never shrinks; same question, same answer."""
    policy, spec = HpaPolicy(), target(least=2, most=50)
    asked = moment(1000.0, ready, starting=starting, demand=constant(demand), known=known, spec=spec)
    asked_for_more = observing(asked, demand_replicas=constant(demand + more))

    decision = policy.decide(asked, {A: memory})
    planned = decision.plan.targets[A].active

    assert 2 <= planned <= 50
    assert policy.decide(asked_for_more, {A: memory}).plan.targets[A].active >= planned
    if not known:
        assert planned >= min(ready + starting, 50)
    assert policy.decide(asked, {A: memory}) == decision
