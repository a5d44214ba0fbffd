"""Sample paths: calibrated on what is stationary, patient through gaps, joint over targets."""

from __future__ import annotations

import numpy as np
import pytest

from autoscaler.forecast import ArimaPoint, KalmanPoint, NoForecast, SamplePathForecaster
from autoscaler.forecast.sample_paths import step_ends
from policies.arrays import FloatArray
from policies.paths import DemandPaths


def fed(demand: FloatArray, seed: int = 1, every: int = 2) -> SamplePathForecaster:
    """A forecaster that has seen `demand` (targets, seconds), a few samples at a time."""
    forecaster = SamplePathForecaster(demand.shape[0], seed=seed, n_paths=400)
    for at in range(0, demand.shape[1], every):
        forecaster.update(float(at), 1.0, demand[:, at : at + every])
    return forecaster


def poisson(mean: float, seconds: int, seed: int) -> FloatArray:
    return np.random.default_rng(seed).poisson(mean, (1, seconds)).astype(float)


def test_bands_cover_what_comes_on_a_stationary_load() -> None:
    """Poisson at 20: over 150 forecasts the 80% band of each step holds 65 to 93% of what came."""
    load = poisson(20.0, 1200, seed=3)
    forecaster = SamplePathForecaster(1, seed=1, n_paths=400)
    hits: list[np.ndarray] = []
    for at in range(0, 1150, 2):
        forecaster.update(float(at), 1.0, load[:, at : at + 2])
        if at < 400 or at % 5:
            continue
        told = forecaster.paths(at + 2.0, 16.0)
        low, high = np.quantile(told.paths[0], (0.1, 0.9), axis=0)
        begin, inside = at + 2, []
        for h, end in enumerate(told.step_ends_s):
            came = load[0, begin : at + 2 + int(end)].mean()
            inside.append(low[h] - 1e-9 <= came <= high[h] + 1e-9)
            begin = at + 2 + int(end)
        hits.append(np.array(inside))

    coverage = np.mean(hits, axis=0)
    assert np.all((coverage > 0.65) & (coverage < 0.97)), coverage


def test_paths_centre_on_the_level() -> None:
    told = fed(poisson(30.0, 600, seed=1)).paths(600.0, 8.0)

    assert told.paths.mean() == pytest.approx(30.0, rel=0.08)


def test_longer_means_spread_less_than_single_seconds() -> None:
    """Poisson noise averages out: the spread of a 4 s step is well below that of a 1 s step."""
    told = fed(poisson(30.0, 900, seed=2)).paths(900.0, 16.0)
    spread = told.paths[0].std(axis=0)

    assert spread[list(told.step_ends_s).index(12.0)] < 0.8 * spread[0]


def test_bursts_that_happened_are_in_the_paths() -> None:
    """A burst of 200 for 2 s once a minute: some paths must hold it, most must not."""
    load = np.full((1, 900), 10.0)
    load[0, 30::60] = load[0, 31::60] = 200.0
    told = fed(load).paths(900.0, 8.0)
    share = np.mean(told.paths[0].max(axis=1) > 100.0)

    assert 0.02 < share < 0.5


def test_common_shocks_stay_common() -> None:
    """Two targets driven by one shock: their path errors correlate, those of independent ones do not."""
    random = np.random.default_rng(5)
    shock = random.gamma(4.0, 0.25, 900)
    together = fed(np.array([20.0 * shock, 50.0 * shock])).paths(900.0, 1.0).paths[:, :, 0]
    apart = fed(np.array([20.0 * shock, 50.0 * random.gamma(4.0, 0.25, 900)])).paths(900.0, 1.0).paths[:, :, 0]

    assert np.corrcoef(together)[0, 1] > 0.9
    assert abs(np.corrcoef(apart)[0, 1]) < 0.3


def test_two_minutes_of_history_suffice() -> None:
    told = fed(poisson(15.0, 120, seed=4)).paths(120.0, 48.0)

    assert told.known == (True,)
    assert np.isfinite(told.paths).all()
    assert np.median(told.paths) == pytest.approx(15.0, rel=0.2)


