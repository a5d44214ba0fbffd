"""Demand by target key: rows that stay with their targets, unknown that is not zero, backlogs and ratings."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.config import ManagedTarget, ReconcileConfig
from autoscaler.demand import DRAINING_SHARE, DemandState, absorb, aligned, no_demand, serving_replicas
from autoscaler.ports import MetricFrame
from policies.arrays import FloatArray
from policies.capacity import WorkRate
from policies.keys import TargetKey
from policies.types import Phase, PoolSpec, ReplicaView
from simulations.world.metrics import COLUMNS
from tests.autoscaler.quiet_pools import MODEL, SUPPLY, key, managed

NAMES = "abcde"
TOKENS = WorkRate(per_request_s=0.1, per_prompt_token_s=0.001, per_output_token_s=0.01)
UNKNOWN = float("nan")


def config(*targets: ManagedTarget, window_s: float = 8.0, standing_s: float = 4.0) -> ReconcileConfig:
    return ReconcileConfig(PoolSpec("pool", MODEL, SUPPLY), targets, window_s=window_s, standing_s=standing_s)


def frame(start_s: float, rows: dict[str, dict[str, list[float]]]) -> MetricFrame:
    """Samples of one second by target and column; a column that is not named is zero."""
    samples = len(next(iter(next(iter(rows.values())).values())))
    zeros = [0.0] * samples
    columns: dict[str, FloatArray] = {c: np.array([row.get(c, zeros) for row in rows.values()]) for c in COLUMNS}
    return MetricFrame(keys=tuple(map(key, rows)), start_s=start_s, period_s=1.0, **columns)


def row(state: DemandState, of: TargetKey) -> tuple[Any, ...]:
    """All that the state holds of one target, as bytes."""
    i = state.row(of)
    held = (state.prompt.mean, state.prompt.weight, state.output.mean, state.output.weight, state.rating.share)
    windows = (state.demand, state.concurrency, state.backlog, state.newest_s)
    return tuple(values[i].tobytes() for values in (*held, *windows))


def load(name: str, second: int) -> dict[str, list[float]]:
    """One second of a target's own load: a function of its name and the moment alone."""
    random = np.random.default_rng([NAMES.index(name), second])
    offered, queued = random.integers(0, 50), random.integers(0, 20)
    lengths = {
        "prompt_tokens": offered * 60.0,
        "completed_requests": 5.0,
        "output_tokens": 5.0 * random.integers(5, 20),
    }
    missing = random.random() < 0.2
    values: dict[str, float] = {"offered_requests": float(offered), "queued": float(queued), "running": 3.0, **lengths}
    return {c: [UNKNOWN if missing else float(v)] for c, v in values.items()}


members = st.lists(st.sampled_from(NAMES), max_size=5, unique=True)


@given(st.lists(members, min_size=1, max_size=12))
def test_whatever_joins_and_leaves_a_targets_row_is_as_if_it_were_alone(present: list[list[str]]) -> None:
    """Sets of targets second by second, in any order: each row equals that of a state of this target only."""
    together = no_demand()
    alone: dict[str, DemandState] = {}
    for second, names in enumerate(present):
        targets = {name: managed(name, work=TOKENS) for name in names}
        seen = {name: load(name, second) for name in names} or {"z": {"queued": [0.0]}}
        together, _ = absorb(together, config(*targets.values()), frame(second, seen), np.full(len(names), 2.0))
        alone = {name: alone.get(name, no_demand()) for name in names}
        for name in names:
            alone[name], _ = absorb(
                alone[name], config(targets[name]), frame(second, {name: seen[name]}), np.array([2.0])
            )
        assert together.keys == tuple(map(key, names))
        for name in names:
            of = row(together, key(name))
            # A target that joins late has unknown samples where the others have their past.
            mine, theirs = alone[name].demand[0], together.demand[together.row(key(name))]
            assert np.isnan(theirs[: len(theirs) - len(mine)]).all()
            assert theirs[len(theirs) - len(mine) :].tobytes() == mine.tobytes()
            assert of[:5] == row(alone[name], key(name))[:5]
            assert of[8] == row(alone[name], key(name))[8]


