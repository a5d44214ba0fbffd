"""The forecaster's state is a value: neither how samples are cut nor which other targets exist changes a byte."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.forecast import DemandFrame, PathState, SamplePathForecaster
from policies.arrays import FloatArray
from policies.keys import TargetKey
from tests.autoscaler.forecast_worlds import Loads, fed, forecaster, frame, key, poisson

SECONDS = 200
NAMES = ("a", "b", "c")
A, B, C = (key(name) for name in NAMES)
OF = forecaster(n_paths=40)


@st.composite
def loads(draw: st.DrawFn) -> dict[TargetKey, FloatArray]:
    """Three targets over 200 s, each at a level of its own, with lost samples here and there."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found = {}
    for name in NAMES:
        load = random.poisson(draw(st.sampled_from([0.0, 0.5, 20.0, 300.0])), SECONDS).astype(float)
        load[random.random(SECONDS) < draw(st.sampled_from([0.0, 0.01, 0.3]))] = np.nan
        found[key(name)] = load
    return found


cuts = st.lists(st.integers(1, SECONDS - 1), max_size=8).map(lambda c: [0, *sorted(set(c)), SECONDS])


def taken(state: PathState, keys: tuple[TargetKey, ...], horizon_s: float = 16.0) -> FloatArray:
    return OF.paths(state, keys, float(SECONDS), horizon_s).paths


def pieces(given_loads: Loads, edges: list[int]) -> PathState:
    state = OF.initial()
    for begin, end in itertools.pairwise(edges):
        state = OF.absorb(state, frame(given_loads, begin, end))
    return state


@settings(max_examples=30, deadline=None)
@given(loads(), cuts)
def test_one_long_frame_is_the_same_as_its_pieces(given_loads: Loads, edges: list[int]) -> None:
    whole = OF.bootstrap(frame(given_loads, 0, SECONDS))

    assert np.array_equal(taken(whole, (A, B, C)), taken(pieces(given_loads, edges), (A, B, C)))


@settings(max_examples=30, deadline=None)
@given(loads(), cuts, st.integers(0, SECONDS - 2))
def test_another_target_changes_no_byte_of_the_others_whenever_it_joins(
    given_loads: Loads, edges: list[int], joins: int
) -> None:
    alone = pieces({A: given_loads[A]}, edges)
    state = OF.initial()
    for begin, end in itertools.pairwise(edges):
        both = given_loads if begin >= joins else {A: given_loads[A]}
        state = OF.absorb(state, frame(both, begin, end))

    assert np.array_equal(taken(alone, (A,)), taken(state, (A,)))


@settings(max_examples=30, deadline=None)
@given(loads(), st.permutations(NAMES), st.permutations(NAMES))
def test_the_order_of_keys_orders_rows_and_nothing_else(
    given_loads: Loads, absorbed: list[str], asked: list[str]
) -> None:
    state = OF.bootstrap(frame(given_loads, 0, SECONDS))
    other = OF.bootstrap(frame({key(n): given_loads[key(n)] for n in absorbed}, 0, SECONDS))
    rows = tuple(key(n) for n in asked)

    assert np.array_equal(taken(other, rows), OF.paths(state, (A, B, C), SECONDS, 16.0).rows(rows).paths)


@settings(max_examples=30, deadline=None)
@given(loads(), st.integers(1, SECONDS - 1))
def test_a_target_that_leaves_changes_no_byte_of_the_others_and_returns_as_new(given_loads: Loads, leaves: int) -> None:
    without = {k: load for k, load in given_loads.items() if k != B}
    stayed = OF.bootstrap(frame(given_loads, 0, SECONDS))
    state = OF.retain(OF.bootstrap(frame(given_loads, 0, leaves)), frozenset({A, C}))
    left = OF.absorb(state, frame(without, leaves, SECONDS))
    returned = OF.absorb(state, frame(given_loads, leaves, SECONDS))
    silent = {**given_loads, B: np.where(np.arange(SECONDS) < leaves, np.nan, given_loads[B])}

    assert np.array_equal(taken(stayed, (A, C)), taken(left, (A, C)))
    assert np.array_equal(taken(stayed, (A, C)), taken(returned, (A, C)))
    assert np.array_equal(taken(OF.bootstrap(frame(silent, 0, SECONDS)), (B,)), taken(returned, (B,)))
    assert B not in OF.paths(left, (A, B), float(SECONDS), 16.0).known


