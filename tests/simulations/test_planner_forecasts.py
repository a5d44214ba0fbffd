"""Point forecasts for planner rows: better than the last value on a ramp, honest before the first interval."""

from __future__ import annotations

import numpy as np
import pytest

from autoscaler.forecast import DemandFrame
from policies.keys import TargetKey
from simulations.planner_forecasts import ArimaPoint, IntervalPoint, KalmanPoint, NoForecast, PointState

A, B = TargetKey("default", "a"), TargetKey("default", "b")
RAMP = np.arange(180 * 20) / 30.0 + np.random.default_rng(1).normal(0.0, 0.5, 180 * 20)
"""Twenty intervals of 180 s; the mean climbs by 6 from each to the next."""


def last(means: np.ndarray) -> float:
    return float(means[-1])


def points(of: IntervalPoint, state: PointState, *keys: TargetKey) -> list[float]:
    return [float(mean) for mean in of.paths(state, keys, 3600.0, 180.0).paths[:, 0, 0]]


@pytest.mark.parametrize("point", [ArimaPoint, KalmanPoint])
def test_a_ramp_is_followed_better_than_by_its_last_value(point: type[ArimaPoint | KalmanPoint]) -> None:
    of = point()
    state = of.bootstrap(DemandFrame(0.0, 1.0, {A: RAMP}))
    (forecast,) = points(of, state, A)
    next_mean = 3690 / 30.0

    assert abs(forecast - next_mean) < abs(RAMP[-180:].mean() - next_mean)


def test_before_the_first_interval_the_forecast_is_the_mean_so_far() -> None:
    of = ArimaPoint()
    state = of.bootstrap(DemandFrame(0.0, 1.0, {A: np.full(30, 7.0)}))

    assert points(of, state, A) == [7.0]
    assert of.paths(state, (A, B), 30.0, 180.0).known == {A}


def test_pieces_forecast_what_the_whole_does() -> None:
    of = IntervalPoint("last", last)
    state = of.initial()
    for begin in range(0, len(RAMP), 70):
        state = of.absorb(state, DemandFrame(float(begin), 1.0, {A: RAMP[begin : begin + 70]}))

    assert points(of, state, A) == points(of, of.bootstrap(DemandFrame(0.0, 1.0, {A: RAMP})), A)
    assert state.until_s == 3600.0


def test_a_target_that_joins_or_leaves_moves_no_other() -> None:
    """b joins after 400 s, absent from every other frame; a goes on alone afterwards."""
    of = IntervalPoint("last", last)
    alone = of.bootstrap(DemandFrame(0.0, 1.0, {A: RAMP[:1000]}))
    state = of.bootstrap(DemandFrame(0.0, 1.0, {A: RAMP[:400]}))
    for begin in range(400, 1000, 20):
        both = {A: RAMP[begin : begin + 20]} | ({B: np.full(20, 3.0)} if begin % 40 else {})
        state = of.absorb(state, DemandFrame(float(begin), 1.0, both))

    assert points(of, state, B, A) == [3.0, *points(of, alone, A)]
    assert points(of, of.retain(state, frozenset({A})), A) == points(of, alone, A)
    assert of.paths(of.retain(state, frozenset({A})), (B,), 1000.0, 180.0).known == frozenset()


def test_no_forecast_knows_no_target() -> None:
    assert NoForecast().paths(None, (A, B), 0.0, 60.0).known == frozenset()
