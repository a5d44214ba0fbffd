"""Durations known only to be longer count as such, and shares keep the mean."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.leadtimes.shares import QUANTILES, share_means
from autoscaler.leadtimes.survival import survival_shares

SAMPLE = st.tuples(st.floats(0.01, 1000), st.floats(0.01, 10), st.booleans())


def shares(*samples: tuple[float, float, bool]) -> np.ndarray:
    durations, weights, ended = (np.array(column) for column in zip(*samples, strict=True))
    return survival_shares(durations, weights, ended)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0.01, 100)), min_size=1, max_size=60))
def test_shares_ascend_and_keep_the_mean(sample: list[tuple[float, float]]) -> None:
    values, weights = (np.array(column) for column in zip(*sorted(sample), strict=True))
    means = share_means(values, weights)

    assert len(means) == QUANTILES
    assert (np.diff(means) >= 0).all()
    assert means.mean() == pytest.approx(np.average(values, weights=weights), rel=1e-6, abs=1e-6)


def test_a_pending_duration_counts_among_those_at_risk_and_no_longer() -> None:
    """Of 1, 2, longer than 3, and 4 the survival after 1 is 3/4, after 2 is 1/2, and 4 ends it: a quarter
    of the mass at 1, a quarter at 2, a half at 4 (Kaplan and Meier 1958)."""
    means = shares((2.0, 1.0, True), (3.0, 1.0, False), (1.0, 1.0, True), (4.0, 1.0, True))

    assert means.mean() == pytest.approx(0.25 * 1 + 0.25 * 2 + 0.5 * 4)
    assert (means[5], means[15], means[30]) == pytest.approx((1.0, 2.0, 4.0))


def test_beyond_the_longest_pending_duration_the_tail_is_exponential() -> None:
    """Half ends at 1; the other half is beyond 2, where S(2) = 1/2 sets the rate to ln 2 / 2."""
    means = shares((1.0, 1.0, True), (2.0, 1.0, False))

    assert means.mean() == pytest.approx(0.5 * 1 + 0.5 * (2 + 2 / log(2)))
    assert means[-1] > 2 + 2 / log(2)


def test_of_equal_durations_the_pending_one_lasts_longer() -> None:
    assert shares((1.0, 1.0, False), (1.0, 1.0, True))[-1] > 1.0


def test_weights_count_as_repetitions() -> None:
    repeated = shares((1.0, 1.0, True), (1.0, 1.0, True), (3.0, 1.0, False), (5.0, 1.0, True))

    assert shares((1.0, 2.0, True), (3.0, 1.0, False), (5.0, 1.0, True)) == pytest.approx(repeated)


@given(st.lists(SAMPLE, min_size=1, max_size=20), SAMPLE)
def test_a_further_pending_duration_lowers_no_share(
    samples: list[tuple[float, float, bool]], more: tuple[float, float, bool]
) -> None:
    known = [(1.0, 1.0, True), *samples]

    with_pending = shares(*known, (more[0], more[1], False))

    assert (with_pending >= shares(*known) * (1 - 1e-9)).all()
