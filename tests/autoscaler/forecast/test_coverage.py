"""Bands hold what they promise: on known laws, and on a recorded trace, per horizon."""

from __future__ import annotations

import numpy as np
import pytest

from autoscaler.forecast import BacktestTable, Ewma, LastValue, SamplePathForecaster, backtest
from autoscaler.forecast.calibration import LEAST_FACTOR, MOST_FACTOR, Calibrator
from autoscaler.forecast.grid import step_grid
from autoscaler.forecast.record import ForecastRecord
from policies.types import FloatArray
from tests.autoscaler.forecast.loads import azure_conv, gamma_bursts, poisson, walked

HORIZONS_S = (2.0, 10.0, 60.0)


def covered(series: FloatArray, every_s: float = 6.0) -> BacktestTable:
    """The sample paths' rows at all horizons, after ten minutes of warm-up."""
    make = {"paths": lambda: SamplePathForecaster(len(series), seed=1, n_paths=400)}
    return backtest(series, make, HORIZONS_S, every_s=every_s)


@pytest.mark.parametrize(
    ("name", "series"),
    [
        ("many requests", poisson(50.0, 2400, seed=1)),
        ("bursts of a few clients", gamma_bursts(2400, seed=2)),
        ("a ramp from 10 to 40", poisson(np.linspace(10.0, 40.0, 2400), 2400, seed=3)),
    ],
)
def test_bands_hold_their_share(name: str, series: FloatArray) -> None:
    """300 forecasts: shares lie within four standard errors of 50, 80 and 95%, however bursty the load."""
    table = covered(series)

    for horizon_s in (2.0, 10.0):
        shares = table.row("paths", horizon_s).coverage
        for band, slack in ((0.5, 0.13), (0.8, 0.11), (0.95, 0.06)):
            assert shares[band] == pytest.approx(band, abs=slack), (name, horizon_s, shares)


def test_tiny_demand_is_covered_from_below_and_above() -> None:
    """0.2 requests a second are mostly zeros: bands may hold more than they promise, never much less."""
    shares = covered(poisson(0.2, 2400, seed=4)).row("paths", 10.0).coverage

    assert shares[0.8] > 0.7
    assert shares[0.95] > 0.9


def test_a_minute_ahead_the_bands_are_not_too_narrow() -> None:
    """Few independent minutes lie in an hour, so the band errs on the wide side."""
    shares = covered(poisson(30.0, 3000, seed=5)).row("paths", 60.0).coverage

    assert shares[0.8] > 0.68
    assert shares[0.95] > 0.88


def test_a_recorded_trace_is_forecast_better_than_by_naive_means() -> None:
    """Azure's conversations, ten copies: a third less pinball loss than the best point, at each horizon."""
    series = azure_conv(copies=10)[:, :2400]
    make = {
        "paths": lambda: SamplePathForecaster(1, seed=1, n_paths=400),
        "last": lambda: LastValue(1),
        "ewma": lambda: Ewma(1, 20.0),
    }
    table = backtest(series, make, HORIZONS_S, every_s=10.0)

    for horizon_s in HORIZONS_S:
        ours = table.row("paths", horizon_s)
        naive = min(table.row(name, horizon_s).pinball for name in ("last", "ewma"))
        assert ours.pinball < 0.7 * naive, (horizon_s, ours, naive)
        assert ours.coverage[0.95] > 0.85, ours


def test_a_band_too_narrow_is_widened_and_one_too_wide_narrowed() -> None:
    """Told residuals half or twice as large as what comes, the factor moves towards the truth."""
    factors = {}
    for size in (0.5, 2.0):
        grid = step_grid(1.0, (1.0, 2.0))
        random = np.random.default_rng(1)
        record, calibrator = ForecastRecord(1, 4000, grid, 1), Calibrator(1, grid, 0.02, 3600.0)
        for _ in range(40):
            told = size * random.normal(0.0, 0.5, (1, 1000, 2)) * calibrator.factor[:, None, :]
            calibrator.note(record.demand.total, told)
            y = np.square(np.maximum(5.0 + random.normal(0.0, 0.5, (1, 60)), 0.0))
            ones = np.ones((1, 60, 2))
            record.append(y, np.ones((1, 60, 1)), 5.0 * ones, ones, np.ones((1, 60)))
            calibrator.learn(record, *record.mature())
        factors[size] = calibrator.factor[0, 0]

    assert factors[0.5] == pytest.approx(2.0, rel=0.25)
    assert LEAST_FACTOR <= factors[2.0] < 0.85
    assert factors[0.5] <= MOST_FACTOR


def test_the_forecaster_tells_its_own_coverage() -> None:
    told = walked(poisson(40.0, 1500, seed=6)).coverage()

    assert told is not None
    assert told.inside.shape == (1, 17, 4)
    np.testing.assert_allclose(told.inside[0, 0], told.bands, atol=0.06)
    assert told.observations[0, 0] > 500
