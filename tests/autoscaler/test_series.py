"""Frames of demand: what is new in them, what is a gap, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from autoscaler.forecast import DemandFrame
from tests.autoscaler.forecast_worlds import key

A, B = key("a"), key("b")


def samples_after(frame: DemandFrame, until_s: float, most_missing: int = 100) -> tuple[float, list[float]]:
    fresh = frame.after(until_s, most_missing)
    return fresh.start_s, fresh.demand[A].tolist()


def frame(start_s: float, *samples: float) -> DemandFrame:
    return DemandFrame(start_s, 2.0, {A: np.array(samples)})


def test_the_first_frame_is_new_as_a_whole() -> None:
    assert samples_after(frame(10.0, 1.0, 2.0), -np.inf) == (10.0, [1.0, 2.0])


def test_a_frame_that_continues_is_new_as_a_whole() -> None:
    assert samples_after(frame(10.0, 1.0, 2.0), 10.0) == (10.0, [1.0, 2.0])


def test_samples_that_end_no_later_are_dropped() -> None:
    """Known until 14: of samples that end at 12, 14, 16 the last is new."""
    assert samples_after(frame(10.0, 1.0, 2.0, 3.0), 14.0) == (14.0, [3.0])
    assert samples_after(frame(10.0, 1.0, 2.0), 14.0) == (14.0, [])
    assert samples_after(frame(10.0, 1.0, 2.0), 99.0)[1] == []


def test_a_sample_that_ends_later_is_new_even_if_it_began_earlier() -> None:
    assert samples_after(frame(10.0, 1.0, 2.0), 11.0) == (10.0, [1.0, 2.0])
    assert samples_after(frame(10.0, 1.0, 2.0), 13.0) == (12.0, [2.0])


def test_time_between_frames_is_a_gap_of_missing_samples() -> None:
    start_s, samples = samples_after(frame(10.0, 1.0), 4.0)

    assert start_s == 4.0
    assert np.array_equal(samples, [np.nan, np.nan, np.nan, 1.0], equal_nan=True)


def test_a_gap_is_no_longer_than_asked_for() -> None:
    start_s, samples = samples_after(frame(1e6, 1.0), 0.0, most_missing=2)

    assert start_s == 1e6 - 4.0
    assert np.array_equal(samples, [np.nan, np.nan, 1.0], equal_nan=True)


def test_an_absent_target_is_a_row_of_gaps_not_of_zeros() -> None:
    matrix = frame(0.0, 1.0, 2.0).matrix((B, A))

    assert np.array_equal(matrix, [[np.nan, np.nan], [1.0, 2.0]], equal_nan=True)


def test_series_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"differ in length: \[1, 2\] samples"):
        DemandFrame(0.0, 1.0, {A: np.ones(1), B: np.ones(2)})


def test_a_period_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        DemandFrame(0.0, 0.0, {A: np.ones(1)})
