"""Demand in replicas, and what a replica really does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.capacity import (
    LEAST_RATING_SHARE,
    ObservedRating,
    OutputLength,
    WorkRate,
    backlog_replica_s,
    demand_replicas,
)

RATE = WorkRate(per_request_s=0.01, per_prompt_token_s=0.0001, per_output_token_s=0.001)


def test_work_adds_up_by_request_and_token() -> None:
    """10 requests of 100 prompt tokens in 2 s, 50 output tokens expected: (0.1 + 0.1 + 0.5) / 2."""
    demand = demand_replicas(RATE, 2.0, np.array([10.0]), np.array([1000.0]), mean_output_tokens=50.0)

    assert demand == pytest.approx([0.35])


def test_a_missing_sample_stays_missing() -> None:
    demand = demand_replicas(RATE, 1.0, np.array([np.nan, 0.0]), np.array([5.0, 0.0]), 50.0)

    assert np.isnan(demand[0]) and demand[1] == 0.0
    assert backlog_replica_s(RATE, float("nan"), 10.0, 50.0) == 0.0


def test_the_output_length_follows_completions_and_forgets() -> None:
    """From a guess of 100: a thousand completions of 20 leave little of it, none leave it alone."""
    guess = OutputLength(100.0, 1.0)

    assert guess.observe(0.0, 0.0) == guess
    assert guess.observe(float("nan"), 5.0) == guess
    assert guess.observe(1000.0, 20_000.0).mean_tokens == pytest.approx(20.0, abs=0.2)


def test_a_standing_queue_teaches_what_a_replica_does_and_calm_forgets_it() -> None:
    """Ten replicas take up 7 of 10 offered while 30 replica-seconds queue: 70%, within a minute."""
    rating = ObservedRating()
    backlog = 30.0
    for _ in range(60):
        rating = rating.observe(10.0, backlog, backlog + 3.0, replicas=10.0, seconds=1.0)
        backlog += 3.0
    assert rating.share == pytest.approx(0.7, abs=0.02)

    for _ in range(3600):
        rating = rating.observe(5.0, 0.0, 0.0, replicas=10.0, seconds=1.0)
    assert rating.share == pytest.approx(1.0, abs=0.02)


def test_a_burst_that_drains_teaches_nothing_lasting() -> None:
    """A queue seen on one side of a sample only is a burst, not a rating."""
    assert ObservedRating().observe(10.0, 0.0, 50.0, replicas=10.0, seconds=2.0).share == 1.0


@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.floats(0, 500), st.floats(0, 500), st.floats(0, 50), st.floats(0, 10)),
        max_size=50,
    )
)
def test_a_rating_stays_between_a_quarter_and_whole(samples: list[tuple[float, float, float, float, float]]) -> None:
    rating = ObservedRating()
    for sample in samples:
        rating = rating.observe(*sample)

    assert LEAST_RATING_SHARE <= rating.share <= 1.0
