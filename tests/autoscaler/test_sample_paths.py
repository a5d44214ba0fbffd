"""Sample paths: calibrated on what is stationary, patient through gaps, joint over targets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from autoscaler.forecast import DemandFrame
from autoscaler.forecast.steps import step_ends, step_samples
from policies.paths import DemandPaths
from tests.autoscaler.forecast_worlds import Loads, fed, forecaster, frame, key, poisson


def forecast(loads: Loads, horizon_s: float, seed: int = 1) -> DemandPaths:
    """Paths of all targets at the end of their loads."""
    of = forecaster(seed)
    return of.paths(fed(of, loads), tuple(loads), float(len(next(iter(loads.values())))), horizon_s)


def test_the_band_of_each_step_covers_what_it_promises_on_a_stationary_load() -> None:
    """Poisson at 20: of 75 forecasts the 80% band of each step holds 80%, give or take 3 standard errors.

    One standard error of a share of 0.8 among 75 is sqrt(0.8 x 0.2 / 75) = 0.046.
    """
    of, a = forecaster(), key()
    load = {a: poisson(20.0, 1200, seed=3)}
    state, hits = of.initial(), []
    for at in range(0, 1150, 2):
        state = of.absorb(state, frame(load, at, at + 2))
        if at < 400 or at % 5:
            continue
        paths = of.paths(state, (a,), at + 2.0, 16.0)
        low, high = np.quantile(paths.paths[0], (0.1, 0.9), axis=0)
        edges = at + 2 + np.concatenate(([0], paths.step_ends_s)).astype(int)
        came = np.array([load[a][begin:end].mean() for begin, end in itertools.pairwise(edges)])
        hits.append((low - 1e-5 <= came) & (came <= high + 1e-5))

    assert len(hits) == 75
    assert np.abs(np.mean(hits, axis=0) - 0.8).max() < 3 * 0.0462


def test_paths_centre_on_the_level() -> None:
    paths = forecast({key(): poisson(30.0, 600, seed=1)}, 8.0)

    assert paths.paths.mean() == pytest.approx(30.0, rel=0.08)


def test_longer_means_spread_less_than_single_seconds() -> None:
    """Poisson noise averages out: the spread of a 4 s step is well below that of a 1 s step."""
    paths = forecast({key(): poisson(30.0, 900, seed=2)}, 16.0)
    spread = paths.paths[0].std(axis=0)

    assert spread[list(paths.step_ends_s).index(12.0)] < 0.8 * spread[0]


def test_bursts_that_happened_are_in_the_paths() -> None:
    """A burst of 200 for 2 s once a minute: some paths must hold it, most must not."""
    load = np.full(900, 10.0)
    load[30::60] = load[31::60] = 200.0
    paths = forecast({key(): load}, 8.0)
    share = np.mean(paths.paths[0].max(axis=1) > 100.0)

    assert 0.02 < share < 0.5


def test_common_shocks_stay_common() -> None:
    """Two targets driven by one shock: their paths correlate, those of independent ones do not."""
    random = np.random.default_rng(5)
    shock, other = random.gamma(4.0, 0.25, 900), random.gamma(4.0, 0.25, 900)
    together = forecast({key("a"): 20.0 * shock, key("b"): 50.0 * shock}, 1.0).paths[:, :, 0]
    apart = forecast({key("a"): 20.0 * shock, key("b"): 50.0 * other}, 1.0).paths[:, :, 0]

    assert np.corrcoef(together)[0, 1] > 0.9
    assert abs(np.corrcoef(apart)[0, 1]) < 0.3


def test_targets_that_joined_together_stay_joint_on_their_own_moments() -> None:
    """Two that joined for the last 10 of 60 minutes, driven by one shock: drawn at the same moments."""
    of, old, pair = forecaster(), key("old"), (key("b"), key("c"))
    shock = np.random.default_rng(6).gamma(4.0, 0.25, 3600)
    shock[:3000] = np.nan
    loads = {old: poisson(20.0, 3600, seed=1), pair[0]: 20.0 * shock, pair[1]: 50.0 * shock}
    paths = of.paths(of.bootstrap(frame(loads, 0, 3600)), pair, 3600.0, 1.0).paths[:, :, 0]

    assert np.corrcoef(paths)[0, 1] > 0.9


def test_two_minutes_of_history_suffice() -> None:
    paths = forecast({key(): poisson(15.0, 120, seed=4)}, 48.0)

    assert paths.known == {key()}
    assert np.isfinite(paths.paths).all()
    assert np.median(paths.paths) == pytest.approx(15.0, rel=0.2)


def test_noise_of_the_observed_dispersion_serves_before_the_first_minute() -> None:
    """Forty seconds at mean 50 and dispersion 4: a second's path varies by 4 x 50 = 200 (delta method)."""
    load = 4.0 * poisson(12.5, 40, seed=8)
    paths = forecast({key(): load}, 1.0)

    expected = load.var() / load.mean() * paths.paths.mean()
    assert paths.paths[0, :, 0].var() == pytest.approx(expected, rel=0.3)


