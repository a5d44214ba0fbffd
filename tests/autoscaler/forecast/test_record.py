"""The record: what came is told per step, gaps stay gaps, and memory is bounded."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.forecast.grid import STEP_ENDS_S, step_grid
from autoscaler.forecast.record import ForecastRecord, RollingArray
from policies.types import FloatArray


def recorded(demand: FloatArray, blocks: list[int], keep: int = 200) -> ForecastRecord:
    """A record fed with `demand` (targets, n) in the given block lengths, maturing after each."""
    grid = step_grid(1.0, (1.0, 2.0, 4.0, 8.0))
    record = ForecastRecord(len(demand), keep, grid, n_scales=2)
    at = 0
    for n in [*blocks, demand.shape[1]]:
        block = demand[:, at : at + n]
        ones = np.ones((*block.shape, 4))
        record.append(block, np.ones((*block.shape, 2)), ones, ones, np.ones(block.shape))
        record.mature()
        at += block.shape[1]
    return record


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=12), st.integers(1, 25))
def test_a_rolling_array_is_the_tail_of_all_that_was_appended(lengths: list[int], keep: int) -> None:
    rolling, everything = RollingArray(1, keep), np.empty((1, 0))
    for n in lengths:
        block = everything.shape[1] + np.arange(n, dtype=float)[None]
        rolling.append(block)
        everything = np.concatenate((everything, block), axis=1)

    np.testing.assert_array_equal(rolling.view, everything[:, -keep:])
    assert rolling.total == everything.shape[1]
    assert rolling.first == max(everything.shape[1] - keep, 0)


def test_an_origin_is_told_the_mean_of_each_step_after_it() -> None:
    """Demand 0, 1, 2, ...: origin 3's steps of 1, 1, 2 and 4 s hold 4, 5, 6.5 and 9.5."""
    record = recorded(np.arange(20.0)[None], [20])

    np.testing.assert_allclose(record.actual.view[0, 3] ** 2, [4.0, 5.0, 6.5, 9.5], rtol=1e-6)


def test_the_future_is_unknown_until_it_has_come() -> None:
    record = recorded(np.arange(20.0)[None], [20])

    assert np.isfinite(record.actual.view[0, 11]).all()
    np.testing.assert_array_equal(np.isfinite(record.actual.view[0, 15]), [True, True, True, False])
    assert np.isnan(record.actual.view[0, 19]).all()


def test_a_step_that_is_mostly_missing_is_missing() -> None:
    """Samples 8 to 11 are lost: a step with one sample of four left is unknown, with two it stands."""
    demand = np.full((1, 30), 5.0)
    demand[0, 8:12] = np.nan
    came = np.isfinite(recorded(demand, [30]).actual.view[0])

    assert not came[7, :3].any()
    assert came[5].tolist() == [True, True, False, True]
    assert came[:8, 3].tolist() == [True, True, False, False, False, True, True, True]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_how_samples_are_cut_into_blocks_changes_nothing(blocks: list[int]) -> None:
    demand = np.random.default_rng(0).poisson(5.0, (2, 150)).astype(float)
    demand[1, 40:70] = np.nan

    np.testing.assert_array_equal(recorded(demand, blocks).actual.view, recorded(demand, [150]).actual.view)


def test_a_grid_coarser_than_its_steps_takes_the_sample_that_holds_each() -> None:
    """Samples of 15 s: steps within the first are the first sample; every step has one at least."""
    grid = step_grid(15.0)

    assert (grid.widths >= 1).all()
    assert list(grid.end[:8]) == [1] * 7 + [2]
    assert grid.ends_s.tolist() == list(STEP_ENDS_S)