def test_a_few_samples_are_not_yet_knowledge() -> None:
    assert fed(poisson(15.0, 4, seed=4)).paths(4.0, 8.0).known == (False,)


def test_a_gap_holds_the_level_and_a_long_one_ends_trust() -> None:
    """Ninety seconds of silence: still at 30, still trusted; after three minutes no longer trusted."""
    load = np.concatenate((poisson(30.0, 400, seed=6), np.full((1, 200), np.nan)), axis=1)

    short = fed(load[:, :490]).paths(490.0, 8.0)
    long = fed(load).paths(600.0, 8.0)

    assert short.known == (True,)
    assert np.median(short.paths) == pytest.approx(30.0, rel=0.15)
    assert long.known == (False,)


def test_equal_seeds_give_equal_paths() -> None:
    load = poisson(10.0, 200, seed=7)

    assert np.array_equal(fed(load).paths(200.0, 8.0).paths, fed(load).paths(200.0, 8.0).paths)
    assert not np.array_equal(fed(load).paths(200.0, 8.0).paths, fed(load, seed=2).paths(200.0, 8.0).paths)


def test_the_hour_of_the_day_moves_long_horizons_once_two_days_are_known() -> None:
    """A day that swings threefold: in the steep morning five minutes ahead is more than now."""
    seconds = np.arange(2 * 86_400 + 6 * 3600, step=60)
    day = 20.0 + 10.0 * np.sin(2 * np.pi * (seconds / 86_400 - 0.25))
    forecaster = SamplePathForecaster(1, seed=1, n_paths=100)
    for at in range(0, len(seconds), 60):
        forecaster.update(float(seconds[at]), 60.0, day[None, at : at + 60])
    now_s = float(seconds[-1] + 60)
    told = forecaster.paths(now_s, 384.0)
    ratio = forecaster._shape.ratio(now_s, told.step_ends_s)[0]
    true = (20.0 + 10.0 * np.sin(2 * np.pi * ((now_s + 384.0) / 86_400 - 0.25))) / (
        20.0 + 10.0 * np.sin(2 * np.pi * (now_s / 86_400 - 0.25))
    )

    assert ratio[0] == 1.0
    assert ratio[-1] == pytest.approx(true, abs=0.005)
    assert ratio[-1] > 1.005


def test_the_grid_reaches_the_horizon_and_no_farther() -> None:
    assert list(step_ends(5.0)) == [1.0, 2.0, 3.0, 4.0, 6.0]
    assert step_ends(1e6)[-1] == 384.0


@pytest.mark.parametrize("point", [ArimaPoint, KalmanPoint])
def test_points_follow_a_ramp_better_than_the_last_value(point: type) -> None:
    """Demand climbs by 6 each interval of 180 s: the forecast of the next lies above the last mean."""
    forecaster = point(1)
    noise = np.random.default_rng(1).normal(0.0, 0.5, 180 * 20)
    ramp = np.arange(180 * 20) / 30.0 + noise
    for at in range(0, len(ramp), 60):
        forecaster.update(float(at), 1.0, ramp[None, at : at + 60])
    told: DemandPaths = forecaster.paths(3600.0, 180.0)
    last, nexts = ramp[-180:].mean(), 3690 / 30.0

    assert told.paths.shape == (1, 1, 1)
    assert abs(told.paths[0, 0, 0] - nexts) < abs(last - nexts)


def test_a_point_before_the_first_interval_is_the_mean_so_far() -> None:
    forecaster = ArimaPoint(1)
    forecaster.update(0.0, 1.0, np.full((1, 30), 7.0))

    assert forecaster.paths(30.0, 180.0).paths.item() == 7.0
    assert forecaster.paths(30.0, 180.0).known == (True,)


def test_no_forecast_says_so() -> None:
    assert NoForecast(2).paths(0.0, 60.0).known == (False, False)
