"""A lead time is a mixture of success and fallback, and its draws are that mixture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.ladder import draws
from policies.leadtime import LeadTime

SECONDS = st.floats(0, 1000)
QUANTILES = st.lists(SECONDS, min_size=1, max_size=6).map(lambda s: tuple(sorted(s)))
LEAD_TIMES = st.builds(LeadTime, QUANTILES, st.floats(0, 1), QUANTILES)
RESTORE = LeadTime((1.0, 3.0), failure_probability=0.25, after_failure_s=(40.0, 60.0))


def test_mean_is_the_attempt_plus_the_fallback_of_the_share_that_fails() -> None:
    """2 s for the attempt, and a quarter of the time 50 s more."""
    assert RESTORE.mean_s == 2.0 + 0.25 * 50.0


def test_quantiles_of_the_mixture_put_the_fallback_on_top_of_the_attempt() -> None:
    """Three eighths each at 1 and 3 s; a sixteenth each at 41, 43, 61 and 63 s."""
    ends = (0.0, 0.374, 0.376, 0.749, 0.751, 0.82, 0.9, 0.99, 1.0)

    assert [RESTORE.at(p) for p in ends] == [1.0, 1.0, 3.0, 3.0, 41.0, 43.0, 61.0, 63.0, 63.0]


def test_every_attempt_that_fails_ends_with_its_fallback() -> None:
    lead = LeadTime((1.0,), 1.0, (10.0,))

    assert (lead.at(0.0), lead.at(1.0), lead.mean_s) == (11.0, 11.0, 11.0)
    assert list(draws(lead, 4, 0)) == [11.0] * 4


@given(LEAD_TIMES, st.floats(0, 1), st.floats(0, 1))
def test_quantiles_never_fall_as_probability_grows(lead: LeadTime, a: float, b: float) -> None:
    assert lead.at(min(a, b)) <= lead.at(max(a, b))


@given(LEAD_TIMES)
def test_atoms_weigh_one_ascend_and_average_to_the_mean(lead: LeadTime) -> None:
    values_s, weights = lead.atoms()

    assert list(values_s) == sorted(values_s)
    assert weights.sum() == pytest.approx(1.0)
    assert float(values_s @ weights) == pytest.approx(lead.mean_s)


@given(LEAD_TIMES)
def test_quantiles_average_to_the_mean(lead: LeadTime) -> None:
    grid = (np.arange(4000) + 0.5) / 4000
    largest_s = lead.at(1.0)

    assert np.mean([lead.at(p) for p in grid]) == pytest.approx(lead.mean_s, abs=largest_s * 50 / 4000 + 1e-9)


def test_equal_lead_times_are_equal_and_hash_alike() -> None:
    same = LeadTime((1.0, 3.0), 0.25, (40.0, 60.0))

    assert (same, hash(same)) == (RESTORE, hash(RESTORE))
    assert same != LeadTime((1.0, 3.0), 0.5, (40.0, 60.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((),), "quantiles_s: .* empty; give"),
        (((2.0, 1.0),), "quantiles_s: 1.0 follows 2.0; give"),
        (((-1.0,),), "quantiles_s: -1.0 .* give"),
        (((float("nan"),),), "quantiles_s: nan .* give"),
        (((float("inf"),),), "quantiles_s: inf .* give"),
        (((1.0,), 1.5, (1.0,)), "failure_probability: 1.5 .* give"),
        (((1.0,), float("nan"), (1.0,)), "failure_probability: nan .* give"),
        (((1.0,), 0.1), "after_failure_s: .* empty .* give"),
        (((1.0,), 0.1, (5.0, 4.0)), "after_failure_s: 4.0 follows 5.0; give"),
    ],
)
def test_refuses_what_is_no_distribution_by_field_value_and_hint(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LeadTime(*arguments)  # type: ignore[arg-type]  # what a caller might get wrong


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
def test_refuses_a_quantile_of_no_probability(probability: float) -> None:
    with pytest.raises(ValueError, match=r"probability: .* give 0 to 1"):
        RESTORE.at(probability)


def test_draws_repeat_the_quantiles_in_equal_shares() -> None:
    lead = LeadTime((1.0, 2.0, 3.0, 10.0))

    assert sorted(draws(lead, 8, 1)) == [1, 1, 2, 2, 3, 3, 10, 10]


def test_draws_follow_from_the_salt_and_another_salt_gives_another_order() -> None:
    first = draws(RESTORE, 100, 1)
    draws.cache_clear()

    assert list(draws(RESTORE, 100, 1)) == list(first)
    assert list(draws(RESTORE, 100, 2)) != list(first)


def test_draws_are_read_only_because_they_are_shared() -> None:
    with pytest.raises(ValueError, match="read-only"):
        draws(RESTORE, 10, 0)[0] = 1.0


@given(st.floats(0, 1), st.integers(1, 300), st.integers(0, 10_000))
def test_the_share_of_failed_paths_is_the_probability_up_to_rounding(p: float, n_paths: int, salt: int) -> None:
    failed = int((draws(LeadTime((1.0,), p, (100.0,)), n_paths, salt) > 50).sum())

    assert np.floor(p * n_paths) <= failed <= np.ceil(p * n_paths)


def test_rare_failures_are_drawn_on_their_share_of_salts() -> None:
    """One failure in 200 on 50 paths: a quarter of the salts have one failed path, the others none."""
    lead = LeadTime((1.0,), 0.005, (100.0,))
    failed = [int((draws(lead, 50, salt) > 50).sum()) for salt in range(4000)]

    assert set(failed) == {0, 1}
    assert np.mean(failed) == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("n_paths", [1, 7, 50, 400])
def test_the_mean_over_salts_is_the_mean_of_the_mixture(n_paths: int) -> None:
    """Skewed attempts and fallbacks, so that a draw fixed at the midpoint of its stratum would show."""
    lead = LeadTime((1.0, 1.0, 2.0, 20.0), 0.03, (10.0, 20.0, 300.0))
    means = [float(draws(lead, n_paths, salt).mean()) for salt in range(6000)]

    assert np.mean(means) == pytest.approx(lead.mean_s, abs=4 * float(np.std(means)) / np.sqrt(6000) + 1e-9)


@given(LEAD_TIMES, QUANTILES, st.integers(1, 100), st.integers(0, 1000))
def test_the_same_salt_pairs_a_nearer_lead_time_with_a_farther_one(
    near: LeadTime, more_s: tuple[float, ...], n_paths: int, salt: int
) -> None:
    """What takes longer at every rank takes longer on every path."""
    far = LeadTime(tuple(q + more_s[0] for q in near.quantiles_s), near.failure_probability, near.after_failure_s)

    assert (draws(far, n_paths, salt) >= draws(near, n_paths, salt)).all()