def test_aligning_to_the_same_targets_changes_nothing_and_copies_nothing() -> None:
    of = config(managed("a"), managed("b"))
    state, _ = absorb(no_demand(), of, frame(0.0, {"a": load("a", 0), "b": load("b", 0)}), np.ones(2))

    assert aligned(state, of.targets) is state


def test_a_target_that_joins_begins_from_its_first_guesses() -> None:
    """Its lengths are guesses of weight one, its rating is whole, its past unknown, its backlog none."""
    state, _ = absorb(
        no_demand(), config(managed("a")), frame(0.0, {"a": {"offered_requests": [5.0, 5.0]}}), np.ones(1)
    )
    joined = aligned(state, (managed("b"), managed("a")))

    assert joined.keys == (key("b"), key("a"))
    assert row(joined, key("a")) == row(state, key("a"))
    i = joined.row(key("b"))
    assert (joined.prompt.mean[i], joined.prompt.weight[i], joined.output.mean[i]) == (50.0, 1.0, 10.0)
    assert (joined.rating.share[i], joined.newest_s[i]) == (1.0, -np.inf)
    assert np.isnan(joined.demand[i]).all()
    assert np.isnan(joined.concurrency[i]).all()
    assert not joined.backlog[i].any()


def test_a_target_that_comes_back_has_forgotten_everything() -> None:
    both, one = config(managed("a"), managed("b")), config(managed("a"))
    state, _ = absorb(no_demand(), both, frame(0.0, {"a": load("a", 0), "b": load("b", 1)}), np.ones(2))
    state = aligned(aligned(state, one.targets), both.targets)

    assert row(state, key("b"))[:8] == row(aligned(no_demand(), both.targets), key("b"))[:5] + row(state, key("b"))[5:8]
    assert np.isnan(state.demand[state.row(key("b"))]).all()
    with pytest.raises(ValueError, match="not in tuple"):
        aligned(state, one.targets).row(key("b"))


def test_an_empty_frame_changes_nothing_but_whose_rows_there_are() -> None:
    of = config(managed("a"))
    state, _ = absorb(no_demand(), of, frame(0.0, {"a": load("a", 0)}), np.ones(1))
    same, samples = absorb(state, of, frame(1.0, {"a": {"queued": []}}), np.ones(1))

    assert same is state
    assert samples.shape == (1, 0)


COUNTS = ("offered_requests", "queued")
LENGTHS = ("prompt_tokens", "queued_prompt_tokens", "output_tokens", "completed_requests", "running")


@pytest.mark.parametrize("missing", list(product([False, True], repeat=len(COLUMNS))))
def test_unknown_is_not_zero_whichever_columns_are_missing(missing: tuple[bool, ...]) -> None:
    """20 offered and 10 queued requests, of 50 prompt and 10 output tokens each, seen or priced at the mean alike.

    Demand is unknown only without the offered count; the backlog then stands on its own count; without that the one
    before stands. Concurrency is known with both of its parts.
    """
    whole = {
        "offered_requests": 20.0,
        "prompt_tokens": 1000.0,
        "completed_requests": 20.0,
        "output_tokens": 200.0,
        "running": 7.0,
        "queued": 10.0,
        "queued_prompt_tokens": 500.0,
    }
    gone = {c for c, is_missing in zip(COLUMNS, missing, strict=True) if is_missing}
    second = {c: [UNKNOWN if c in gone else whole[c]] for c in COLUMNS}
    of = config(managed("a", work=TOKENS))
    before, _ = absorb(
        no_demand(), of, frame(0.0, {"a": {"queued": [4.0], "queued_prompt_tokens": [UNKNOWN]}}), np.ones(1)
    )
    before = replace(before, rating=replace(before.rating, share=np.ones(1)))
    state, samples = absorb(before, of, frame(1.0, {"a": second}), np.zeros(1))

    each_s = 0.1 + 50 * 0.001 + 10 * 0.01
    expected = UNKNOWN if "offered_requests" in gone else 20 * each_s
    assert samples[0].tolist() == pytest.approx([expected], nan_ok=True)
    assert state.demand[0, -1] == pytest.approx(expected, nan_ok=True)
    assert state.newest_s[0] == (1.0 if "offered_requests" in gone else 2.0)
    assert state.backlog[0, -1] == pytest.approx((4 if "queued" in gone else 10) * each_s)
    together = UNKNOWN if {"running", "queued"} & gone else 17.0
    assert state.concurrency[0, -1] == pytest.approx(together, nan_ok=True)


