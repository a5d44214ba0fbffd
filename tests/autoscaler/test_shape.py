"""The slow shape: what a day teaches, least squares over the bins there are, alike for one target and many."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.forecast.series import Roster
from autoscaler.forecast.shape import SlowShape
from policies.arrays import FloatArray
from tests.autoscaler.forecast_worlds import key

DAY_S = 86_400.0
PERIOD_S = 60.0
ENDS_S = np.array([16.0, 64.0, 384.0])


def day(at_s: FloatArray) -> FloatArray:
    """Demand that swings threefold over the day, lowest at midnight."""
    demand: FloatArray = 20.0 + 10.0 * np.sin(2 * np.pi * (at_s / DAY_S - 0.25))
    return demand


def shape_of(demand: FloatArray, every: int = 60) -> SlowShape:
    """The shape after `demand` (targets, minutes) from time 0."""
    n_targets, n_samples = demand.shape
    shape = SlowShape.empty().on(Roster(tuple(key(str(i)) for i in range(n_targets)), (0.0,) * n_targets))
    for at in range(0, n_samples, every):
        shape = shape.follow(at * PERIOD_S, PERIOD_S, demand[:, at : at + every])
    return shape


def ratios(shape: SlowShape, now_s: float) -> FloatArray:
    found = shape.ratio(now_s, ENDS_S)
    assert found is not None
    return found


def test_two_days_teach_the_steep_morning() -> None:
    """At six in the morning demand rises by 1.4% in 384 s; nearer than a minute nothing moves."""
    minutes = np.arange(2 * 1440 + 360) * PERIOD_S
    now_s = float(minutes[-1] + PERIOD_S)

    (ratio,) = ratios(shape_of(day(minutes)[None]), now_s)

    expected = day(now_s + ENDS_S) / day(np.array(now_s))
    assert ratio[0] == 1.0
    assert ratio[1:] == pytest.approx(expected[1:], abs=0.001)
    assert ratio[-1] > 1.01


def test_missing_bins_of_one_target_are_left_out_of_its_own_regression() -> None:
    """A target that is silent for four hours of each day is no worse for it; so is one that joined late."""
    minutes = np.arange(3 * 1440) * PERIOD_S
    demand = np.array([day(minutes)] * 3)
    demand[1, (minutes % DAY_S) < 4 * 3600] = np.nan
    demand[2, : 1440 + 300] = np.nan
    now_s = float(minutes[-1] + PERIOD_S) + 6 * 3600

    whole, silent, late = ratios(shape_of(demand), now_s)

    assert silent == pytest.approx(whole, abs=0.002)
    assert late == pytest.approx(whole, abs=0.002)


def test_six_hours_promise_no_more_than_the_bound() -> None:
    """Six hours of noise tell harmonics of a day hardly apart: the ratio stays near one."""
    noise = np.random.default_rng(1).gamma(400.0, 0.05, (1, 370))

    (ratio,) = ratios(shape_of(noise), 370 * PERIOD_S)

    assert np.all(np.abs(np.log(ratio)) <= np.log(4.0) * np.maximum(ENDS_S, 60.0) / 3600.0 + 1e-12)
    assert np.abs(ratio - 1.0).max() < 0.1


def test_less_than_six_hours_teach_nothing() -> None:
    assert shape_of(np.full((1, 350), 20.0)).ratio(350 * PERIOD_S, ENDS_S) is None


def test_only_targets_with_six_hours_have_a_shape() -> None:
    minutes = np.arange(2 * 1440) * PERIOD_S
    demand = np.array([day(minutes), day(minutes)])
    demand[1, :-120] = np.nan

    old, young = ratios(shape_of(demand), 2 * DAY_S + 6 * 3600)

    assert old[-1] > 1.01
    assert young.tolist() == [1.0, 1.0, 1.0]


def test_two_weeks_teach_a_swing_of_the_week() -> None:
    """A swing that day terms cannot express: at the week's turn it rises, as the fit says it will."""
    minutes = np.arange(14 * 1440) * PERIOD_S
    week_s = minutes % (7 * DAY_S)
    demand = 20.0 * np.exp(0.5 * np.sin(2 * np.pi * week_s / (7 * DAY_S)))[None]

    (ratio,) = ratios(shape_of(demand, every=600), 14 * DAY_S)

    assert ratio[-1] == pytest.approx(np.exp(0.5 * np.sin(2 * np.pi * 384.0 / (7 * DAY_S))), abs=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(5, 200))
def test_company_and_cuts_change_no_byte(seed: int, others: int, every: int) -> None:
    random = np.random.default_rng(seed)
    demand = random.gamma(20.0, 1.0, (1 + others, 500))
    demand[random.random(demand.shape) < 0.2] = np.nan

    alone, together = shape_of(demand[:1], every=500), shape_of(demand, every=every)

    assert np.array_equal(ratios(alone, 30_000.0), ratios(together, 30_000.0)[:1])
