"""Point forecasts for planners, naive ones, and the judge of them all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from autoscaler.forecast import (
    ArimaPoint,
    Ewma,
    KalmanPoint,
    LastValue,
    NoForecast,
    PointConfig,
    SeasonalNaive,
    backtest,
)
from autoscaler.forecast.backtest import over_window
from autoscaler.ports import Forecaster
from policies.types import DemandPaths
from tests.autoscaler.forecast.loads import poisson

POINTS: list[Callable[[int], Forecaster]] = [ArimaPoint, KalmanPoint]


@pytest.mark.parametrize("make", POINTS)
def test_a_point_follows_intervals_and_not_samples(make: Callable[[int], Forecaster]) -> None:
    """Ten intervals at 20, then half an interval at 200: the forecast waits for the interval to end."""
    forecaster = make(1)
    forecaster.update(0.0, 1.0, poisson(20.0, 1800, seed=1))
    before = forecaster.paths(1800.0, 180.0)
    forecaster.update(1800.0, 1.0, np.full((1, 90), 200.0))
    during = forecaster.paths(1890.0, 180.0)
    forecaster.update(1890.0, 1.0, np.full((1, 90), 200.0))
    after = forecaster.paths(1980.0, 180.0)

    assert before.paths.shape == (1, 1, 1)
    assert before.step_ends_s.tolist() == [180.0]
    assert before.paths.item() == pytest.approx(20.0, rel=0.1)
    assert during.paths.item() == before.paths.item()
    assert after.paths.item() > 60.0


@pytest.mark.parametrize("make", POINTS)
def test_too_few_intervals_repeat_the_last_one(make: Callable[[int], Forecaster]) -> None:
    forecaster = make(1)
    forecaster.update(0.0, 1.0, np.concatenate((np.full((1, 180), 3.0), np.full((1, 180), 5.0)), axis=1))

    assert forecaster.paths(360.0, 180.0).paths.item() == 5.0


@pytest.mark.parametrize("make", POINTS)
def test_points_hold_through_a_gap_and_then_say_they_are_blind(make: Callable[[int], Forecaster]) -> None:
    """Eight intervals at about 20, ten lost: no forecast near zero, and after ten minutes unknown."""
    forecaster = make(1)
    forecaster.update(0.0, 1.0, poisson(20.0, 1440, seed=2))
    forecaster.update(1440.0, 1.0, np.full((1, 360), np.nan))
    soon = forecaster.paths(1800.0, 180.0)
    forecaster.update(1800.0, 1.0, np.full((1, 1440), np.nan))
    late = forecaster.paths(3240.0, 180.0)

    assert soon.known == (True,)
    assert soon.paths.item() == pytest.approx(20.0, rel=0.1)
    assert late.known == (False,)


def test_a_jump_in_time_does_not_join_two_intervals() -> None:
    """An interval of 10, an hour unseen, an interval of 30: the last one is answered with, not a mixture."""
    forecaster = KalmanPoint(1, PointConfig(least_intervals=6))
    forecaster.update(0.0, 1.0, np.full((1, 180), 10.0))
    forecaster.update(3600.0, 1.0, np.full((1, 180), 30.0))

    assert forecaster.paths(3780.0, 180.0).paths.item() == 30.0


def test_no_forecast_knows_nothing() -> None:
    assert NoForecast(3).paths(0.0, 60.0).known == (False, False, False)


def test_seasonal_naive_repeats_the_season() -> None:
    """A square wave of 100 s, known once round: the coming steps are those of the round before."""
    wave = np.tile(np.repeat([2.0, 8.0], 50), 3)[None]
    forecaster = SeasonalNaive(1, season_s=100.0)
    forecaster.update(0.0, 1.0, wave[:, :148])
    told = forecaster.paths(148.0, 12.0)

    np.testing.assert_allclose(told.paths[0, 0], [2.0, 2.0, 8.0, 8.0, 8.0, 8.0, 8.0])


def test_ewma_forgets_with_its_time_constant() -> None:
    forecaster = Ewma(1, 10.0)
    forecaster.update(0.0, 1.0, np.full((1, 50), 1.0))
    forecaster.update(50.0, 1.0, np.zeros((1, 10)))

    assert forecaster.paths(60.0, 8.0).paths[0, 0, 0] == pytest.approx(np.exp(-1.0), rel=1e-9)


def test_a_window_is_the_mean_of_the_steps_that_it_overlaps() -> None:
    told = DemandPaths(np.array([2.0, 6.0]), np.array([[[1.0, 4.0]]]), (True,))

    assert over_window(told, 0.0, 2.0).item() == 1.0
    assert over_window(told, 1.0, 4.0).item() == pytest.approx((1.0 + 2 * 4.0) / 3.0)
    assert over_window(told, 6.0, 100.0).item() == 4.0


class Oracle:
    """Knows that all demand is 7 and says so."""

    def update(self, start_s: float, period_s: float, demand_replicas: np.ndarray) -> None:
        """Nothing to learn."""

    def paths(self, now_s: float, horizon_s: float) -> DemandPaths:
        return DemandPaths(np.array([500.0]), np.full((1, 5, 1), 7.0), (True,))


def test_the_judge_gives_a_perfect_forecast_no_loss() -> None:
    series = np.full((1, 1200), 7.0)
    series[0, 700:720] = np.nan
    row = backtest(series, {"oracle": Oracle}, [10.0]).row("oracle", 10.0)

    assert (row.pinball, row.pinball_99, row.bias) == (0.0, 0.0, 0.0)
    assert set(row.coverage.values()) == {1.0}
    assert row.window_s == (8.0, 12.0)


def test_the_judge_sees_what_each_forecast_knew_and_no_more() -> None:
    """Demand counts the seconds: the last value is behind by exactly the distance to the window's middle."""
    series = np.arange(1500.0)[None]
    row = backtest(series, {"last": lambda: LastValue(1)}, [2.0], warmup_s=60.0).row("last", 2.0)

    # After t samples the last is t - 1; the step (1, 2] is sample t + 1.
    assert row.bias == pytest.approx(-2.0)
    assert row.pinball == pytest.approx(2.0 * np.mean([0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99]))
    assert row.mase == pytest.approx(1.0)


def test_a_series_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="leave no origin"):
        backtest(np.ones((1, 300)), {"last": lambda: LastValue(1)}, [300.0])
