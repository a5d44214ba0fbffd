"""What goes short when the GPUs do not suffice."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.budget import Allotment, allot
from policies.types import PARKED, TargetSpec
from tests.policies.makers import key, spec, with_parked


def cut(
    targets: tuple[TargetSpec, ...],
    wanted: list[int],
    budget: int,
    parked: list[int] | None = None,
    supply: dict[str, int] | None = None,
    required: list[float] | None = None,
    known: set[str] | None = None,
) -> Allotment:
    """Allot with every path requiring what is wanted, and every target known, unless said otherwise.

    What an unknown target wants, it holds.
    """
    warm = {t.key: {PARKED: n} for t, n in zip(targets, parked or [], strict=False)}
    paths = np.repeat(np.array(required if required is not None else wanted, np.float32)[:, None], 50, axis=1)
    wants = {t.key: n for t, n in zip(targets, wanted, strict=True)}
    blind = {key: n for key, n in wants.items() if known is not None and key.name not in known}
    return allot(targets, wants, warm, supply or {}, paths, blind, budget)


def active(allotment: Allotment) -> dict[str, int]:
    return {k.name: n for k, n in allotment.active.items()}


def test_what_fits_is_left_alone() -> None:
    target = spec(rungs=with_parked())

    fits = cut((target,), [34], budget=60, parked=[46], supply={"free": 3, "lent": 20})

    assert fits == Allotment({key(): 34}, {key(): {PARKED: 46}}, {"free": 3, "lent": 20})


def test_parked_replicas_count_by_their_share_of_a_gpu() -> None:
    """34 active and 46 parked at a twentieth of a GPU are 36.3: 23 whole GPUs of 60 are left to keep free."""
    target = spec(rungs=with_parked())

    assert cut((target,), [34], budget=60, parked=[46], supply={"free": 26}).supply == {"free": 23}


def test_shares_that_add_up_to_whole_gpus_leave_no_crumb() -> None:
    """20 x 0.05 is one GPU exactly, however floats add it up."""
    target = spec(rungs=with_parked())

    assert cut((target,), [4], budget=6, parked=[20], supply={"free": 1}).supply == {"free": 1}


def test_the_farthest_idle_gpus_go_first_then_the_nearer_then_parked_then_active_replicas() -> None:
    """4 active, 40 parked (2 GPUs), 3 free, 3 lent, as the budget shrinks from all of them."""
    target = spec(rungs=with_parked())

    def at(budget: int) -> tuple[int, int, int, int]:
        got = cut((target,), [4], budget, parked=[40], supply={"free": 3, "lent": 3})
        return got.active[key()], got.warm[key()][PARKED], got.supply["free"], got.supply["lent"]

    assert [at(b) for b in (12, 10, 8, 6, 5, 4, 2)] == [
        (4, 40, 3, 3),
        (4, 40, 3, 1),
        (4, 40, 2, 0),
        (4, 40, 0, 0),
        (4, 20, 0, 0),
        (4, 0, 0, 0),
        (2, 0, 0, 0),
    ]


def test_under_shortage_gpus_go_where_a_miss_costs_most() -> None:
    """Both want 10 of 12 GPUs; b's misses cost ten times as much, so b gets its ten."""
    assert active(cut((spec("a"), spec("b", miss_cost=10.0)), [10, 10], budget=12)) == {"a": 2, "b": 10}


def test_worth_is_counted_per_gpu() -> None:
    """A replica of 4 GPUs that serves as much as one of 1 GPU comes after it."""
    assert active(cut((spec("a", gpus=4), spec("b")), [3, 8], budget=13)) == {"a": 1, "b": 8}


def test_replicas_that_few_paths_need_come_after_those_that_all_need() -> None:
    assert active(cut((spec("a"), spec("b")), [10, 10], budget=12, required=[3.0, 10.0])) == {"a": 3, "b": 9}


def test_equal_targets_go_short_in_turn() -> None:
    assert active(cut((spec("a"), spec("b")), [10, 10], budget=11)) == {"a": 6, "b": 5}


def test_minimums_come_before_any_worth() -> None:
    targets = (spec("a", least=3), spec("b", miss_cost=100.0))

    assert active(cut(targets, [5, 10], budget=8)) == {"a": 3, "b": 5}


def test_minimums_that_do_not_fit_are_cut_turn_by_turn() -> None:
    targets = (spec("a", least=4), spec("b", least=4))

    assert active(cut(targets, [4, 4], budget=5)) == {"a": 3, "b": 2}


def test_a_target_of_unknown_demand_keeps_what_it_holds_while_others_are_cut_to_their_minimum() -> None:
    """Its paths are all zero, which says nothing: it keeps 6, and b's dear misses get what is left."""
    targets = (spec("a"), spec("b", miss_cost=100.0))

    assert active(cut(targets, [6, 10], budget=9, required=[0.0, 10.0], known={"b"})) == {"a": 6, "b": 3}


def test_a_replica_larger_than_the_whole_budget_starves_no_other_target() -> None:
    targets = (spec("a", gpus=8, least=1, miss_cost=100.0), spec("b"))

    assert active(cut(targets, [2, 5], budget=4)) == {"a": 0, "b": 4}


def test_unknown_targets_keep_what_they_hold_before_the_minimums_of_others() -> None:
    targets = (spec("a"), spec("b", least=4))

    assert active(cut(targets, [3, 4], budget=5, required=[0.0, 4.0], known={"b"})) == {"a": 3, "b": 2}


