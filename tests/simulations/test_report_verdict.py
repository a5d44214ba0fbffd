"""The numbers derived from a comparison, and the sentences made of them: wins, losses and mixed cases."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.report import derived
from simulations.report.verdict import BAD, GOOD, MIXED, PLAIN, outcome, verdict
from simulations.report.wording import attained, change, number, percent, seconds
from simulations.results import Comparison, PoolingGain
from tests.simulations.report_fixture import comparison, with_row

REQUESTS = comparison().rows[0].requests
ALLOWED = int(REQUESTS * 0.001)
"""Misses that the SLO of 99.9% forgives."""

gpu_hours = st.floats(1.0, 5000.0)
misses = st.integers(0, REQUESTS)


def answer(given_: Comparison, topic: str) -> tuple[str, str]:
    (sentence,) = (s for s in verdict(given_) if s.topic == topic)
    return sentence.tone, sentence.text


def against_kpa(our_gpu_hours: float, our_misses: int, their_gpu_hours: float, their_misses: int) -> Comparison:
    """Ours and one restored baseline, whatever the others are."""
    rows = tuple(r for r in comparison().rows if r.row in ("kpa (restored)", "forethaw") or r.bound)
    alone = replace(comparison(), rows=rows)
    return with_row(
        with_row(alone, "forethaw", our_gpu_hours, our_misses),
        "kpa (restored)",
        their_gpu_hours,
        their_misses,
    )


def test_a_win_on_both_counts_is_said_with_its_numbers() -> None:
    """900 GPU-hours against 1,000 and 50 misses against 200: better in everything."""
    tone, text = answer(against_kpa(900.0, 50, 1000.0, 200), "policy")

    assert tone == GOOD
    assert "against kpa (restored), the only baseline that starts from snapshots" in text
    assert "holds 10% fewer GPU-hours (900 against 1,000)" in text
    assert "misses 75% fewer requests (50 against 200)" in text
    assert "loses" not in text


def test_a_loss_is_said_as_plainly_as_a_win() -> None:
    tone, text = answer(against_kpa(1100.0, 400, 1000.0, 200), "policy")

    assert tone == BAD
    assert "holds 10% more GPU-hours (1,100 against 1,000)" in text
    assert "misses 2.0 times as many requests (400 against 200)" in text
    assert "On these terms forethaw loses." in text


def test_fewer_gpu_hours_for_more_misses_is_mixed_even_if_it_is_cheaper() -> None:
    tone, text = answer(against_kpa(800.0, 300, 1000.0, 200), "policy")

    assert tone == MIXED
    assert "It wins on cost, but not on both counts." in text


def test_being_cheaper_does_not_win_against_a_row_that_meets_the_slo() -> None:
    """Half the GPU-hours, but more misses than the SLO forgives, against a row that is within it."""
    tone, text = answer(against_kpa(500.0, ALLOWED + 1, 1000.0, ALLOWED), "policy")

    assert tone == BAD
    assert "But forethaw misses the SLO that kpa (restored) meets: it loses this comparison." in text
    assert answer(against_kpa(500.0, ALLOWED + 1, 1000.0, ALLOWED), "slo")[0] == BAD


def test_paying_more_for_the_slo_that_the_other_misses_is_mixed() -> None:
    tone, text = answer(against_kpa(2000.0, ALLOWED, 1000.0, ALLOWED + 1), "policy")

    assert tone == MIXED
    assert "But kpa (restored) misses the SLO, and forethaw meets it." in text


def test_costs_within_half_a_percent_are_a_tie() -> None:
    tone, text = answer(against_kpa(1001.0, 200, 1000.0, 200), "policy")

    assert tone == PLAIN
    assert "cost the same to within half a percent" in text
    assert "Too close to call." in text


def test_the_baseline_to_beat_starts_alike_and_meets_the_slo_before_it_is_cheap() -> None:
    """The cheapest restored row misses the SLO, the cheapest row of all starts cold: neither is chosen."""
    given_ = with_row(comparison(), "kpa (cold)", 10.0, 0)
    given_ = with_row(given_, "kpa (restored)", 20.0, ALLOWED + 1)
    given_ = with_row(given_, "hpa (restored)", 30.0, ALLOWED)

    best = derived.best_baseline(given_)

    assert best is not None
    assert best.row == "hpa (restored)"


def test_a_baseline_that_only_ran_cold_is_said_to_differ_in_its_starts_too() -> None:
    """Without a restored baseline the gap is not the policy's alone."""
    kept = ("kpa (cold)", "forethaw")
    given_ = replace(comparison(), rows=tuple(r for r in comparison().rows if r.row in kept))

    _, text = answer(given_, "policy")

    assert "against kpa (cold), the only baseline that starts cold" in text
    assert "forethaw does not start cold: the gap holds that too." in text


