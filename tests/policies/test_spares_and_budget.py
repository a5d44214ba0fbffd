"""Spares pooled over targets, and who goes short when the GPUs do not suffice."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from policies.budget import share_gpus
from policies.leadtime import LeadTime
from policies.spares import excess_gpus, spare_need, spares_apart, supply_lead_s
from policies.types import SupplyStep
from tests.policies.worlds import STEP_ENDS_S, target

LENT = SupplyStep("lent", LeadTime((8.0,)), 0.0, taking_cost=10.0)
LEAD_S = supply_lead_s(LENT, 1.0, 2.0, 100, salt=0)


def excess(*per_target: np.ndarray) -> np.ndarray:
    return np.array(per_target)


def surge(paths: range, gpus: float) -> np.ndarray:
    """(100 paths, steps): `gpus` required above active on the given paths, from the 8 s step on."""
    out = np.zeros((100, len(STEP_ENDS_S)))
    out[paths.start : paths.stop, 3:] = gpus
    return out


def test_targets_that_do_not_surge_together_share_one_reserve() -> None:
    """Each surges by 10 GPUs on its own tenth of the paths: 10 spares serve both, apart it takes 20."""
    targets = (target("a"), target("b"))
    apart = excess(surge(range(0, 10), 10.0), surge(range(50, 60), 10.0))

    assert spare_need(targets, apart, STEP_ENDS_S, LEAD_S, LENT, have=0).gpus == 10
    assert spares_apart(targets, apart, STEP_ENDS_S, LEAD_S) == 20


def test_targets_that_surge_together_are_counted_together() -> None:
    targets = (target("a"), target("b"))
    together = excess(surge(range(0, 10), 10.0), surge(range(0, 10), 10.0))

    assert spare_need(targets, together, STEP_ENDS_S, LEAD_S, LENT, have=0).gpus == 20


def test_a_surge_that_the_next_supply_reaches_in_time_needs_no_spare() -> None:
    """Lent GPUs serve within 11 s; what is required only later waits for them."""
    late = np.zeros((100, len(STEP_ENDS_S)))
    late[:, -1] = 10.0

    assert spare_need((target(),), excess(late), STEP_ENDS_S, LEAD_S, LENT, have=0).gpus == 0


def test_spares_are_not_lent_while_taking_them_back_costs_more() -> None:
    """Half the paths need the GPU in (16, 32]: worth 0.5 x 10 GPU-seconds, holding costs far more."""
    need = np.zeros((100, len(STEP_ENDS_S)))
    need[:, 2:] = 3.0

    kept = spare_need((target(),), excess(need), STEP_ENDS_S, LEAD_S, LENT, have=9)

    assert (kept.gpus, kept.held) == (3, 3)


def test_excess_counts_whole_replicas_of_several_gpus() -> None:
    required = np.full((1, 1, 1), 5.2)

    assert excess_gpus(required, np.array([3.0]), np.array([4.0])).item() == 12.0


levels = st.lists(st.integers(0, 12), min_size=2, max_size=2)


@given(levels, levels, st.integers(0, 40), st.integers(0, 10))
def test_a_budget_is_kept_minimums_first_and_a_larger_one_takes_nothing_away(
    wanted: list[int], sizes: list[int], budget: int, more: int
) -> None:
    targets = tuple(target(n, gpus=g % 4 + 1, least=1) for n, g in zip("ab", sizes, strict=True))
    required = tuple(np.arange(50.0) % 13 for _ in targets)
    wants = tuple(max(w, 1) for w in wanted)

    cut = share_gpus(targets, wants, required, budget)
    wider = share_gpus(targets, wants, required, budget + more)

    assert sum(c * t.gpus_per_replica for c, t in zip(cut, targets, strict=True)) <= budget
    assert all(c <= w for c, w in zip(cut, wants, strict=True))
    if budget >= sum(t.gpus_per_replica for t in targets):
        assert all(c >= 1 for c in cut)
        assert all(b >= a for a, b in zip(cut, wider, strict=True))


def test_under_shortage_gpus_go_where_a_miss_costs_most() -> None:
    """Both want 10 of 12 GPUs; b's misses cost ten times as much, so b gets its ten."""
    targets = (target("a"), target("b", miss_cost=10.0))
    required = (np.full(50, 10.0), np.full(50, 10.0))

    assert share_gpus(targets, (10, 10), required, 12) == (2, 10)


def test_equal_targets_go_short_in_turn() -> None:
    required = (np.full(50, 10.0), np.full(50, 10.0))

    assert share_gpus((target("a"), target("b")), (10, 10), required, 11) in {(6, 5), (10, 1)}