def test_unknown_targets_grow_to_their_minimum_only_after_others_kept_what_they_hold() -> None:
    """b holds its 1 replica; a, which holds none, would like its minimum of 1 on the same 2 GPUs."""
    targets, wants = (spec("a", gpus=2, least=1), spec("b")), [1, 1]
    blind = {targets[0].key: 0, targets[1].key: 1}
    paths = np.zeros((2, 50), np.float32)

    got = allot(targets, dict(zip((t.key for t in targets), wants, strict=True)), {}, {}, paths, blind, 2)

    assert active(got) == {"a": 0, "b": 1}


def test_what_unknown_targets_hold_stays_even_beyond_the_budget() -> None:
    """a holds 6 GPUs of a budget of 4, in replicas of which none fits into the budget of 1: b gets nothing."""
    targets = (spec("a", gpus=2), spec("b", least=1))

    assert active(cut(targets, [3, 4], budget=4, known={"b"})) == {"a": 3, "b": 0}
    assert active(cut(targets, [3, 4], budget=1, known={"b"})) == {"a": 3, "b": 0}


def test_a_replica_that_does_not_fit_is_not_replaced_by_a_smaller_one() -> None:
    """With one GPU more the replica of 4 fits, and what the smaller target had got would be taken away."""
    targets = (spec("a", gpus=4, miss_cost=100.0), spec("b"))

    assert active(cut(targets, [2, 5], budget=8)) == {"a": 1, "b": 1}
    assert active(cut(targets, [2, 5], budget=9)) == {"a": 2, "b": 1}


def test_a_tier_that_the_target_does_not_have_is_refused() -> None:
    with pytest.raises(KeyError, match="test/a has no tier parked"):
        cut((spec(),), [1], budget=10, parked=[1])


def test_an_empty_pool_gives_its_budget_to_idle_gpus() -> None:
    assert cut((), [], budget=5, supply={"free": 9}) == Allotment({}, {}, {"free": 5})


fleets = st.lists(
    st.tuples(
        st.integers(1, 4),  # GPUs a replica
        st.integers(0, 3),  # minimum
        st.integers(0, 8),  # wanted above it
        st.integers(0, 30),  # parked
        st.booleans(),  # known
        st.floats(0.0, 12.0),  # required
    ),
    min_size=1,
    max_size=5,
)
SHARE = Fraction(1, 20)


def ask(fleet: list[tuple[int, int, int, int, bool, float]], budget: int, order: list[int]) -> Allotment:
    targets = tuple(spec(f"t{i}", gpus=fleet[i][0], least=fleet[i][1], rungs=with_parked(fleet[i][0])) for i in order)
    return cut(
        targets,
        [fleet[i][1] + fleet[i][2] for i in order],
        budget,
        [fleet[i][3] for i in order],
        {"free": 5, "lent": 7},
        [fleet[i][5] for i in order],
        {f"t{i}" for i in order if fleet[i][4]},
    )


def parts(got: Allotment) -> list[int]:
    """Every count of an allotment, in one order."""
    warm = [got.warm[k][PARKED] for k in sorted(got.warm)]
    return [*(got.active[k] for k in sorted(got.active)), *warm, *got.supply.values()]


@given(fleets, st.integers(0, 90), st.integers(0, 20))
def test_the_budget_is_kept_exactly_and_a_larger_one_takes_nothing_from_anything(
    fleet: list[tuple[int, int, int, int, bool, float]], budget: int, more: int
) -> None:
    """From the budget on in which the largest replica fits."""
    order = list(range(len(fleet)))
    budget = max(budget, *(f[0] for f in fleet))

    got, wider = ask(fleet, budget, order), ask(fleet, budget + more, order)

    used = sum(got.supply.values()) + sum(
        fleet[i][0] * (got.active[key(f"t{i}")] + SHARE * got.warm[key(f"t{i}")][PARKED]) for i in order
    )
    stays = sum(f[0] * (f[1] + f[2]) for f in fleet if not f[4])
    assert used <= max(budget, stays)
    assert all(a <= b for a, b in zip(parts(got), parts(wider), strict=True))


@given(fleets, st.integers(0, 90))
def test_the_order_of_cuts_holds_for_any_fleet(
    fleet: list[tuple[int, int, int, int, bool, float]], budget: int
) -> None:
    got = ask(fleet, max(budget, *(f[0] for f in fleet)), list(range(len(fleet))))
    rows = [(f, got.active[key(f"t{i}")], got.warm[key(f"t{i}")][PARKED]) for i, f in enumerate(fleet)]
    all_active = all(n == f[1] + f[2] for f, n, _ in rows)
    all_warm = all(w == f[3] for f, _, w in rows)

    assert all(n <= f[1] + f[2] and w <= f[3] for f, n, w in rows)
    assert all_active or not any(w for _, _, w in rows)
    assert (all_active and all_warm) or not any(got.supply.values())
    assert got.supply["free"] == 5 or got.supply["lent"] == 0
    known, unknown = [r for r in rows if r[0][4]], [r for r in rows if not r[0][4]]
    if any(n < f[1] for f, n, _ in known):
        assert all(n <= f[1] for f, n, _ in known)
    assert all(n == f[1] + f[2] for f, n, _ in unknown)


@given(fleets, st.integers(0, 90))
def test_ties_fall_to_the_key_and_never_to_the_position(
    fleet: list[tuple[int, int, int, int, bool, float]], budget: int
) -> None:
    order = list(range(len(fleet)))

    assert ask(fleet, budget, order) == ask(fleet, budget, order[::-1])
