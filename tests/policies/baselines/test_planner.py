"""A point forecast every three minutes, turned into replicas without a margin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from policies.baselines.planner import PlannerPolicy, mean_demand
from policies.paths import DemandPaths
from tests.policies.timelines import A, Timeline, codes, constant, moment
from tests.policies.worlds import key, target

B = key("b")


def forecast(*path: float, ends_s: tuple[float, ...] = (60.0, 120.0, 180.0), known: bool = True) -> DemandPaths:
    """One path for one target, as a point forecaster gives it."""
    return DemandPaths((A,), np.array(ends_s), np.array([[path]]), frozenset({A} if known else ()), "arima")


def test_the_count_is_the_forecast_mean_of_the_interval_rounded_up() -> None:
    """(6 + 9 + 12.3) / 3 = 9.1, so 10 replicas from whatever there was."""
    plan = Timeline(PlannerPolicy()).ask(moment(0.0, 4, demand=constant(5.0), paths=forecast(6.0, 9.0, 12.3)))

    assert (plan.active, codes(plan)) == (10, ("ScaledUp", "DemandForecast"))


def test_it_follows_its_forecast_down_at_once() -> None:
    """No stabilisation and no rate: 40 replicas to the 2 that are forecast."""
    plan = Timeline(PlannerPolicy()).ask(moment(0.0, 40, demand=constant(5.0), paths=forecast(2.0, 2.0, 2.0)))

    assert (plan.active, codes(plan)) == (2, ("ScaledDown", "DemandForecast"))


def test_an_exact_quotient_buys_no_extra_replica() -> None:
    """2.1 at 0.7 a replica is 3, though 2.1 / 0.7 is a little more in binary."""
    asked = moment(0.0, 3, demand=constant(2.1), paths=forecast(2.1, 2.1, 2.1))

    assert Timeline(PlannerPolicy(utilization=0.7)).active(asked) == 3


def test_steps_count_by_their_length_and_only_up_to_the_interval() -> None:
    """10 s at 20, then 4 until 400 s of which 170 count: (10 x 20 + 170 x 4) / 180."""
    paths = forecast(20.0, 4.0, 1000.0, ends_s=(10.0, 400.0, 500.0))

    assert mean_demand(paths, 180.0) == pytest.approx({A: 880.0 / 180.0})


def test_a_horizon_that_ends_sooner_is_averaged_over_what_it_covers() -> None:
    assert mean_demand(forecast(3.0, 5.0, ends_s=(30.0, 60.0)), 180.0) == pytest.approx({A: 4.0})


def test_many_paths_are_read_as_their_mean_and_targets_apart() -> None:
    paths = DemandPaths((A, B), np.array([180.0]), np.array([[[2.0], [4.0]], [[10.0], [30.0]]]), frozenset({A, B}))

    assert mean_demand(paths, 180.0) == pytest.approx({A: 3.0, B: 20.0})


@pytest.mark.parametrize(
    "paths",
    [
        None,
        forecast(0.0, 0.0, 0.0, known=False),
        forecast(np.nan, 0.0, 0.0),
        forecast(ends_s=()),
        DemandPaths((A,), np.array([180.0]), np.empty((1, 0, 1)), frozenset({A})),
    ],
    ids=["none", "unknown", "nan", "no steps", "no paths"],
)
def test_no_forecast_holds(paths: DemandPaths | None) -> None:
    plan = Timeline(PlannerPolicy()).ask(moment(0.0, 6, starting=1, demand=constant(1.0), paths=paths))

    assert (plan.active, codes(plan)) == (7, ("Unchanged", "NoForecast"))


def test_missing_metrics_hold_even_beside_a_forecast() -> None:
    plan = Timeline(PlannerPolicy()).ask(moment(0.0, 6, known=False, paths=forecast(0.0, 0.0, 0.0)))

    assert (plan.active, codes(plan)) == (6, ("Unchanged", "MetricsUnknown"))


def test_it_is_named_by_its_forecaster_and_asks_for_paths_every_three_minutes() -> None:
    policy = PlannerPolicy(label="planner-kalman")

    assert (policy.name, policy.interval_s, policy.wants_paths) == ("planner-kalman", 180.0, True)


@pytest.mark.parametrize("wrong", [{"interval_s": 0.0}, {"utilization": 0.0}])
def test_a_planner_that_could_divide_by_nothing_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        PlannerPolicy(**wrong)  # type: ignore[arg-type]  # one float field each


@drawn(
    st.lists(st.floats(0.0, 90.0), min_size=3, max_size=3),
    st.floats(0.0, 30.0),
    st.integers(0, 60),
    st.booleans(),
)
def test_bounds_monotony_and_no_blind_cuts_hold_for_any_forecast(
    path: list[float], more: float, ready: int, known: bool
) -> None:
    """Within bounds; more demand never plans fewer; no data never shrinks; same question, same answer."""
    policy, spec = PlannerPolicy(), target(least=2, most=50)
    asked = moment(0.0, ready, known=known, spec=spec, paths=forecast(*path))
    asked_for_more = moment(0.0, ready, known=known, spec=spec, paths=forecast(*(p + more for p in path)))

    plan = policy.decide(asked, None).plan
    planned = plan.targets[A].active

    assert 2 <= planned <= 50
    assert policy.decide(asked_for_more, None).plan.targets[A].active >= planned
    if not known:
        assert planned >= min(ready, 50)
    assert policy.decide(asked, None).plan == plan
