"""Demand in replicas, and what a replica really does; every array speaks of several targets at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.arrays import FloatArray
from policies.capacity import (
    LEAST_RATING_SHARE,
    MEMORY_REQUESTS,
    ObservedRating,
    RunningMean,
    WorkRate,
    backlog_replica_s,
    demand_replicas,
    stacked,
)

RATE = WorkRate(per_request_s=0.01, per_prompt_token_s=0.0001, per_output_token_s=0.001)
SLOWER = WorkRate(per_request_s=0.02, per_prompt_token_s=0.0002, per_output_token_s=0.002)
NAN = float("nan")


def row(*values: float) -> FloatArray:
    return np.array([values])


def column(*values: float) -> FloatArray:
    return np.array(values)


def test_work_adds_up_by_request_and_token_for_each_target_at_its_own_rate() -> None:
    """10 requests of 100 prompt tokens in 2 s, 50 output tokens each: (0.1 + 0.1 + 0.5) / 2; twice at half speed."""
    offered, prompt = np.array([[10.0], [10.0]]), np.array([[1000.0], [1000.0]])

    demand = demand_replicas(stacked([RATE, SLOWER]), 2.0, offered, prompt, column(0.0, 0.0), column(50.0, 50.0))

    assert demand == pytest.approx(np.array([[0.35], [0.7]]))


def test_demand_is_missing_only_where_the_count_is() -> None:
    """No count: no demand. A count without its prompt tokens is priced at the mean, 10 x 100; none is zero."""
    demand = demand_replicas(stacked([RATE]), 1.0, row(NAN, 10.0, 0.0), row(5.0, NAN, NAN), column(100.0), column(50.0))

    np.testing.assert_allclose(demand, [[NAN, 0.1 + 0.1 + 0.5, 0.0]])


def test_a_queue_of_unknown_prompts_is_priced_at_the_mean_and_never_at_zero() -> None:
    """50 queued with prompt tokens unknown: 50 x 0.01 + 50 x 100 x 0.0001 + 50 x 50 x 0.001 = 3.5 replica-seconds."""
    queued, tokens = row(50.0, 50.0, NAN, 0.0), row(NAN, 10_000.0, 10.0, NAN)

    backlog = backlog_replica_s(stacked([RATE]), queued, tokens, column(100.0), column(50.0))

    np.testing.assert_allclose(backlog, [[3.5, 4.0, NAN, 0.0]])


def test_mean_lengths_follow_requests_and_forget_each_target_by_itself() -> None:
    """From guesses of 100: a thousand of 20 leave little of one, none and missing ones leave the others alone."""
    guess = RunningMean(np.full(4, 100.0), np.full(4, 1.0))

    observed = guess.observe(column(1000.0, 0.0, NAN, 5.0), column(20_000.0, 0.0, 5.0, NAN))

    assert observed.mean == pytest.approx(column(20.0, 100.0, 100.0, 100.0), abs=0.2)
    assert list(observed.weight) == [1001.0, 1.0, 1.0, 1.0]


def test_a_mean_length_forgets_after_its_memory_of_requests() -> None:
    """A million requests of 100 weigh no more than the memory: as many of 20 again replace them wholly."""
    old = RunningMean(column(100.0), column(1.0)).observe(column(1e6), column(1e8))

    assert list(old.weight) == [MEMORY_REQUESTS]
    assert old.observe(column(MEMORY_REQUESTS), column(MEMORY_REQUESTS * 20.0)).mean == pytest.approx(column(20.0))


def test_a_standing_queue_teaches_what_a_replica_does_and_calm_forgets_it() -> None:
    """Ten replicas take up 7 of 10 offered while 30 replica-seconds queue: 70%, within a minute; the calm one stays."""
    rating = ObservedRating(column(1.0, 1.0))
    backlog = 30.0
    for _ in range(60):
        rating = rating.observe(
            column(10.0, 5.0), column(backlog, 0.0), column(backlog + 3.0, 0.0), column(10.0, 10.0), seconds=1.0
        )
        backlog += 3.0
    assert rating.share == pytest.approx(column(0.7, 1.0), abs=0.02)

    for _ in range(3600):
        rating = rating.observe(column(5.0, 5.0), column(0.0, 0.0), column(0.0, 0.0), column(10.0, 10.0), seconds=1.0)
    assert rating.share == pytest.approx(column(1.0, 1.0), abs=0.02)


def test_a_burst_that_drains_teaches_nothing_lasting() -> None:
    """A queue seen on one side of a sample only is a burst, not a rating."""
    rating = ObservedRating(column(1.0)).observe(column(10.0), column(0.0), column(50.0), column(10.0), seconds=2.0)

    assert list(rating.share) == [1.0]


def test_no_serving_replica_and_no_known_demand_teach_nothing() -> None:
    learnt = ObservedRating(column(0.6, 0.6, 0.6))

    rating = learnt.observe(column(NAN, 10.0, 10.0), np.full(3, 30.0), np.full(3, 33.0), column(10.0, 0.0, 10.0), 1.0)

    assert list(rating.share[:2]) == [0.6, 0.6]
    assert rating.share[2] != 0.6
    assert learnt.observe(column(1.0, 1.0, 1.0), np.zeros(3), np.zeros(3), np.ones(3), seconds=0.0) is learnt


HALVES = st.integers(0, 100).map(lambda n: n / 2.0)
"""Serving replicas: a draining one counts by half."""
SAMPLE = st.tuples(
    st.floats(0, 100) | st.just(NAN), st.floats(0, 500), st.floats(0, 500), HALVES, st.just(0.0) | st.floats(0.01, 10)
)


@given(st.lists(st.tuples(SAMPLE, SAMPLE), max_size=30))
def test_a_rating_stays_between_a_quarter_and_whole_and_is_its_targets_own(
    samples: list[tuple[tuple[float, ...], tuple[float, ...]]],
) -> None:
    """Two targets together learn what each would learn alone."""
    both, alone = ObservedRating(column(1.0, 1.0)), ObservedRating(column(1.0))
    for first, second in samples:
        seconds = first[-1]
        demand, before, after, replicas = (column(a, b) for a, b in zip(first[:-1], second[:-1], strict=True))
        both = both.observe(demand, before, after, replicas, seconds)
        alone = alone.observe(demand[:1], before[:1], after[:1], replicas[:1], seconds)

    assert (both.share >= LEAST_RATING_SHARE).all() and (both.share <= 1.0).all()
    assert both.share[0] == alone.share[0]
