"""The simulated metrics and the replay's recorder keep their ports' contracts, and the recorder its band."""

from __future__ import annotations

import numpy as np
import pytest

from autoscaler.ports import MetricSource, PassRecord, Recorder
from autoscaler.rating.service import load_service
from policies.keys import TargetKey
from simulations.engine import Fleet
from simulations.world.metrics import SimulatedMetrics
from simulations.world.recorder import BAND, SeriesRecorder
from simulations.world.serving import Serving
from tests.contracts.metrics_contract import GAP_S, MetricSourceContract, MetricWorld
from tests.contracts.recorder_contract import WEB, RecorderContract, flat_paths, record
from tests.simulations.stand_in_arrivals import DURATION_S, stream

SERVICE = load_service("llama-3.1-8b-h100")


class SimulatedMetricWorld:
    """Implements `MetricWorld` over the engines; one replica of each target serves from the start."""

    def __init__(self) -> None:
        self.steady, self.gappy = TargetKey("contract", "steady"), TargetKey("contract", "gappy")
        self.period_s = 5.0
        self._serving = {
            key: Serving(Fleet(SERVICE, 1, 2.0, DURATION_S, DURATION_S, self.period_s), stream(every_s, gaps=gaps), 1)
            for key, every_s, gaps in ((self.steady, 1.0, ()), (self.gappy, 2.0, (GAP_S,)))
        }
        for serving in self._serving.values():
            serving.activate_now(0)
        self.source: MetricSource = SimulatedMetrics(self._serving, self.period_s)

    def advance(self, until_s: float) -> None:
        for serving in self._serving.values():
            serving.advance((), until_s)


class TestSimulatedMetrics(MetricSourceContract):
    def make(self) -> MetricWorld:
        return SimulatedMetricWorld()


def recorder(duration_s: float = 300.0, horizon_s: float = 12.0) -> SeriesRecorder:
    return SeriesRecorder((WEB,), duration_s, 60.0, horizon_s)


class TestSeriesRecorder(RecorderContract):
    def make(self) -> Recorder:
        return recorder()


def test_a_bucket_keeps_the_first_forecast_that_falls_in_it() -> None:
    """A pass every 2 s, each forecasting its own time; 12 s ahead, the pass at 48 s is the first of minute 1."""
    kept = recorder()
    for now_s in range(0, 300, 2):
        kept.complete(record(float(now_s), outcomes={}, paths=flat_paths((float(now_s),))))

    made_at_s = [0, 48, 108, 168, 228]
    for quantile in range(len(BAND)):
        assert kept.band[quantile, 0].tolist() == made_at_s
    assert kept.decisions == 150


def test_a_band_is_the_quantiles_over_paths_in_the_step_that_ends_at_the_horizon() -> None:
    """Paths 0, 10, ..., 100 in the step up to 12 s and a thousand times that elsewhere."""
    kept = recorder()
    paths = flat_paths(tuple(float(v) for v in range(0, 101, 10)))
    paths.paths[:, :, [0, 2]] *= 1000.0
    kept.complete(record(60.0, outcomes={}, paths=paths))

    assert kept.band[:, 0, 1].tolist() == pytest.approx([10.0, 50.0, 90.0])
    assert np.isnan(kept.band[:, 0, [0, 2, 3, 4]]).all()


def test_passes_without_a_forecast_leave_no_band_and_are_counted() -> None:
    kept = recorder()
    kept.complete(record(0.0, outcomes={}))

    assert np.isnan(kept.band).all()
    assert kept.decisions == 1


def test_forecasts_beyond_the_replays_end_are_dropped() -> None:
    kept = recorder()
    kept.complete(record(295.0, outcomes={}, paths=flat_paths((1.0,))))

    assert np.isnan(kept.band).all()


def test_each_completed_pass_is_handed_on_once() -> None:
    seen: list[PassRecord] = []
    kept = SeriesRecorder((WEB,), 60.0, 60.0, 12.0, keep=seen.append)
    kept.begin(record(0.0))
    kept.complete(record(0.0, outcomes={}))

    assert [(r.now_s, r.outcomes) for r in seen] == [(0.0, {})]
