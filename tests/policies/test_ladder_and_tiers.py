"""Which rungs get anything, and how much capacity must be how near."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.ladder import undominated
from policies.leadtime import LeadTime
from policies.tiers import tier_need
from policies.types import ACTIVE, COLD, PARKED, STAGED, STANDBY, TierSpec
from tests.policies.worlds import STEP_ENDS_S, ladder, target

ONE_S = LeadTime((1.0,))


def names(tiers: tuple[TierSpec, ...]) -> list[str]:
    return [t.name for t in tiers]


def test_standby_that_costs_as_much_as_active_is_dominated() -> None:
    standby = TierSpec(STANDBY, LeadTime((0.1,)), 1.0, 1.0)
    rungs = (ladder(1)[0], standby, *ladder(1)[1:])

    assert names(undominated(rungs)) == [ACTIVE, STAGED, "remote", COLD]


def test_a_snapshot_slower_than_a_cold_start_is_dominated() -> None:
    """Small models may start cold faster than a far snapshot can be fetched."""
    rungs = ladder(1, wake_s=1.0, cold_s=15.0)

    assert names(undominated(rungs)) == [ACTIVE, STAGED, COLD]


def test_of_two_alike_the_first_named_stays() -> None:
    first, second = TierSpec("x", ONE_S, 0.0, 0.1), TierSpec("y", ONE_S, 0.0, 0.1)

    assert names(undominated((ladder(1)[0], first, second, ladder(1)[-1]))) == [ACTIVE, "x", COLD]


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 10)), min_size=1, max_size=6))
def test_what_is_left_gets_cheaper_the_farther_it_is(rungs: list[tuple[float, float]]) -> None:
    tiers = tuple(TierSpec(f"t{i}", LeadTime((lead,)), 0.0, cost) for i, (lead, cost) in enumerate(rungs))
    left = undominated((TierSpec(ACTIVE, LeadTime((0.0,)), 1.0, 100.0), *tiers))[1:]
    costs = [t.holding_cost for t in left]

    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) == len(costs)


def rising(n_paths: int = 100) -> np.ndarray:
    """Required capacity that grows by one a step, from 10, on every path; the last ones more."""
    base = np.arange(10.0, 10.0 + len(STEP_ENDS_S))
    return np.array([base + (5.0 if k >= 90 else 0.0) for k in range(n_paths)])


def test_active_covers_the_demand_that_the_nearest_wake_cannot_reach_in_time() -> None:
    """Wake 1 s + tick 2 s: the step that ends at 4 s requires 12, on a tenth of the paths 17; the
    ratio 20/(20+1) = 0.952 is past the 90% that 12 would cover."""
    need = tier_need(target(), rising(), STEP_ENDS_S, 2.0, snapshot_near=True, salt=0)

    assert (need.active, need.warm, need.wake.name, need.cover_s) == (17, {}, STAGED, 3.0)


def test_without_a_snapshot_near_a_gpu_active_must_last_until_a_cold_start() -> None:
    need = tier_need(target(), rising(), STEP_ENDS_S, 2.0, snapshot_near=False, salt=0)

    assert (need.active, need.wake.name) == (20, COLD)


def test_cheap_misses_lower_the_quantile() -> None:
    """At 0.2 GPU-seconds a miss the ratio is 4/5: the upper tenth of paths is left uncovered."""
    need = tier_need(target(miss_cost=0.2), rising(), STEP_ENDS_S, 2.0, snapshot_near=True, salt=0)

    assert need.ratio == pytest.approx(0.8)
    assert need.active == 12


def test_parked_replicas_are_held_where_they_save_dearer_active_ones() -> None:
    """Unpark ends within the 2 s step, staged within the 4 s one: one active replica less to hold."""
    parked = TierSpec(PARKED, LeadTime((0.0,)), 0.05, 0.05)
    spec = replace(target(), ladder=(ladder(1)[0], parked, *ladder(1)[1:]))

    need = tier_need(spec, rising(), STEP_ENDS_S, 2.0, snapshot_near=True, salt=0)

    assert (need.active, need.warm, need.wake.name) == (16, {PARKED: 1}, PARKED)


def test_parked_replicas_that_cost_as_much_as_active_ones_get_nothing() -> None:
    parked = TierSpec(PARKED, LeadTime((0.0,)), 0.05, 1.0)
    spec = replace(target(), ladder=(ladder(1)[0], parked, *ladder(1)[1:]))

    assert tier_need(spec, rising(), STEP_ENDS_S, 2.0, snapshot_near=True, salt=0).warm == {}


def test_sustained_load_is_carried_whatever_the_wake() -> None:
    need = tier_need(target(), rising(), STEP_ENDS_S, 2.0, snapshot_near=True, salt=0, sustained=30.2)

    assert need.active == 31
