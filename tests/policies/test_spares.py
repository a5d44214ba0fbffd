"""Spare GPUs: pooled over targets, sized along the supply ladder, counted in whole replicas."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.leadtime import LeadTime
from policies.spares import PoolExcess, SupplyNeed, excess_gpus, supply_needs
from policies.types import SupplyStep, TargetSpec
from tests.policies.makers import SPARE, STEP_ENDS_S, spec

LENT = SupplyStep("lent", LeadTime((8.0,)), 0.0, taking_cost=10.0)
NODE = SupplyStep("node", LeadTime((100.0,)), 0.0, taking_cost=60.0)
DEAR_LENT = SupplyStep("lent", LeadTime((8.0,)), 0.2, taking_cost=10.0)
N_PATHS = 100


def surge(gpus: float, paths: range = range(N_PATHS), from_step: int = 3) -> np.ndarray:
    """(paths, steps): replicas required on the given paths from the given step on (step 3 ends at 8 s)."""
    out = np.zeros((N_PATHS, len(STEP_ENDS_S)))
    out[paths.start : paths.stop, from_step:] = gpus
    return out


def needs(
    targets: tuple[TargetSpec, ...],
    *required: np.ndarray,
    supply: tuple[SupplyStep, ...] = (SPARE, LENT),
    have: dict[str, int] | None = None,
    pooled: bool = True,
) -> tuple[SupplyNeed, ...]:
    """Ask with no replica active, wakes of 1 s and decisions 2 s apart: lent GPUs serve within 11 s."""
    return supply_needs(
        excess_of(targets, required, len(required[0])), STEP_ENDS_S, supply, 3.0, have or {}, pooled=pooled
    )


def excess_of(targets: tuple[TargetSpec, ...], required: Iterable[np.ndarray], n_paths: int = N_PATHS) -> PoolExcess:
    """The GPUs required with no replica active, added a target at a time."""
    excess = PoolExcess(len(STEP_ENDS_S), n_paths, apart=True)
    for target, paths in zip(targets, required, strict=True):
        excess.add((target,), paths[None], np.zeros(1))
    return excess


def test_targets_that_do_not_surge_together_share_one_reserve() -> None:
    """Each surges by 10 GPUs on its own tenth of the paths: 10 spares serve both, apart it takes 20."""
    targets = (spec("a"), spec("b"))
    own = (surge(10.0, range(0, 10)), surge(10.0, range(50, 60)))

    assert needs(targets, *own)[0].gpus == 10
    assert needs(targets, *own, pooled=False)[0].gpus == 20


def test_targets_that_surge_together_are_counted_together() -> None:
    both = surge(10.0, range(0, 10))

    assert needs((spec("a"), spec("b")), both, both)[0].gpus == 20


def test_a_surge_that_the_next_supply_reaches_in_time_needs_no_spare() -> None:
    """Lent GPUs serve within 11 s; what is required only after 16 s waits for them."""
    (need,) = needs((spec(),), surge(10.0, from_step=5))

    assert (need.gpus, need.held, need.cover_s, need.shape) == (0, 0, 11.0, 0)


def test_each_step_covers_with_the_nearer_ones_what_the_next_could_not_bring_in_time() -> None:
    """3 GPUs at once, 10 from 16 s on, before a node that serves after 103 s: what lent GPUs reach is lent."""
    required = np.maximum(surge(3.0, from_step=0), surge(10.0, from_step=5))

    free, lent = needs((spec(),), required, supply=(SPARE, DEAR_LENT, NODE))

    assert [(n.step, n.gpus, n.cover_s) for n in (free, lent)] == [("free", 3, 11.0), ("lent", 7, 103.0)]


def test_a_step_is_as_sure_as_keeping_a_gpu_there_instead_of_at_the_next_is_cheap() -> None:
    """20 GPU-seconds a second short against 1.0 - 0.2 for free over lent, and 0.2 for lent over a node."""
    free, lent = needs((spec(),), surge(10.0), supply=(SPARE, DEAR_LENT, NODE))

    assert [free.ratio, lent.ratio] == pytest.approx([20 / 20.8, 20 / 20.2])


def test_a_step_that_costs_nothing_to_hold_gets_what_any_path_may_need_and_no_more() -> None:
    """Lent for nothing: the one path in a hundred that needs 10 GPUs counts, and a million idle ones change nothing."""
    free, lent = needs((spec(),), surge(10.0, range(0, 1)), supply=(SPARE, LENT, NODE), have={"lent": 1_000_000})

    assert (free.gpus, lent.gpus, lent.held, lent.ratio) == (0, 10, 10, 1.0)


def test_a_dominated_step_gets_nothing_and_the_nearer_one_waits_for_the_next() -> None:
    """A node within 5 s makes lent GPUs pointless that take 8 s and cost more."""
    fast_node = SupplyStep("node", LeadTime((5.0,)), 0.0)

    free, lent = needs((spec(),), surge(4.0), supply=(SPARE, DEAR_LENT, fast_node), have={"lent": 9})

    assert (free.gpus, free.cover_s) == (4, 8.0)
    assert lent == SupplyNeed("lent", 0, 0, 0.0, 0.0, 0)


def test_spares_are_lent_where_keeping_them_costs_more_than_taking_them_back() -> None:
    """All paths need 3 GPUs from 4 s on; nine are free, and no path needs the other six."""
    (need,) = needs((spec(),), surge(3.0, from_step=2), have={"free": 9})

    assert (need.gpus, need.held) == (3, 3)


def test_spares_are_kept_where_they_are_soon_needed_again() -> None:
    """On 80% of the paths in 8 to 16 s, too few for the need: 80% of 12 s and 20% of 32 s against 80% of 50."""
    back = SupplyStep("lent", LeadTime((8.0,)), 0.0, taking_cost=50.0)
    required = surge(5.0, range(0, 80), from_step=4)

    (need,) = needs((spec(miss_cost=0.01),), required, supply=(SPARE, back), have={"free": 9})

    assert (need.gpus, need.held) == (0, 5)


def test_without_targets_nothing_is_kept() -> None:
    none = supply_needs(excess_of((), ()), STEP_ENDS_S, (SPARE, LENT), 3.0, {"free": 3})

    assert none == (SupplyNeed("free", 0, 0, 0.0, 0.0, 0),)


def test_excess_counts_whole_replicas_of_several_gpus() -> None:
    """2.2 replicas above 3 active ones are 3 replicas of 4 GPUs."""
    assert excess_gpus(np.full((1, 1, 1), 5.2), np.array([3.0]), 4).item() == 12.0


def test_excess_forgives_rounding_but_no_need() -> None:
    assert excess_gpus(np.array([[5.0000002, 5.01]], np.float32), np.array([5.0]), 4).tolist() == [[0.0, 4.0]]


def test_a_replica_of_four_gpus_needs_a_whole_group_of_four() -> None:
    (need,) = needs((spec(gpus=4),), surge(0.5))

    assert (need.gpus, need.shape) == (4, 4)


def test_the_shape_is_that_of_the_greatest_replica_that_the_number_relies_on() -> None:
    """The replica of 8 GPUs is short on too few paths to be given spares, so nothing is kept whole for it."""
    rare = surge(1.0, range(0, 1))

    (need,) = needs((spec("a", gpus=2), spec("b", gpus=8, miss_cost=0.1)), surge(1.0), rare)

    assert (need.gpus, need.shape) == (2, 2)


counts = st.lists(st.integers(0, 5), min_size=3, max_size=3)


@given(st.lists(counts, min_size=1, max_size=6), st.permutations([1, 2, 4, 8]).map(lambda sizes: sizes[:3]))
def test_every_mix_that_a_number_covers_fits_into_pieces_of_its_shape(mixes: list[list[int]], sizes: list[int]) -> None:
    """One path a mix of replicas, all covered. GPUs are kept as the shape asks: greatest pieces first."""
    targets = tuple(spec(f"t{i}", gpus=g) for i, g in enumerate(sizes))
    required = np.repeat(np.array(mixes, float).T[:, :, None], len(STEP_ENDS_S), axis=2)
    costless = SupplyStep("free", LeadTime((0.0,)), 0.0)

    need = supply_needs(excess_of(targets, required, len(mixes)), STEP_ENDS_S, (costless, LENT), 3.0, {})[0]

    for mix in mixes:
        pieces = [need.shape] * (need.gpus // need.shape) if need.shape else []
        rest = need.gpus - sum(pieces)
        pieces += [p for p in (4, 2, 1) if rest & p]
        for size in sorted((g for n, g in zip(mix, sizes, strict=True) for _ in range(n)), reverse=True):
            piece = next(i for i, left in enumerate(pieces) if left >= size)
            pieces[piece] -= size


required_paths = st.lists(
    st.lists(st.integers(0, 9), min_size=len(STEP_ENDS_S), max_size=len(STEP_ENDS_S)), min_size=1, max_size=8
)


@given(required_paths, st.integers(0, 30), st.integers(0, 30), st.booleans(), st.booleans())
def test_what_is_held_covers_the_need_up_to_every_step_and_is_never_more_than_there_is_or_is_needed(
    paths: list[list[int]], free: int, lent: int, dear: bool, pooled: bool
) -> None:
    required = np.array([paths, paths], float)
    supply = (SPARE, DEAR_LENT if dear else LENT, NODE)
    targets = (spec("a"), spec("b", gpus=2))

    have = {"free": free, "lent": lent}
    found = supply_needs(excess_of(targets, required, len(paths)), STEP_ENDS_S, supply, 3.0, have, pooled=pooled)

    gpus = list(accumulate(n.gpus for n in found))
    held = list(accumulate(n.held for n in found))
    assert all(n.gpus >= 0 and n.held >= 0 for n in found)
    assert all(h >= g for h, g in zip(held, gpus, strict=True))
    assert all(h <= max(g, there) for h, g, there in zip(held, gpus, (free, free + lent), strict=True))
    assert gpus[-1] <= 3 * int(required.max())


@given(required_paths, st.integers(0, 5))
def test_more_required_of_alike_targets_never_needs_fewer_gpus_up_to_any_step(
    paths: list[list[int]], more: int
) -> None:
    required = np.array([paths, paths], float)
    supply, targets = (SPARE, DEAR_LENT, NODE), (spec("a"), spec("b"))

    less = needs(targets, *required, supply=supply)
    most = needs(targets, *(required + more), supply=supply)

    pairs = zip(accumulate(n.gpus for n in less), accumulate(n.gpus for n in most), strict=True)
    assert all(a <= b for a, b in pairs)


@given(st.permutations(range(4)))
def test_the_order_of_targets_does_not_matter(order: list[int]) -> None:
    targets = [spec(f"t{i}", gpus=(1, 2, 4, 2)[i], miss_cost=1.0 + i) for i in range(4)]
    paths = [surge(float(i + 1), range(10 * i, 10 * i + 30)) for i in range(4)]

    assert needs(tuple(targets[i] for i in order), *(paths[i] for i in order)) == needs(tuple(targets), *paths)