def test_where_no_baseline_meets_the_slo_the_cheapest_stands_for_them() -> None:
    given_ = comparison()
    for i, run in enumerate(derived.baselines(given_)):
        given_ = with_row(given_, run.row, 100.0 + i, ALLOWED + 1)

    _, text = answer(given_, "policy")

    assert "the cheapest of the 4 baselines that start from snapshots, none of which meets the SLO" in text


def test_restores_are_judged_on_rows_that_differ_in_nothing_else() -> None:
    pairs = derived.restore_pairs(comparison())

    assert [(c.row, r.row) for c, r in pairs] == [
        ("hpa (cold)", "hpa (restored)"),
        ("kpa (cold)", "kpa (restored)"),
    ]


def test_restores_that_do_not_pay_are_said_not_to() -> None:
    given_ = with_row(with_row(comparison(), "hpa (cold)", 1000.0, 10), "hpa (restored)", 1500.0, 20)

    tone, text = answer(given_, "restore")

    assert tone == BAD
    assert "hpa holds 50% more GPU-hours (1,500 against 1,000)" in text
    assert "Here restores did not pay." in text


def test_a_bound_that_we_undercut_is_not_called_a_floor() -> None:
    """The informed bound can be unlucky; a clairvoyant one that we beat is a loose one."""
    given_ = with_row(comparison(), "forethaw", 100.0, 0)
    given_ = with_row(with_row(given_, "informed", 125.0, 0), "clairvoyant", 200.0, 0)

    _, text = answer(given_, "bounds")

    assert "20% less than the informed bound" in text
    assert "no floor for a single draw of arrivals" in text
    assert "50% less than the clairvoyant one" in text
    assert "do not read it as a floor" in text


def test_the_distance_to_the_bounds_is_a_percentage_of_the_bound() -> None:
    given_ = with_row(comparison(), "forethaw", 150.0, 0)
    given_ = with_row(with_row(given_, "informed", 120.0, 0), "clairvoyant", 50.0, 0)

    _, text = answer(given_, "bounds")

    assert "costs 25% more than the informed bound" in text
    assert "3.0 times as much as the clairvoyant one" in text
    assert "floor" not in text


@pytest.mark.parametrize(
    ("gain", "tone"),
    [
        (PoolingGain(9.0, 14.0, 90.0, 100.0, 5, 5), GOOD),
        (PoolingGain(9.0, 14.0, 90.0, 100.0, 9, 5), MIXED),
        (PoolingGain(14.0, 9.0, 110.0, 100.0, 9, 5), BAD),
        (PoolingGain(9.0, 9.0, 100.0, 100.0, 5, 5), PLAIN),
    ],
)
def test_pooling_is_judged_on_gpu_hours_and_misses_together(gain: PoolingGain, tone: str) -> None:
    assert answer(replace(comparison(), pooling=gain), "pooling")[0] == tone


def test_questions_that_the_rows_cannot_answer_get_no_sentence() -> None:
    """Without bounds, pairs, pooling or a row of ours there is nothing to say of them."""
    only_kpa = replace(comparison(), rows=comparison().rows[4:5], pooling=None)

    assert verdict(only_kpa) == ()


