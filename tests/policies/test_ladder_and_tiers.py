"""Which rungs get anything, and how much capacity must be how near."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.ladder import draws, stable_salt, undominated, undominated_supply
from policies.leadtime import LeadTime
from policies.tiers import TierNeed, tier_need, tier_needs
from policies.types import ACTIVE, COLD, PARKED, STAGED, STANDBY, SupplyStep, TierSpec
from tests.policies.makers import SPARE, STEP_ENDS_S, key, ladder, spec, with_parked

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


def test_a_supply_step_that_another_undercuts_is_dominated() -> None:
    """Lent to a job that takes a minute to end is no use where a node comes within half of one and costs less."""
    slow = SupplyStep("lent", LeadTime((60.0,)), 0.2)
    node = SupplyStep("node", LeadTime((30.0,)), 0.0)

    assert undominated_supply((SPARE, slow, node)) == (SPARE, node)


def test_the_first_and_the_last_supply_step_stay() -> None:
    """Free GPUs are what a wake runs on; the last step is what is left when all else is used up."""
    at_hand = SupplyStep("lent", LeadTime((0.0,)), 0.0)
    node = SupplyStep("node", LeadTime((180.0,)), 0.0)

    assert undominated_supply((SPARE, at_hand, node)) == (SPARE, at_hand, node)


def test_salts_are_the_same_in_every_process() -> None:
    """CRC-32 of the name, not Python's own hash, which is salted per process."""
    assert stable_salt("123456789") == 0xCBF43926


def test_draws_repeat_the_distribution_exactly_and_depend_on_the_salt_alone() -> None:
    lead = LeadTime((1.0, 2.0, 3.0, 10.0))

    assert sorted(draws(lead, 8, 1)) == [1, 1, 2, 2, 3, 3, 10, 10]
    assert list(draws(lead, 8, 1)) == list(draws(lead, 8, 1))
    assert list(draws(lead, 100, 1)) != list(draws(lead, 100, 2))


def rising(n_paths: int = 100) -> np.ndarray:
    """Required capacity that grows by one a step, from 10, on every path; the last ones more."""
    base = np.arange(10.0, 10.0 + len(STEP_ENDS_S))
    return np.array([base + (5.0 if k >= 90 else 0.0) for k in range(n_paths)])


def test_active_covers_the_demand_that_the_nearest_wake_cannot_reach_in_time() -> None:
    """Wake 1 s + tick 2 s: the step that ends at 4 s requires 12, on a tenth of the paths 17; the
    ratio 20/(20+1) = 0.952 is past the 90% that 12 would cover."""
    need = tier_need(spec(), rising(), STEP_ENDS_S, 2.0, snapshot_near=True)

    assert (need.active, need.warm, need.wake.name, need.cover_s) == (17, {}, STAGED, 3.0)


def test_without_a_snapshot_near_a_gpu_active_must_last_until_a_cold_start() -> None:
    need = tier_need(spec(), rising(), STEP_ENDS_S, 2.0, snapshot_near=False)

    assert (need.active, need.wake.name) == (20, COLD)


def test_cheap_misses_lower_the_quantile() -> None:
    """At 0.2 GPU-seconds a miss the ratio is 4/5: the upper tenth of paths is left uncovered."""
    need = tier_need(spec(miss_cost=0.2), rising(), STEP_ENDS_S, 2.0, snapshot_near=True)

    assert need.ratio == pytest.approx(0.8)
    assert need.active == 12


def test_parked_replicas_are_held_where_they_save_dearer_active_ones() -> None:
    """Unpark ends within the 2 s step, staged within the 4 s one: one active replica less to hold."""
    need = tier_need(spec(rungs=with_parked()), rising(), STEP_ENDS_S, 2.0, snapshot_near=True)

    assert (need.active, need.warm, need.wake.name) == (16, {PARKED: 1}, PARKED)


def test_parked_replicas_that_cost_as_much_as_active_ones_get_nothing() -> None:
    assert tier_need(spec(rungs=with_parked(cost=1.0)), rising(), STEP_ENDS_S, 2.0, snapshot_near=True).warm == {}


def test_sustained_load_is_carried_whatever_the_wake() -> None:
    need = tier_need(spec(), rising(), STEP_ENDS_S, 2.0, snapshot_near=True, sustained=30.2)

    assert need.active == 31


def test_each_rung_holds_what_the_next_farther_one_could_not_bring_in_time() -> None:
    """Standby serves with the 2 s step (16 replicas), parked with the 4 s one (17), staged with the 8 s one (18)."""
    rungs = (
        ladder()[0],
        TierSpec(STANDBY, LeadTime((0.0,)), 0.5, 0.5),
        TierSpec(PARKED, LeadTime((1.0,)), 0.05, 0.05),
        *ladder(wake_s=4.0)[1:],
    )

    need = tier_need(spec(rungs=rungs), rising(), STEP_ENDS_S, 2.0, snapshot_near=True)

    assert (need.active, need.warm, need.wake.name) == (16, {PARKED: 1, STANDBY: 1}, STANDBY)


def test_without_a_snapshot_parked_replicas_save_active_ones_until_a_cold_start() -> None:
    """A parked replica needs no snapshot: its process is there."""
    need = tier_need(spec(rungs=with_parked()), rising(), STEP_ENDS_S, 2.0, snapshot_near=False)

    assert (need.active, need.warm, need.wake.name) == (16, {PARKED: 4}, PARKED)


levels = st.lists(st.floats(0.0, 40.0), min_size=1, max_size=6)


@given(levels, st.booleans())
def test_a_batch_needs_what_each_target_alone_does_whatever_the_order(base: list[float], near: bool) -> None:
    """Draws hang on the key alone, so no target's need depends on its position or its neighbours."""
    spread = LeadTime((0.5, 1.0, 3.0, 20.0))
    rungs = (ladder()[0], TierSpec(STAGED, spread, 0.0, 0.001, needs_snapshot=True), ladder()[-1])
    targets = tuple(spec(f"t{i}", miss_cost=0.2 + i, rungs=rungs) for i in range(len(base)))
    required = np.array([rising() + level for level in base])
    sustained = {t.key: 5.0 * i for i, t in enumerate(targets)}
    keys = {t.key for t in targets} if near else set()

    needs = tier_needs(targets, required, STEP_ENDS_S, 2.0, keys, sustained)
    turned = tier_needs(targets[::-1], required[::-1], STEP_ENDS_S, 2.0, keys, sustained)

    alone = {t.key: tier_need(t, required[i], STEP_ENDS_S, 2.0, near, sustained[t.key]) for i, t in enumerate(targets)}
    assert needs == turned == alone


@given(levels, st.floats(0.0, 10.0))
def test_more_required_never_needs_fewer_replicas(base: list[float], more: float) -> None:
    """Active and warm together, whatever the rungs between."""

    def held(need: TierNeed) -> int:
        return need.active + sum(need.warm.values())

    for level in base:
        less = tier_need(spec(rungs=with_parked()), rising() + level, STEP_ENDS_S, 2.0, snapshot_near=True)
        most = tier_need(spec(rungs=with_parked()), rising() + level + more, STEP_ENDS_S, 2.0, snapshot_near=True)

        assert held(most) >= held(less)
        assert most.active >= less.active


def test_no_targets_need_nothing() -> None:
    assert tier_needs((), np.zeros((0, 10, 6)), STEP_ENDS_S, 2.0, set(), {}) == {}


def test_sustained_load_that_is_left_out_counts_as_none() -> None:
    needs = tier_needs((spec(),), rising()[None], STEP_ENDS_S, 2.0, {key()}, {})

    assert needs[key()].active == 17
