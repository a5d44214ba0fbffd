"""The slow shape: days and weeks are learnt, a flat load has none, and seasonal naive is beaten."""

from __future__ import annotations

import numpy as np
import pytest

from autoscaler.forecast.bins import BIN_S, FiveMinuteBins
from autoscaler.forecast.shape import DAY_BINS, MOST_PER_HOUR, SlowShape
from policies.types import FloatArray

MINUTE_S, DAY_S = 60.0, 86_400.0


def daily(days: float, seed: int, noise: float = 0.1) -> FloatArray:
    """Minutes of a load that swings from 10 to 50 with the day and is lower at weekends, (1, minutes)."""
    minutes = np.arange(int(days * 1440))
    day = minutes / 1440.0
    true = (30.0 - 20.0 * np.cos(2 * np.pi * day)) * np.where((day % 7) < 5, 1.0, 0.7)
    return (true * np.random.default_rng(seed).gamma(noise**-2, noise**2, minutes.size))[None]


def fitted(minutes: FloatArray) -> SlowShape:
    shape = SlowShape(len(minutes))
    shape.append(0.0, MINUTE_S, minutes)
    shape.fit_if_due(minutes.shape[1] * MINUTE_S)
    return shape


def test_bins_are_the_same_however_samples_come() -> None:
    minutes = daily(0.5, seed=1)
    whole, parts = FiveMinuteBins(1), FiveMinuteBins(1)
    whole.append(120.0, MINUTE_S, minutes)
    for at in range(0, minutes.shape[1], 7):
        parts.append(120.0 + at * MINUTE_S, MINUTE_S, minutes[:, at : at + 7])

    np.testing.assert_allclose(parts.means, whole.means)
    assert whole.means[0, 1] == pytest.approx(minutes[0, 3:8].mean())


def test_a_bin_without_samples_is_a_gap_not_a_zero() -> None:
    bins = FiveMinuteBins(1)
    minutes = np.full((1, 30), 4.0)
    minutes[0, 10:15] = np.nan
    bins.append(0.0, MINUTE_S, minutes)

    np.testing.assert_array_equal(bins.means, [[4.0, 4.0, np.nan, 4.0, 4.0]])


def test_nothing_is_claimed_of_two_hours() -> None:
    shape = fitted(daily(2 / 24, seed=1))

    assert shape.fitted == (None,)
    np.testing.assert_array_equal(shape.ratio(7200.0, np.array([64.0, 384.0])), [[1.0, 1.0]])


def test_two_weeks_of_minutes_beat_yesterday_and_last_week() -> None:
    """Day 15 from 14 days before it: a smaller error, hour by hour, than either naive season."""
    minutes = daily(15.0, seed=2)
    known, coming = minutes[:, : 14 * 1440], minutes[0, 14 * 1440 :]
    shape = fitted(known)
    at_s = 14 * DAY_S + (np.arange(1440) + 0.5) * MINUTE_S
    ours = np.abs(shape.expected(at_s)[0] - coming).mean()

    assert shape.fitted[0] is not None
    for lag_days in (1, 7):
        naive = minutes[0, (14 - lag_days) * 1440 : (15 - lag_days) * 1440]
        assert ours < 0.9 * np.abs(naive - coming).mean(), lag_days


def test_the_ratio_foretells_the_morning_rise() -> None:
    """At six in the morning, six minutes ahead, within half a percent of the true ratio."""
    known = daily(10.25, seed=3, noise=0.05)
    now_s = 10.25 * DAY_S
    ahead_s = np.array([30.0, 360.0])
    told = fitted(known).ratio(now_s, ahead_s)[0]

    def true(at_s: float) -> float:
        return 30.0 - 20.0 * float(np.cos(2 * np.pi * at_s / DAY_S))

    assert told[0] == 1.0
    assert told[1] == pytest.approx(true(now_s + 360.0) / true(now_s), abs=0.01)
    assert told[1] > 1.003


def test_noise_without_a_season_promises_next_to_nothing() -> None:
    minutes = np.random.default_rng(4).gamma(25.0, 0.4, (1, 4 * 1440))
    told = fitted(minutes).ratio(4 * DAY_S, np.array([64.0, 384.0]))

    np.testing.assert_allclose(told, 1.0, atol=0.02)


def test_a_cliff_is_bounded() -> None:
    """Whatever a fit says, demand is not promised to grow faster than MOST_PER_HOUR per hour."""
    steep = np.exp(np.linspace(0.0, 14.0, 5 * 60))[None]
    told = fitted(steep).ratio(5 * 3600.0, np.array([96.0, 384.0]))

    assert np.all(told <= MOST_PER_HOUR ** (np.array([96.0, 384.0]) / 3600.0) + 1e-9)


def test_a_weekend_lost_is_bridged() -> None:
    minutes = daily(12.0, seed=5)
    minutes[0, 5 * 1440 : 7 * 1440] = np.nan
    shape = fitted(minutes)

    assert shape.fitted[0] is not None
    assert np.isfinite(shape.expected(12 * DAY_S + np.arange(DAY_BINS) * BIN_S)).all()


def test_zeros_alone_have_no_shape() -> None:
    assert fitted(np.zeros((1, 2000))).fitted == (None,)
