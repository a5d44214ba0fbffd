"""The KPA's windows and its panic, worked by hand: 100 in flight is rated, so a replica is to carry 70."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from policies.baselines.knative import KnativeMemory, KnativePolicy
from tests.policies.timelines import A, Timeline, codes, constant, ending, moment, observing
from tests.policies.worlds import target

CALM = {A: KnativeMemory(begun=True)}


def calm(policy: KnativePolicy | None = None) -> Timeline:
    """A KPA that has run for a while and is not in panic."""
    return Timeline(policy or KnativePolicy(), CALM)


def test_calm_load_is_followed_by_the_stable_window() -> None:
    """700 in flight / 70 = 10 over 60 s; the last 6 s want ceil(840 / 70) = 12, under twice the 10 ready.

    The stable mean is (54 x 700 + 6 x 840) / 60 = 714, so 11 replicas and not 12.
    """
    plan = calm().ask(moment(0.0, 10, concurrency=ending(700.0, 6, 840.0)))

    assert (plan.active, codes(plan)) == (11, ("ScaledUp", "DemandMeasured"))


def test_panic_begins_when_six_seconds_alone_want_twice_what_is_ready() -> None:
    """From 5 ready: ceil(630 / 70) = 9 < 2x5 is no panic, ceil(631 / 70) = 10 = 2x5 is."""
    below = calm().ask(moment(0.0, 5, concurrency=ending(350.0, 6, 630.0)))
    at = calm().ask(moment(0.0, 5, concurrency=ending(350.0, 6, 631.0)))

    assert (below.active, codes(below)) == (6, ("ScaledUp", "DemandMeasured"))  # (54 x 350 + 6 x 630) / 60 = 378: 5.4
    assert (at.active, codes(at)) == (10, ("ScaledUp", "DemandMeasured", "Panic"))


def test_in_panic_the_count_only_rises_and_a_whole_stable_window_below_the_threshold_ends_it() -> None:
    """20 wanted at 0 s, ready at 2 s, load gone: kept to 60 s, from 62 s on halved each tick."""
    kpa = calm()
    assert kpa.active(moment(0.0, 5, concurrency=ending(350.0, 6, 1400.0))) == 20  # 1400 / 70

    followed, ready = {}, 20
    for tick in range(1, 36):
        now_s = 2.0 * tick
        plan = kpa.ask(moment(now_s, ready, concurrency=constant(70.0)))
        assert ("Panic" in codes(plan)) == (now_s <= 60.0)
        followed[now_s] = ready = plan.active

    assert [followed[t] for t in (2.0, 58.0, 60.0)] == [20, 20, 20]
    # Not below floor(ready / 2): 20 -> 10 -> 5 -> 2 -> 1.
    assert [followed[t] for t in (62.0, 64.0, 66.0, 68.0, 70.0)] == [10, 5, 2, 1, 1]


def test_each_crossing_prolongs_the_panic() -> None:
    """Crossed at 100 s and again at 140 s with 5 ready: at 200 s still panic, at 202 s none."""
    kpa = calm()
    for now_s in (100.0, 140.0):
        assert kpa.active(moment(now_s, 5, concurrency=ending(70.0, 6, 1400.0))) == 20

    assert kpa.active(moment(200.0, 20, concurrency=constant(700.0))) == 20
    assert kpa.active(moment(202.0, 20, concurrency=constant(700.0))) == 10


def test_in_panic_the_larger_window_counts() -> None:
    """Ready is down to 2 and the surge is fading: stable (54 x 1400 + 6 x 700) / 60 = 1330 wants 19."""
    plan = calm().ask(moment(0.0, 2, concurrency=ending(1400.0, 6, 700.0)))

    assert (plan.active, codes(plan)) == (19, ("ScaledUp", "DemandMeasured", "Panic"))


def test_growth_is_bounded_by_the_scale_up_rate_but_is_one_replica_at_least() -> None:
    """Rate 1.1 at 2 ready: ceil(2.2) = 3 though 10 are wanted."""
    assert calm(KnativePolicy(max_scale_up_rate=1.1)).active(moment(0.0, 2, concurrency=constant(700.0))) == 3


def test_only_ready_replicas_carry_rates_and_the_threshold() -> None:
    """One ready and nine starting: 700 wants 10, ten times the ready: panic, and ten is what there is."""
    plan = calm().ask(moment(0.0, 1, starting=9, concurrency=constant(700.0)))

    assert (plan.active, codes(plan)) == (10, ("Unchanged", "DemandMeasured", "Panic"))


def test_without_a_ready_replica_one_is_assumed() -> None:
    """Ceil(140 / 70) = 2 over one assumed is panic, and 2 replicas."""
    assert calm().active(moment(0.0, 0, concurrency=constant(140.0))) == 2


def test_a_kpa_that_starts_beside_running_replicas_starts_in_panic() -> None:
    """It has no past: eight replicas are kept for a whole stable window, then halved."""
    kpa = Timeline(KnativePolicy())

    assert kpa.active(moment(100.0, 8, concurrency=constant(70.0))) == 8
    assert kpa.active(moment(160.0, 8, concurrency=constant(70.0))) == 8
    assert kpa.active(moment(162.0, 8, concurrency=constant(70.0))) == 4


def test_a_kpa_that_starts_beside_one_replica_does_not() -> None:
    plan = Timeline(KnativePolicy()).ask(moment(100.0, 1, concurrency=constant(70.0)))

    assert (plan.active, codes(plan)) == (1, ("Unchanged", "DemandMeasured"))


def test_scale_down_delay_waits_for_a_window_of_lower_counts() -> None:
    """Delay 10 s is five ticks: 10 wanted at 0 s is remembered at 8 s and forgotten at 10 s."""
    kpa = calm(KnativePolicy(scale_down_delay_s=10.0))
    assert kpa.active(moment(0.0, 10, concurrency=constant(700.0))) == 10

    followed = [kpa.ask(moment(2.0 * k, 10, concurrency=constant(350.0))) for k in range(1, 6)]

    assert [p.active for p in followed] == [10, 10, 10, 10, 5]
    assert [codes(p)[2:] for p in followed] == [("ScaleDownDelayed",)] * 4 + [()]


def test_missing_samples_are_left_out_of_the_mean() -> None:
    """Half of the minute is missing; the other half reads 700: ten replicas, not five."""
    samples = constant(700.0)
    samples[-60:-30] = np.nan

    assert calm().active(moment(0.0, 10, concurrency=samples)) == 10


@pytest.mark.parametrize("known", [True, False])
def test_no_concurrency_holds_and_changes_no_memory(known: bool) -> None:
    kpa = calm()

    held = kpa.ask(moment(0.0, 7, starting=2, known=known, concurrency=None if known else constant(0.0)))

    assert (held.active, codes(held)) == (9, ("Unchanged", "MetricsUnknown"))
    assert kpa.memory == CALM


def test_an_empty_panic_window_is_no_ground_to_panic() -> None:
    """Five ready, 1400 in flight until 6 s ago and nothing known since: 20 by the stable window, no panic."""
    plan = calm().ask(moment(0.0, 5, concurrency=ending(1400.0, 6, np.nan)))

    assert (plan.active, codes(plan)) == (20, ("ScaledUp", "DemandMeasured"))


def test_bounds_come_last_and_are_named() -> None:
    plan = calm().ask(moment(0.0, 10, concurrency=constant(1400.0), spec=target(least=2, most=12)))

    assert (plan.active, codes(plan)) == (12, ("ScaledUp", "DemandMeasured", "Panic", "Bounds"))


def test_rates_that_could_never_change_a_count_are_refused() -> None:
    with pytest.raises(ValueError, match="scale rates must be above 1"):
        KnativePolicy(max_scale_down_rate=1.0)


MEMORIES = st.builds(
    KnativeMemory,
    begun=st.booleans(),
    panicked_at_s=st.none() | st.floats(900.0, 1000.0),
    most_in_panic=st.integers(0, 40),
    recent=st.lists(st.tuples(st.integers(490, 499), st.integers(0, 40)), max_size=4).map(tuple),
)


@drawn(
    MEMORIES,
    st.integers(0, 60),
    st.integers(0, 20),
    st.floats(0.0, 5000.0),
    st.floats(0.0, 5000.0),
    st.floats(0.0, 3000.0),
    st.booleans(),
    st.sampled_from([0.0, 10.0]),
)
def test_bounds_monotony_and_no_blind_cuts_hold_for_any_history(
    memory: KnativeMemory,
    ready: int,
    starting: int,
    before: float,
    lately: float,
    more: float,
    known: bool,
    delay_s: float,
) -> None:
    """Within bounds; more load never plans fewer; no data never shrinks; same question, same answer."""
    policy, spec = KnativePolicy(scale_down_delay_s=delay_s), target(least=2, most=50)
    load = ending(before, 6, lately)
    asked = moment(1000.0, ready, starting=starting, concurrency=load, known=known, spec=spec)
    asked_for_more = observing(asked, concurrency=load + more)

    decision = policy.decide(asked, {A: memory})
    planned = decision.plan.targets[A].active

    assert 2 <= planned <= 50
    assert policy.decide(asked_for_more, {A: memory}).plan.targets[A].active >= planned
    if not known:
        assert planned >= min(ready + starting, 50)
    assert policy.decide(asked, {A: memory}) == decision


def test_the_rps_metric_follows_demand_in_replicas() -> None:
    """7 replicas' worth at 70% of rated throughput is 10; 14 in the last 6 s want 20, twice the ready."""
    kpa = calm(KnativePolicy(metric="rps"))

    assert kpa.active(moment(0.0, 10, demand=constant(7.0))) == 10
    plan = kpa.ask(moment(2.0, 10, demand=ending(7.0, 6, 14.0)))
    assert (plan.active, codes(plan)) == (20, ("ScaledUp", "DemandMeasured", "Panic"))
