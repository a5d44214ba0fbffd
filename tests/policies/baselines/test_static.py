"""The same count all day, within bounds, and never a cut while nobody can see the load."""

from __future__ import annotations

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from policies.baselines.static import StaticPolicy
from tests.policies.timelines import A, Timeline, codes, constant, moment
from tests.policies.worlds import target


def test_the_count_stays_whatever_the_load_and_lost_replicas_are_replaced() -> None:
    static = Timeline(StaticPolicy({A: 12}))

    plans = [static.ask(moment(t, n, demand=constant(d))) for t, n, d in ((0, 1, 0.0), (15, 12, 90.0), (30, 11, 5.0))]

    assert [(p.active, codes(p)) for p in plans] == [
        (12, ("ScaledUp", "FixedCount")),
        (12, ("Unchanged", "FixedCount")),
        (12, ("ScaledUp", "FixedCount")),
    ]


def test_more_than_the_count_is_let_go_only_with_fresh_metrics() -> None:
    static = Timeline(StaticPolicy({A: 12}))

    blind = static.ask(moment(0.0, 14, starting=1, known=False))
    seeing = static.ask(moment(15.0, 15, demand=constant(1.0)))

    assert (blind.active, codes(blind)) == (15, ("Unchanged", "MetricsUnknown"))
    assert (seeing.active, codes(seeing)) == (12, ("ScaledDown", "FixedCount"))


def test_a_target_without_a_count_is_refused_by_name() -> None:
    with pytest.raises(KeyError, match="name='b'"):
        StaticPolicy({A: 1}).decide(moment(0.0, 1, spec=target("b")), None)


@drawn(st.integers(0, 80), st.integers(0, 80), st.floats(0.0, 90.0), st.booleans())
def test_bounds_and_no_blind_cuts_hold_for_any_observation(count: int, ready: int, demand: float, known: bool) -> None:
    """Within bounds, no fewer without data, and the same answer whatever the demand."""
    policy, spec = StaticPolicy({A: count}), target(least=2, most=50)

    plan = policy.decide(moment(0.0, ready, demand=constant(demand), known=known, spec=spec), None).plan
    planned = plan.targets[A].active

    assert 2 <= planned <= 50
    if not known:
        assert planned >= min(ready, 50)
    assert policy.decide(moment(0.0, ready, demand=constant(0.0), known=known, spec=spec), None).plan == plan
