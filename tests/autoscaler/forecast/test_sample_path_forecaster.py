"""Sample paths through time: levels, gaps, bursts, joint behaviour, history and equivariance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.forecast import PathConfig, SamplePathForecaster
from autoscaler.forecast.grid import STEP_ENDS_S
from tests.autoscaler.forecast.loads import gamma_bursts, poisson, walked

GAP = np.full((1, 90), np.nan)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(0, 200),
    st.floats(1.0, 400.0),
    st.sampled_from([0.0, 0.2, 300.0]),
    st.floats(0.0, 0.9),
)
def test_whatever_came_paths_are_finite_and_not_negative(
    n_targets: int, seconds: int, horizon_s: float, mean: float, lost: float
) -> None:
    """Nothing, zeros, tiny or huge demand, with any share of samples lost: shapes hold and numbers do."""
    random = np.random.default_rng(seconds)
    demand = random.poisson(mean, (n_targets, seconds)).astype(float)
    demand[random.random(demand.shape) < lost] = np.nan
    told = walked(demand, every=7, n_paths=50).paths(float(seconds), horizon_s)

    n_steps = min(int(np.searchsorted(STEP_ENDS_S, horizon_s)) + 1, len(STEP_ENDS_S))
    assert told.paths.shape == (n_targets, 50, n_steps)
    assert told.step_ends_s.tolist() == list(STEP_ENDS_S[:n_steps])
    assert len(told.known) == n_targets
    assert np.isfinite(told.paths).all()
    assert (told.paths >= 0).all()


def test_before_any_sample_nothing_is_known() -> None:
    told = SamplePathForecaster(2, seed=1, n_paths=10).paths(0.0, 8.0)

    assert told.known == (False, False)
    assert told.paths.shape == (2, 10, 6)


def test_two_minutes_make_a_forecast_for_a_minute() -> None:
    told = walked(poisson(40.0, 120, seed=1)).paths(120.0, 64.0)
    low, median, high = np.quantile(told.paths[0], (0.05, 0.5, 0.95), axis=0)

    assert told.known == (True,)
    assert np.all((median > 32.0) & (median < 48.0))
    assert np.all((low < 40.0) & (high > 40.0))
    assert np.all(high - low > 2.0)


def test_equal_seeds_give_equal_paths_and_others_do_not() -> None:
    demand = gamma_bursts(700, seed=1)
    first, again, other = (walked(demand, seed=s).paths(700.0, 64.0).paths for s in (1, 1, 2))

    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_caller_may_ask_twice_and_gets_the_same() -> None:
    forecaster = walked(poisson(10.0, 700, seed=1))

    np.testing.assert_array_equal(forecaster.paths(700.0, 64.0).paths, forecaster.paths(700.0, 64.0).paths)


def test_through_a_gap_the_level_holds_and_doubt_grows() -> None:
    """Ninety seconds lost after ten minutes at 30: still 30, still trusted, wider; after 120 s unknown."""
    before = poisson(30.0, 600, seed=2)
    forecaster = walked(before)
    seen = forecaster.paths(600.0, 16.0)
    forecaster.update(600.0, 1.0, GAP)
    blind = forecaster.paths(690.0, 16.0)
    forecaster.update(690.0, 1.0, GAP)
    stale = forecaster.paths(780.0, 16.0)

    assert (seen.known, blind.known, stale.known) == ((True,), (True,), (False,))
    assert np.median(blind.paths[0, :, -1]) == pytest.approx(30.0, rel=0.1)
    assert (
        np.ptp(np.quantile(blind.paths[0], (0.05, 0.95), axis=0), axis=0)[-1]
        > np.ptp(np.quantile(seen.paths[0], (0.05, 0.95), axis=0), axis=0)[-1]
    )


def test_a_silent_target_comes_back_when_its_samples_do() -> None:
    demand = np.concatenate((poisson(30.0, 400, seed=3), np.full((1, 300), np.nan), poisson(60.0, 60, seed=4)), axis=1)
    told = walked(demand).paths(760.0, 8.0)

    assert told.known == (True,)
    assert np.median(told.paths) == pytest.approx(60.0, rel=0.15)


def test_a_gap_in_one_target_leaves_the_others_alone() -> None:
    """Two targets; the second loses five minutes: the first forecasts as well as it did without."""
    both = np.concatenate((poisson(30.0, 900, seed=5), poisson(10.0, 900, seed=6)))
    both[1, 500:800] = np.nan
    told = walked(both).paths(900.0, 16.0)
    alone = walked(both[:1]).paths(900.0, 16.0)

    np.testing.assert_allclose(
        np.quantile(told.paths[0], (0.05, 0.5, 0.95)),
        np.quantile(alone.paths[0], (0.05, 0.5, 0.95)),
        rtol=0.08,
    )
    assert np.median(told.paths[1]) == pytest.approx(10.0, rel=0.25)


def test_a_jump_in_time_is_a_gap_and_samples_given_twice_count_once() -> None:
    demand = poisson(20.0, 600, seed=7)
    jumped = walked(demand[:, :300])
    jumped.update(400.0, 1.0, demand[:, 400:])
    explicit = demand.copy()
    explicit[:, 300:400] = np.nan
    twice = walked(demand[:, :300])
    twice.update(200.0, 1.0, demand[:, 200:])

    np.testing.assert_array_equal(jumped.paths(600.0, 16.0).known, walked(explicit).paths(600.0, 16.0).known)
    np.testing.assert_allclose(
        np.quantile(jumped.paths(600.0, 16.0).paths, 0.5),
        np.quantile(walked(explicit).paths(600.0, 16.0).paths, 0.5),
        rtol=0.05,
    )
    np.testing.assert_allclose(
        np.quantile(twice.paths(600.0, 16.0).paths, 0.5),
        np.quantile(walked(demand).paths(600.0, 16.0).paths, 0.5),
        rtol=0.05,
    )


def test_one_second_of_thirty_times_the_load_does_not_become_the_level() -> None:
    demand = poisson(10.0, 1200, seed=8)
    demand[0, -1] = 300.0
    median = np.median(walked(demand).paths(1200.0, 64.0).paths[0], axis=0)

    assert median[-1] < 25.0


def test_a_step_change_is_followed_within_half_a_minute() -> None:
    demand = np.concatenate((poisson(10.0, 900, seed=9), poisson(40.0, 30, seed=10)), axis=1)
    told = walked(demand).paths(930.0, 8.0)

    assert 30.0 < np.median(told.paths) < 55.0


def test_targets_that_burst_together_do_so_in_the_paths() -> None:
    """Two targets share half of their shocks: their paths correlate as their loads do, not more or less."""
    random = np.random.default_rng(11)
    common = random.gamma(4.0, 0.25, 1500)
    own = random.gamma(4.0, 0.25, (2, 1500))
    demand = np.array([20.0, 50.0])[:, None] * (common + own)
    told = walked(demand).paths(1500.0, 1.0).paths[:, :, 0]

    assert np.corrcoef(told)[0, 1] == pytest.approx(np.corrcoef(demand)[0, 1], abs=0.15)


def test_recent_noise_counts_for_more_than_that_of_an_hour_ago() -> None:
    """An hour of bursts, then a calm quarter: bands are narrower than with the two the other way round."""
    calm, wild = poisson(20.0, 900, seed=12), gamma_bursts(2700, seed=13, clients=40)
    quiet_now = np.concatenate((wild, calm), axis=1)
    quiet_then = np.concatenate((calm, wild), axis=1)
    spread = [np.ptp(np.quantile(walked(d).paths(3600.0, 1.0).paths, (0.05, 0.95))) for d in (quiet_now, quiet_then)]

    assert spread[0] < 0.8 * spread[1]


@settings(max_examples=4, deadline=None)
@given(st.floats(0.1, 50.0))
def test_a_load_of_another_size_is_forecast_as_of_that_size(factor: float) -> None:
    """The same shape at another scale: the paths scale too, residuals and all."""
    demand = gamma_bursts(500, seed=14)
    one, scaled = (walked(d, n_paths=200).paths(500.0, 32.0).paths for d in (demand, factor * demand))

    np.testing.assert_allclose(
        np.quantile(scaled, (0.5, 0.9), axis=1),
        factor * np.quantile(one, (0.5, 0.9), axis=1),
        rtol=0.05,
        atol=0.02 * factor,
    )


def test_a_seeded_history_is_as_good_as_a_walked_one() -> None:
    """Nine hours in one piece: known at once, and the same forecast as two samples at a time at the end."""
    demand = poisson(25.0, 9 * 3600, seed=15)
    seeded = SamplePathForecaster(1, seed=1, n_paths=400)
    seeded.seed_history(0.0, 1.0, demand)
    told = seeded.paths(9 * 3600.0, 64.0)
    walked_tail = walked(demand[:, -2400:])

    assert told.known == (True,)
    np.testing.assert_allclose(
        np.quantile(told.paths, (0.05, 0.5, 0.95)),
        np.quantile(walked_tail.paths(2400.0, 64.0).paths, (0.05, 0.5, 0.95)),
        rtol=0.1,
    )


def test_what_cannot_be_is_refused() -> None:
    forecaster = SamplePathForecaster(2, seed=1, n_paths=10)
    forecaster.update(0.0, 1.0, np.ones((2, 5)))

    with pytest.raises(ValueError, match="samples of 3 targets, expected 2"):
        forecaster.update(5.0, 1.0, np.ones((3, 5)))
    with pytest.raises(ValueError, match="cannot become 15"):
        forecaster.update(5.0, 15.0, np.ones((2, 5)))
    with pytest.raises(ValueError, match="at least one"):
        SamplePathForecaster(0, seed=1)


def test_a_config_says_how_soon_a_target_is_stale() -> None:
    forecaster = walked(poisson(5.0, 100, seed=1), config=PathConfig(stale_after_s=5.0))

    assert forecaster.paths(104.0, 8.0).known == (True,)
    assert forecaster.paths(106.0, 8.0).known == (False,)