def test_a_target_that_the_frame_lacks_is_unknown() -> None:
    of = config(managed("a"), managed("b"))
    state, samples = absorb(no_demand(), of, frame(0.0, {"a": {"offered_requests": [10.0]}}), np.ones(2))

    assert samples[0].tolist() == [1.0]
    assert np.isnan(samples[1]).all()
    assert np.isnan(state.demand[1]).all()
    assert state.newest_s.tolist() == [1.0, -np.inf]


def test_a_missing_queue_repeats_the_one_before_within_and_across_frames() -> None:
    """40 queued are 4 replica-seconds; they stand through three seconds of silence, and end when zero is seen."""
    of = config(managed("a"))
    state, _ = absorb(no_demand(), of, frame(0.0, {"a": {"queued": [40.0, UNKNOWN]}}), np.zeros(1))
    assert state.backlog[0].tolist() == pytest.approx([0.0, 4.0, 4.0])

    state, _ = absorb(state, of, frame(2.0, {"a": {"queued": [UNKNOWN, UNKNOWN, 0.0]}}), np.zeros(1))
    assert state.backlog[0].tolist() == pytest.approx([4.0, 4.0, 4.0, 0.0])


def test_windows_keep_the_newest_samples_and_cannot_be_written() -> None:
    of = config(managed("a"), window_s=3.0, standing_s=2.0)
    rates = {"offered_requests": [10.0, 20.0, 30.0, 40.0, 50.0], "queued": [0.0, 0.0, 10.0, 20.0, 30.0]}
    state, _ = absorb(no_demand(), of, frame(0.0, {"a": rates}), np.zeros(1))

    assert state.demand[0].tolist() == [3.0, 4.0, 5.0]
    assert state.concurrency[0].tolist() == [10.0, 20.0, 30.0]
    assert state.backlog[0].tolist() == pytest.approx([2.0, 3.0])
    with pytest.raises(ValueError, match="read-only"):
        state.demand[0, 0] = 0.0


def test_under_saturation_a_replica_is_rated_by_what_it_takes_up_and_demand_counts_in_those_replicas() -> None:
    """Demand of 2 on two replicas while the queue grows by one replica-second a second: each does half its rating."""
    of = config(managed("a"))
    state = aligned(no_demand(), of.targets)
    samples: FloatArray = np.empty((1, 0))
    for second in range(0, 120, 2):
        queued = [10.0 * (second + 1), 10.0 * (second + 2)]
        seen = {"a": {"offered_requests": [20.0, 20.0], "queued": queued}}
        state, samples = absorb(state, of, frame(second, seen), np.array([2.0]))

    assert state.rating.share[0] == pytest.approx(0.5, abs=0.01)
    assert samples[0].tolist() == pytest.approx([2.0 / state.rating.share[0]] * 2)


def test_a_rating_is_not_learnt_without_replicas_or_demand() -> None:
    of = config(managed("a"))
    state = aligned(no_demand(), of.targets)
    for offered, serving in ((20.0, 0.0), (UNKNOWN, 2.0)):
        seen = {"a": {"offered_requests": [offered] * 4, "queued": [500.0] * 4}}
        after, _ = absorb(state, of, frame(0.0, seen), np.array([serving]))
        assert after.rating.share.tolist() == [1.0]


def test_active_replicas_serve_and_draining_ones_by_half() -> None:
    phases = (Phase.ACTIVE, Phase.ACTIVE, Phase.DRAINING, Phase.STARTING, Phase.PENDING, Phase.PARKED, Phase.STANDBY)
    views = tuple(ReplicaView(f"a-{i}", key("a"), phase, "n", 0.0) for i, phase in enumerate(phases))

    assert serving_replicas({key("a"): views}, (key("b"), key("a"))).tolist() == [0.0, 2.0 + DRAINING_SHARE]