@settings(max_examples=30, deadline=None)
@given(loads(), st.lists(st.floats(1.0, 400.0), min_size=1, max_size=3))
def test_reading_changes_nothing(given_loads: Loads, horizons_s: list[float]) -> None:
    """Other horizons in between, and a state absorbed from this one, leave its paths as they were."""
    state = OF.bootstrap(frame(given_loads, 0, SECONDS))
    first = taken(state, (A, B, C)).copy()
    for horizon_s in horizons_s:
        taken(state, (A, B, C), horizon_s)
    later = OF.absorb(state, DemandFrame(float(SECONDS), 1.0, {A: np.full(90, 7.0)}))
    taken(later, (A, B, C))

    assert np.array_equal(taken(state, (A, B, C)), first)


@settings(max_examples=30, deadline=None)
@given(loads(), st.integers(1, SECONDS - 1), st.integers(0, SECONDS))
def test_samples_absorbed_before_are_ignored(given_loads: Loads, until: int, again: int) -> None:
    once = OF.bootstrap(frame(given_loads, 0, SECONDS))
    state = OF.bootstrap(frame(given_loads, 0, until))
    state = OF.absorb(state, frame(given_loads, 0, min(again, until)))
    state = OF.absorb(state, frame(given_loads, min(again, until), SECONDS))

    assert state.until_s == SECONDS
    assert np.array_equal(taken(once, (A, B, C)), taken(state, (A, B, C)))


@settings(max_examples=30, deadline=None)
@given(loads(), st.integers(1, 150), st.integers(1, 49))
def test_absent_targets_absent_frames_and_nan_are_one_gap(given_loads: Loads, begin: int, length: int) -> None:
    end = begin + length
    gap = (np.arange(SECONDS) >= begin) & (np.arange(SECONDS) < end)
    marked = OF.bootstrap(frame({k: np.where(gap, np.nan, load) for k, load in given_loads.items()}, 0, SECONDS))
    skipped = OF.absorb(OF.bootstrap(frame(given_loads, 0, begin)), frame(given_loads, end, SECONDS))
    state = OF.bootstrap(frame({A: given_loads[A]}, 0, begin))
    state = OF.absorb(state, frame({B: np.full(SECONDS, np.nan)}, begin, end))
    absent = OF.absorb(state, frame({A: given_loads[A]}, end, SECONDS))

    assert np.array_equal(taken(marked, (A, B, C)), taken(skipped, (A, B, C)))
    assert np.array_equal(taken(marked, (A,)), taken(absent, (A,)))


def test_a_target_that_joins_leaves_residuals_and_levels_of_twenty_others() -> None:
    of = forecaster(n_paths=40)
    old = {key(str(i)): poisson(5.0 + i, 600, seed=i) for i in range(20)}
    state = fed(of, old)
    new = {**{k: load[:100] for k, load in old.items()}, key("new"): poisson(9.0, 100, seed=99)}

    with_new = of.absorb(state, DemandFrame(600.0, 1.0, new))
    without = of.absorb(state, DemandFrame(600.0, 1.0, {k: load[:100] for k, load in old.items()}))

    keys = tuple(old)
    paths = of.paths(with_new, keys, 700.0, 64.0).paths
    assert np.array_equal(paths, of.paths(without, keys, 700.0, 64.0).paths)
    assert paths.std(axis=1).min() > 0.1


def test_two_seconds_share_all_history_with_the_state_before() -> None:
    state = fed(OF, {A: poisson(20.0, 700, seed=1)})

    after = OF.absorb(state, DemandFrame(700.0, 1.0, {A: np.array([20.0, 21.0])}))

    assert (len(state.recent), len(after.recent)) == (20, 21)
    assert all(new is old for new, old in zip(after.recent, state.recent, strict=False))
    assert after.minutes is state.minutes
    assert after.fit is state.fit


def test_history_is_bounded_by_its_memory() -> None:
    state = fed(OF, {A: poisson(20.0, 3 * 3600, seed=1)}, every=600)

    assert sum(m.block.n_samples for m in state.minutes) == 3600


def test_another_sample_period_is_refused_aloud() -> None:
    state = OF.bootstrap(DemandFrame(0.0, 1.0, {A: np.ones(10)}))

    with pytest.raises(ValueError, match=r"samples of 5.0 s after samples of 1.0 s; bootstrap anew"):
        OF.absorb(state, DemandFrame(10.0, 5.0, {A: np.ones(10)}))


def test_the_state_that_knows_nothing_answers_with_unknown_targets() -> None:
    of = SamplePathForecaster(seed=1)

    paths = of.paths(of.initial(), (A, B), 0.0, 8.0)

    assert not paths.known
    assert (paths.paths.shape, paths.paths.dtype) == ((2, 1000, 6), np.dtype(np.float32))
