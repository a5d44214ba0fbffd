"""How sure to be, and when to let go."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.hold import held_units, worth_holding
from policies.newsvendor import critical_ratio, shortage_cost_per_s, upper_quantile, whole_replicas
from tests.policies.worlds import target

ENDS = np.array([10.0, 20.0, 40.0])


def test_the_critical_ratio_weighs_a_miss_against_holding() -> None:
    """Newspapers that lose 19 when missing and 1 when left over are stocked to the 95% quantile."""
    assert critical_ratio(19.0, 1.0) == pytest.approx(0.95)


def test_a_free_tier_is_filled_to_the_top() -> None:
    assert critical_ratio(1.0, 0.0) == 1.0


def test_a_replica_short_costs_the_requests_it_would_have_served() -> None:
    assert shortage_cost_per_s(target(miss_cost=3.0)) == 60.0


@given(st.lists(st.floats(0, 100), min_size=1, max_size=200), st.floats(0.001, 1.0))
def test_the_quantile_is_a_sample_that_covers_its_share(samples: list[float], ratio: float) -> None:
    level = upper_quantile(np.array(samples), ratio)

    assert level in samples
    assert sum(s <= level for s in samples) >= ratio * len(samples) - 1e-9


def test_whole_replicas_forgive_rounding_but_not_need() -> None:
    assert [whole_replicas(x) for x in (0.0, 1.0, 1.0 + 1e-12, 1.01)] == [0, 1, 1, 2]


def test_a_unit_that_no_path_needs_again_is_released() -> None:
    nobody = np.zeros((100, 3))

    assert not worth_holding(nobody, ENDS, 1, holding_cost_per_s=1.0, return_cost=1000.0)


def test_a_unit_needed_soon_is_cheaper_to_keep_than_to_bring_back() -> None:
    """Needed within the first 10 s on every path: about 5 s of holding against 6 to bring it back."""
    everybody = np.full((100, 3), 5.0)

    assert worth_holding(everybody, ENDS, 5, holding_cost_per_s=1.0, return_cost=6.0)
    assert not worth_holding(everybody, ENDS, 5, holding_cost_per_s=1.0, return_cost=4.0)


def test_expected_holding_time_is_weighed_with_the_chance_of_need() -> None:
    """Half the paths need it in (10, 20]: hold 0.5*15 + 0.5*40 = 27.5 s against half a return."""
    need = np.zeros((100, 3))
    need[:50, 1:] = 1.0

    assert worth_holding(need, ENDS, 1, 1.0, return_cost=56.0)
    assert not worth_holding(need, ENDS, 1, 1.0, return_cost=54.0)


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
    while level < have and worth_holding(paths, ENDS, level + 1, 1.0, return_cost):
        level += 1

    assert held_units(paths, ENDS, floor, have, 1.0, return_cost) == level


@given(needs, st.floats(0.1, 200.0), st.floats(0.0, 100.0))
def test_a_dearer_return_never_releases_more(need: list[list[int]], cost: float, dearer: float) -> None:
    paths = np.array(need, dtype=float)

    assert held_units(paths, ENDS, 0, 20, 1.0, cost + dearer) >= held_units(paths, ENDS, 0, 20, 1.0, cost)
