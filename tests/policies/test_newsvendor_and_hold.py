"""How sure to be, and when to let go."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.hold import held_counts, held_units, worth_holding
from policies.newsvendor import (
    critical_ratio,
    least_short_share,
    shortage_cost_per_s,
    upper_quantiles,
    whole_replicas,
)
from tests.policies.makers import spec

ENDS = np.array([10.0, 20.0, 40.0])


def test_the_critical_ratio_weighs_a_miss_against_holding() -> None:
    """Newspapers that lose 19 when missing and 1 when left over are stocked to the 95% quantile."""
    assert critical_ratio(19.0, 1.0) == pytest.approx(0.95)


def test_a_free_tier_is_filled_to_the_top() -> None:
    assert critical_ratio(1.0, 0.0) == 1.0


def test_a_replica_short_costs_the_requests_it_would_have_served() -> None:
    assert shortage_cost_per_s(spec(miss_cost=3.0)) == 60.0


@given(st.lists(st.floats(0, 100), min_size=1, max_size=200), st.lists(st.floats(0.0, 1.0), min_size=1, max_size=3))
def test_each_quantile_is_the_least_sample_that_covers_its_share(samples: list[float], ratios: list[float]) -> None:
    levels = upper_quantiles(np.array([samples] * len(ratios)), np.array(ratios))

    for level, ratio in zip(levels, ratios, strict=True):
        assert level in samples
        assert sum(s <= level for s in samples) >= ratio * len(samples) - 1e-9
        assert not any(r < level and sum(s <= r for s in samples) >= ratio * len(samples) for r in samples)


shares = st.lists(st.tuples(st.integers(0, 30), st.floats(0.0, 5.0)), min_size=1, max_size=40)


@given(shares, st.floats(0.0, 1.0))
def test_the_fewest_units_that_are_short_for_no_more_than_their_share(
    need: list[tuple[int, float]], ratio: float
) -> None:
    """As counting finds it, up to the rounding of the sums of weights."""
    allowed = (1.0 - ratio) * sum(w for _, w in need)

    def short(units: int) -> float:
        return sum(w for n, w in need if n > units)

    units = least_short_share(np.array([float(n) for n, _ in need]), np.array([w for _, w in need]), ratio)

    assert short(units) <= allowed + 1e-9
    assert units == 0 or short(units - 1) > allowed - 1e-9


def test_units_that_cost_nothing_to_hold_are_as_many_as_are_ever_needed_and_no_more() -> None:
    assert least_short_share(np.array([0.0, 7.0, 3.0]), np.array([1.0, 0.001, 1.0]), 1.0) == 7
    assert least_short_share(np.array([0.0, 7.0, 3.0]), np.array([1.0, 0.0, 1.0]), 1.0) == 3


def test_whole_replicas_forgive_rounding_but_not_need() -> None:
    assert [whole_replicas(x) for x in (-3.0, 0.0, 1.0, 1000.0 * (1 + 1e-7), 1.01)] == [0, 0, 1, 1000, 2]


def worth(need: np.ndarray, level: int, holding_cost_per_s: float, return_cost: float) -> bool:
    """Ask for one target whose need is (paths, steps)."""
    costs = (np.array([holding_cost_per_s]), np.array([return_cost]))
    return bool(worth_holding(need.T[None], ENDS, np.array([level]), *costs)[0])


def test_a_unit_that_no_path_needs_again_is_released() -> None:
    assert not worth(np.zeros((100, 3)), 1, holding_cost_per_s=1.0, return_cost=1000.0)


def test_a_unit_needed_soon_is_cheaper_to_keep_than_to_bring_back() -> None:
    """Needed within the first 10 s on every path: about 5 s of holding against 6 to bring it back."""
    everywhere = np.full((100, 3), 5.0)

    assert worth(everywhere, 5, holding_cost_per_s=1.0, return_cost=6.0)
    assert not worth(everywhere, 5, holding_cost_per_s=1.0, return_cost=4.0)


def test_expected_holding_time_is_weighed_with_the_chance_of_need() -> None:
    """Half the paths need it in (10, 20]: hold 0.5*15 + 0.5*40 = 27.5 s against half a return."""
    need = np.zeros((100, 3))
    need[:50, 1:] = 1.0

    assert worth(need, 1, 1.0, return_cost=56.0)
    assert not worth(need, 1, 1.0, return_cost=54.0)


def test_a_unit_that_costs_nothing_to_hold_is_kept_for_as_long_as_it_may_be_needed() -> None:
    """And no longer: holdings are never more than some path needs, nor more than there are."""
    need = np.array([[0.0, 0.0, 4.0], [0.0, 0.0, 1.0]])

    assert held_units(need, ENDS, 0, 100, holding_cost_per_s=0.0, return_cost=1.0) == 4
    assert held_units(need, ENDS, 0, 2, holding_cost_per_s=0.0, return_cost=1.0) == 2


needs = st.lists(
    st.lists(st.integers(0, 20), min_size=3, max_size=3).map(lambda row: list(np.maximum.accumulate(row))),
    min_size=1,
    max_size=30,
)


@given(needs, st.integers(0, 10), st.integers(0, 20), st.floats(0.1, 200.0))
def test_bisection_finds_what_trying_every_level_finds(
    need: list[list[int]], floor: int, more: int, return_cost: float
) -> None:
    paths = np.array(need, dtype=float)
    have = floor + more
    level = floor
    while level < have and worth(paths, level + 1, 1.0, return_cost):
        level += 1

    assert held_units(paths, ENDS, floor, have, 1.0, return_cost) == level


@given(needs, st.floats(0.1, 200.0), st.floats(0.0, 100.0))
def test_a_dearer_return_never_releases_more(need: list[list[int]], cost: float, dearer: float) -> None:
    paths = np.array(need, dtype=float)

    assert held_units(paths, ENDS, 0, 20, 1.0, cost + dearer) >= held_units(paths, ENDS, 0, 20, 1.0, cost)


@given(st.lists(st.tuples(needs, st.integers(0, 6), st.integers(0, 12), st.floats(0.1, 200.0)), min_size=1, max_size=5))
def test_a_batch_holds_what_each_target_alone_would(targets: list[tuple[list[list[int]], int, int, float]]) -> None:
    """Paths are cut to the fewest, since a batch has as many for every target."""
    n_paths = min(len(need) for need, *_ in targets)
    paths = np.array([need[:n_paths] for need, *_ in targets], dtype=float)
    floors, mores, costs = (np.array([t[i] for t in targets]) for i in (1, 2, 3))

    held = held_counts(paths, ENDS, floors, floors + mores, np.ones(len(targets)), costs)

    alone = [held_units(p, ENDS, f, f + m, 1.0, c) for p, f, m, c in zip(paths, floors, mores, costs, strict=True)]
    assert held.tolist() == alone