@settings(max_examples=60, deadline=None)
@given(gpu_hours, misses, gpu_hours, misses)
def test_no_pair_of_rows_both_wins_and_loses(a_hours: float, a_misses: int, b_hours: float, b_misses: int) -> None:
    """If one side wins outright, the other side has lost, or at best bought something; never won too."""
    given_ = against_kpa(a_hours, a_misses, b_hours, b_misses)
    us, them = given_.row("forethaw"), given_.row("kpa (restored)")

    assert {outcome(given_, us, them), outcome(given_, them, us)} != {GOOD}
    if outcome(given_, us, them) == GOOD:
        assert outcome(given_, them, us) == BAD


@settings(max_examples=60, deadline=None)
@given(gpu_hours, misses, gpu_hours, misses, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_holding_less_and_missing_less_never_makes_the_verdict_worse(
    hours: float, missed: int, their_hours: float, their_missed: int, less_held: float, less_missed: float
) -> None:
    """A row that already beats the other on both counts still does after an improvement."""
    before = against_kpa(hours, missed, their_hours, their_missed)
    after = with_row(before, "forethaw", hours * less_held, int(missed * less_missed))
    judged = [outcome(c, c.row("forethaw"), c.row("kpa (restored)")) for c in (before, after)]

    if judged[0] == GOOD:
        assert judged[1] == GOOD
    if judged[0] != BAD:
        assert judged[1] != BAD


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=9, max_size=9))
def test_the_pareto_front_is_what_nothing_dominates(places: list[tuple[int, int]]) -> None:
    given_ = comparison(targets=1, buckets=12)
    for run, (hours, missed) in zip(given_.rows, places, strict=True):
        given_ = with_row(given_, run.row, float(hours), missed)

    front = derived.pareto_front(given_.rows)

    names = {r.row for r in front}
    assert names
    for run in given_.rows:
        assert (run.row in names) != any(derived.dominates(other, run) for other in given_.rows)


@settings(deadline=None)
@given(st.integers(0, 10**7), st.floats(0.5, 0.99999))
def test_meeting_the_slo_is_monotone_in_misses_and_exact_at_the_edge(requests: int, share: float) -> None:
    """One miss more never turns a no into a yes; the allowance itself is still a yes."""
    allowed = math.floor((1.0 - share) * requests + 1e-6)

    assert derived.meets(max(allowed - 1, 0), requests, share)
    assert not derived.meets(allowed + 1 + requests // 10**6, requests, share)
    assert derived.meets(10, 10_000, 0.999)


def test_regret_is_measured_from_the_bound_and_unknown_without_it() -> None:
    given_ = with_row(with_row(comparison(), "forethaw", 3.0, 0), "informed", 2.0, 0)
    without = replace(given_, rows=tuple(r for r in given_.rows if r.bound != "informed"))

    assert derived.regret_gpu_s(given_, given_.row("forethaw"), "informed") == 3600.0
    assert derived.regret_gpu_s(without, without.row("forethaw"), "informed") is None


def test_numbers_are_written_short_and_never_rounded_into_a_lie() -> None:
    """Shares near one are rounded down, what is left of something is never nothing."""
    assert [number(v) for v in (1234.5, 99.96, 12.34, 0.5, 0.0, math.nan)] == [
        "1,234",
        "100",
        "12.3",
        "0.50",
        "0.00",
        "-",
    ]
    assert [seconds(v) for v in (0.0421, 1.234, 61.2, 400.0)] == ["0.042", "1.23", "61.2", "400"]
    assert [percent(v) for v in (0.00123, 0.5, 1e-7, 0.0)] == ["0.123%", "50.0%", "<0.001%", "0%"]
    assert attained(1 - 1e-9) == "99.999%"
    assert change(1, 10**6, "fewer", "more", "as many") == "99.9% fewer"
    assert change(5, 0, "fewer", "more", "as many") == "more"
    assert change(7, 7, "fewer", "more", "as many") == "as many"