def test_a_few_samples_are_not_yet_known() -> None:
    assert forecast({key(): poisson(15.0, 4, seed=4)}, 8.0).known == frozenset()


def test_a_gap_holds_the_level_and_a_long_one_ends_trust() -> None:
    """Ninety seconds of silence: still at 30, still known; after three minutes no longer known."""
    load = np.concatenate((poisson(30.0, 400, seed=6), np.full(200, np.nan)))

    short, long = forecast({key(): load[:490]}, 8.0), forecast({key(): load}, 8.0)

    assert short.known == {key()}
    assert np.median(short.paths) == pytest.approx(30.0, rel=0.15)
    assert long.known == frozenset()


def test_two_days_of_outage_leave_the_level_and_no_history() -> None:
    """The level of 30 stands until samples come again; ten minutes later all history is from after."""
    of, a = forecaster(), key()
    state = fed(of, {a: poisson(30.0, 1000, seed=6)})
    back_s = 1000.0 + 2 * 86_400

    at_once = of.absorb(state, DemandFrame(back_s, 1.0, {a: np.array([31.0])}))
    later = of.absorb(state, DemandFrame(back_s, 1.0, {a: poisson(60.0, 600, seed=7)}))

    assert np.median(of.paths(at_once, (a,), back_s + 1.0, 8.0).paths) == pytest.approx(30.0, rel=0.15)
    assert np.median(of.paths(later, (a,), back_s + 600.0, 8.0).paths) == pytest.approx(60.0, rel=0.15)
    assert min(m.block.until_s for m in later.minutes) > back_s - 3600.0


@pytest.mark.parametrize("period_s", [0.25, 5.0, 15.0, 60.0])
def test_other_sample_periods_serve_as_well(period_s: float) -> None:
    """An hour at mean 30: centred, spread, known, and steps shorter than a sample repeat the one before."""
    of, a = forecaster(), key()
    state = of.bootstrap(DemandFrame(0.0, period_s, {a: poisson(30.0, int(3600 / period_s), seed=1)}))

    paths = of.paths(state, (a,), 3600.0, 64.0)

    assert paths.known == {a}
    assert paths.paths.mean() == pytest.approx(30.0, rel=0.1)
    assert paths.paths[0].std(axis=0).min() > 0.1
    assert np.array_equal(paths.paths[..., 0], paths.paths[..., 1]) == (period_s >= 2.0)


def test_a_target_without_a_record_is_unknown_and_harms_nothing() -> None:
    of, a, stranger = forecaster(), key("a"), key("stranger")
    state = fed(of, {a: poisson(20.0, 300, seed=1)})

    paths = of.paths(state, (stranger, a), 300.0, 8.0)

    assert paths.known == {a}
    assert np.isfinite(paths.paths).all()
    assert np.array_equal(paths.paths[1:], of.paths(state, (a,), 300.0, 8.0).paths)


def test_one_missing_sample_in_a_hundred_leaves_residuals_to_all() -> None:
    """Twenty targets, each with bursts, 1% of samples missing here and there: bursts are in all paths."""
    random = np.random.default_rng(9)
    loads = {}
    for i in range(20):
        load = np.full(900, 10.0)
        load[i::60] = load[i + 1 :: 60] = 200.0
        load[random.random(900) < 0.01] = np.nan
        loads[key(str(i))] = load
    paths = forecast(loads, 48.0)

    share = (paths.paths.max(axis=2) > 100.0).mean(axis=1)
    assert share.min() > 0.02
    assert paths.known == set(loads)


def test_equal_seeds_give_equal_paths_and_other_seeds_others() -> None:
    load = {key(): poisson(10.0, 200, seed=7)}

    assert np.array_equal(forecast(load, 8.0).paths, forecast(load, 8.0).paths)
    assert not np.array_equal(forecast(load, 8.0).paths, forecast(load, 8.0, seed=2).paths)


def test_the_grid_reaches_the_horizon_and_no_farther() -> None:
    assert list(step_ends(5.0)) == [1.0, 2.0, 3.0, 4.0, 6.0]
    assert step_ends(1e6)[-1] == 384.0


def test_a_step_shorter_than_a_sample_is_empty() -> None:
    """Samples of 2 s: the first second takes a whole sample, the second one nothing more."""
    assert step_samples(step_ends(6.0), 2.0) == ((0, 1), (1, 1), (1, 2), (2, 2), (2, 3))
